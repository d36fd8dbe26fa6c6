from __future__ import annotations

import numpy as np
import pytest

from lymphinfer.errors import DataError
from lymphinfer.orion.celltable import ORION_FORMAT, load_cells
from lymphinfer.orion.layout import find_layout, orion_layout, read_layout
from lymphinfer.panel import PANELS, TCELL_PANEL

OWN = """
format = "lymphinfer-cohort"
version = 1
mpp = 0.5
panel = "{panel}"
[image]
channels = ["DAPI", "LCA", "CD3", "Glow", "Empty"]
nuclei = "DAPI"
autofluorescence = "Glow"
blank = "Empty"
blank_max = 900.0
[cells]
id = ""
x = "Centroid X"
y = "Centroid Y"
unit = "um"
origin = "pixel-corner"
intensity = "{{}}: Mean"
columns = {{ Glow = "glow" }}
{markers}
[[slide]]
name = "a"
patient = "p"
he = "a.tif"
cells = "a.csv"
"""
MARKERS = """
[[marker]]
name = "CD45"
channel = "LCA"
color = [1, 2, 3]
[[marker]]
name = "CD3e"
channel = "CD3"
parent = "CD45"
color = [4, 5, 6]
"""


def write(folder, panel="two", markers=MARKERS, **changes):
    text = OWN.format(panel=panel, markers=markers)
    for old, new in changes.items():
        text = text.replace(old, new)
    path = folder / "cohort.toml"
    path.write_text(text)
    return path


def test_orion_is_the_layout_of_a_folder_that_says_nothing(tmp_path):
    layout = find_layout(tmp_path)
    assert layout.is_orion and layout.panel == TCELL_PANEL
    assert layout.channels.index("CD3e") == 12 and len(layout.channels) == 19
    assert layout.plane_of("CD8a") == 8 and layout.nuclei_plane == 0
    assert ORION_FORMAT.column("CD45") == "CD45"


def test_a_table_of_other_columns_and_units_is_read_in_level_0_px(tmp_path):
    layout = read_layout(write(tmp_path))
    (tmp_path / "a.csv").write_text(
        "Object,Centroid X,Centroid Y,LCA: Mean,CD3: Mean,glow,Empty: Mean,DAPI: Mean\n"
        "u1,10,20,100,7,1,2,3\nu2,11,21,101,8,4,5,6\n"
    )
    cells = load_cells(
        tmp_path / "a.csv", ("CD45", "CD3e", "AF1", "Argo550"), None, layout.table_format(0.5)
    )
    assert cells.cell_id.tolist() == [1, 2]
    np.testing.assert_allclose(cells.x, [19.5, 21.5])
    assert cells.intensities["CD45"].tolist() == [100, 101]
    assert cells.intensities["AF1"].tolist() == [1, 4]
    assert cells.intensities["Argo550"].tolist() == [2, 5]


def test_roles_that_a_cohort_lacks_are_left_out(tmp_path):
    path = write(tmp_path)
    text = path.read_text().replace('autofluorescence = "Glow"', "")
    path.write_text(text.replace('blank = "Empty"', "").replace("blank_max = 900.0", ""))
    (tmp_path / "a.csv").write_text("Centroid X,Centroid Y,LCA: Mean\n1,2,3\n")
    form = read_layout(path).table_format(0.5)
    cells = load_cells(tmp_path / "a.csv", ("CD45", "AF1", "Argo550"), None, form)
    assert set(cells.intensities) == {"CD45"}


def test_a_panel_of_ones_own_has_its_markers_parents_and_channels(tmp_path):
    layout = read_layout(write(tmp_path))
    assert layout.panel.names == ("CD45", "CD3e") and layout.panel.parent_indices == (-1, 0)
    assert layout.plane_of("CD3e") == 2


def test_a_known_panel_needs_channels_for_its_markers(tmp_path):
    layout = read_layout(write(tmp_path))
    with pytest.raises(DataError, match="needs channels for CD4, CD8a"):
        layout.panel_named("t-cell")
    with pytest.raises(DataError, match="no such panel"):
        layout.panel_named("t-sell")
    assert orion_layout().panel_named("immune") is PANELS["immune"]


def test_every_problem_of_the_file_is_told_at_once(tmp_path):
    path = write(
        tmp_path,
        markers=MARKERS.replace('"LCA"', '"CD99"').replace("color = [4, 5, 6]", ""),
        **{'nuclei = "DAPI"': 'nuclei = "DAPPI"', 'cells = "a.csv"': ""},
    )
    with pytest.raises(DataError) as caught:
        read_layout(path)
    told = str(caught.value)
    for words in ("[image] nuclei = 'DAPPI'", "CD3e: color is missing", "[[slide]] a: no cells"):
        assert words in told
    path.write_text(path.read_text().replace("mpp = 0.5", 'mpp = "small"\ncolour = 1'))
    with pytest.raises(DataError) as caught:
        read_layout(path)
    assert "mpp = 'small'" in str(caught.value) and "colour: unknown" in str(caught.value)


def test_a_file_of_another_version_is_refused(tmp_path):
    path = write(tmp_path, **{"version = 1": "version = 9"})
    with pytest.raises(DataError, match="not a cohort's file of this version"):
        read_layout(path)
