"""Files that people edit, whatever their editor put before the text, and names of any bytes."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from lymphinfer.errors import DataError
from lymphinfer.orion.gates_file import read_gates
from lymphinfer.textfiles import find_shown, json_bytes, read_text, read_toml, shown
from lymphinfer.training.config_file import load_config

TEXT = "# größe\na = 1\r\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_every_mark_is_read(tmp_path, encoding):
    path = tmp_path / "a.toml"
    path.write_bytes(TEXT.encode(encoding))
    assert read_text(path, DataError) == TEXT
    assert read_toml(path, DataError) == {"a": 1}


def test_another_encoding_is_named_with_its_line(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"a = 1\n# gr\xf6\xdfe\n")
    with pytest.raises(
        DataError, match=r"a\.toml: the gates file cannot be read: line 2 is not"
    ) as e:
        read_toml(path, DataError, "the gates file")
    assert "größe" in str(e.value) and "save it as UTF-8" in str(e.value)


def test_edited_gates_and_configurations_may_have_a_mark(tmp_path):
    gates = tmp_path / "gates.toml"
    gates.write_bytes('format = "lymphinfer-gates"\nversion = 1\n'.encode("utf-8-sig"))
    assert not read_gates(gates).slides
    config = tmp_path / "config.toml"
    config.write_bytes("[fit]\nepochs = 3\n".encode("utf-8-sig"))
    assert load_config(config).fit.epochs == 3


def test_names_in_json_never_fail_and_stay_different():
    odd, literal = "Gr\udcf6.tif", "Gr\\xf6.tif"
    values = orjson.loads(json_bytes({odd: [odd, literal, Path(odd)]}, default=str))
    assert values == {r"Gr\xf6.tif": [r"Gr\xf6.tif", literal, r"Gr\xf6.tif"]}
    assert shown("a\\b\udcf6") == r"a\\b\xf6"
    assert shown("日本 100%&<.tif") == "日本 100%&<.tif"


def test_a_file_is_found_by_the_name_that_is_shown(tmp_path):
    path = tmp_path / "line\nbreak.tif"
    path.touch()
    assert find_shown(tmp_path, r"line\nbreak.tif") == path
