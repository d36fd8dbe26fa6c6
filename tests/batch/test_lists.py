"""Lists: every spelling that spreadsheets and other machines give them."""

from __future__ import annotations

import os
import sys
import unicodedata

import pytest

from lymphinfer.batch.inputs import find_jobs
from lymphinfer.errors import SlideError
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.slides.remote import remote_address


@pytest.fixture
def listed(tmp_path):
    """Slides of a list with this text; `s.tif` is there, and what else is named."""
    (tmp_path / "s.tif").touch()

    def jobs(text: str | bytes, *names: str):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        table = tmp_path / "l.csv"
        table.write_bytes(text if isinstance(text, bytes) else text.encode())
        return find_jobs(table, tmp_path / "out")

    return jobs


@pytest.mark.parametrize(
    "text",
    [
        '"sep=;"\r\nslide;mpp\r\ns.tif;0,25\r\n',
        "\ufeffsep=,\nslide,mpp\ns.tif,0.25\n",
        "sep=\t\nslide\tmpp\ns.tif\t0,25\n",
        "# from the archive\n\nslide,mpp\ns.tif,0.25\n",
        "slide|mpp\ns.tif|0.25\n",
        'slide,mpp\ns.tif,"0,25"\n',
        "mpp;note;slide\n0,25 um/px;;s.tif;\n;;;\n",
        "slide,mpp,,\ns.tif,2.5e-1,,\n",
        "slide, mpp\n s.tif ,0.25 µm/pixel\n",
        "\xa0Slide\xa0,MPP\ns.tif,0.25\n",
    ],
)
def test_every_dialect_is_read(listed, text):
    (job,) = listed(text)
    assert (job.slide.name, job.mpp) == ("s.tif", 0.25) and job.slide.is_file()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_every_encoding_is_read(listed, encoding):
    (job,) = listed("slide,mpp\r\nMüller.tif,0.25\r\n".encode(encoding), "Müller.tif")
    assert job.slide.is_file()


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_composed_letters_are_found_in_either_form(listed, forms):
    name = "Größe.tif"
    on_disk, in_list = (unicodedata.normalize(form, name) for form in forms)
    (job,) = listed(f"slide\n{in_list}\n", on_disk)
    assert job.slide.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such names")
def test_a_list_may_have_the_bytes_of_a_name_that_is_no_utf8(listed):
    (job,) = listed(b"slide\nGr\xf6.tif\n", os.fsdecode(b"Gr\xf6.tif"))
    assert job.slide.is_file() and "%F6" in job.folder.name


def test_links_names_and_addresses_of_files(listed, tmp_path):
    (tmp_path / "P001.tif").symlink_to(tmp_path / "s.tif")
    address = (tmp_path / "a b.tif").as_uri()
    linked, other = listed(f"slide\nP001.tif\n{address}\n", "a b.tif")
    # A study's own name stays, whatever it leads to.
    assert linked.folder == tmp_path / "out" / "P001"
    assert other.slide == tmp_path / "a b.tif"


def test_a_folder_that_one_row_names_is_not_given_to_another(listed, tmp_path):
    named, other = listed("slide,out\ns.tif,b\nb.tif,\n", "b.tif")
    assert named.folder == tmp_path / "out" / "b" != other.folder


def test_all_problems_are_told_at_once_with_their_lines(listed):
    with pytest.raises(SlideError) as caught:
        listed(
            "slide,mpp,roi\ns.tif,250,\nC:\\x\\s.tif,,\nx.tif,0,25,y\n\\\\server\\s.tif,,\n"
            's.tif,,none.geojson\n"a.tif,,\nb.tif,x,\n'
        )
    message = str(caught.value)
    words = ["7 bad rows", "line 2: mpp 250 is not within 0.1 to 1.0", "line 3: C:\\x\\s.tif is",
             "line 4: 4 fields where the header has 3", "line 5: \\\\server", "line 6: roi",
             "line 7: its quotes", "line 8: mpp 'x'"]  # fmt: skip
    for word in words if os.name != "nt" else words[3:]:
        assert word in message


def test_two_columns_of_one_name_are_refused(listed):
    with pytest.raises(SlideError, match="column mpp stands there twice"):
        listed("slide,mpp,MPP\ns.tif,0.25,0.5\n")


def test_a_spreadsheet_is_told_from_a_list(listed, tmp_path):
    with pytest.raises(SlideError, match="save it as CSV"):
        listed(b"PK\x03\x04rest")
    (tmp_path / "l.xlsx").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(SlideError, match="save it as CSV"):
        find_jobs(tmp_path / "l.xlsx")


def test_slides_that_are_not_there_are_told_before_the_work(listed, caplog):
    jobs = listed("slide\ns.tif\nsub\\gone.tif\n")
    assert len(jobs) == 2
    assert "1 of 2 slides are not there: line 3" in caplog.text


def test_a_row_names_its_tissue_and_its_image(listed, tmp_path):
    first, second = listed(
        "slide,out,roi,tissue,series\ns.tif,,r.json,t.json,1\ns.tif,two,,NA,scan two\n",
        *("r.json", "t.json"),
    )
    assert (first.roi, first.tissue) == tuple(str(tmp_path / n) for n in ("r.json", "t.json"))
    assert (first.series, second.series, second.tissue) == ("1", "scan two", None)
    chosen = first.settings(PredictSettings(tissue="all.json"))
    assert (chosen.tissue, chosen.series) == (str(tmp_path / "t.json"), "1")
    with pytest.raises(SlideError, match=r"line 3: the same slide .* give each of its images an"):
        listed("slide,series\ns.tif,0\ns.tif,1\n")
    with pytest.raises(SlideError, match=r"line 2: tissue .*none.json: no such file"):
        listed("slide,tissue\ns.tif,none.json\n")


def test_addresses_stand_in_a_list_as_they_are(listed, tmp_path, caplog):
    text = "slide,mpp\nhttps://example.org/x/a%20b.svs?key=secret,0.25\n s3://bucket/c.ome.tif ,\n"
    first, second = listed(text)
    assert [remote_address(job.slide) for job in (first, second)] == [
        "https://example.org/x/a%20b.svs?key=secret",
        "s3://bucket/c.ome.tif",
    ]
    assert [job.folder for job in (first, second)] == [tmp_path / "out" / n for n in ("a b", "c")]
    assert "not there" not in caplog.text


def test_columns_that_mean_nothing_are_named_and_a_slip_is_guessed(listed, caplog):
    (job,) = listed("slide,mmp,patient\ns.tif,0.25,17\n")
    assert job.mpp is None
    assert "not used: mmp (is mpp meant?), patient" in caplog.text
    caplog.clear()
    listed("slide,mpp,,\ns.tif,0.25,,\n")
    assert "not used" not in caplog.text
