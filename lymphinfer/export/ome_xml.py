"""OME-XML with a ROI a nucleus, for OMERO, Bio-Formats and whatever else reads OME's model.

The file describes the image (size, pixel size) without its pixels. Coordinates are level-0 px of
the slide file, not cropped to its bounds.
"""

from __future__ import annotations

from io import TextIOWrapper
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pyarrow as pa

from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.table import measurements, read_calls, read_ids, read_rings
from lymphinfer.export.numerals import id_texts, number_texts, ring_texts
from lymphinfer.export.results import Result

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def write_ome_xml(path: Path, result: Result) -> Path:
    """Write a slide's nuclei as ROIs, streamed.

    A ROI holds one closed polygon with the colour of its class. Its ID is ``ROI:<uuid>``, its Name
    the class, its Description the measurements: ``CD45 probability 0.93; Area µm^2 41.2``.

    Parameters
    ----------
    path : Path
    result : Result

    Returns
    -------
    Path

    Raises
    ------
    ResultError
        If the parts cannot be read or the file cannot be written.
    """
    width, height = result.dimensions
    with atomic_write(path) as raw:
        file = TextIOWrapper(raw, "utf-8", newline="\n")
        file.write(
            f'<?xml version="1.0" encoding="UTF-8"?>\n<OME xmlns="{NAMESPACE}" '
            'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
            f'xsi:schemaLocation="{NAMESPACE} {NAMESPACE}/ome.xsd" '
            f"Creator={quoteattr(str(result.provenance['software']))}>\n"
            f'<Image ID="Image:0" Name={quoteattr(result.name)}>\n'
            f"<Description>{escape(_description(result))}</Description>\n"
            '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
            f'SizeX="{width}" SizeY="{height}" SizeZ="1" SizeC="3" SizeT="1" Interleaved="true" '
            f'PhysicalSizeX="{result.mpp!r}" PhysicalSizeXUnit="µm" '
            f'PhysicalSizeY="{result.mpp!r}" PhysicalSizeYUnit="µm">'
            '<Channel ID="Channel:0:0" SamplesPerPixel="3"/><MetadataOnly/></Pixels>\n'
        )
        # The schema wants an image's references to its ROIs before the ROIs themselves.
        for table in result.tables():
            names = id_texts(read_ids(table)).to_pylist()
            file.writelines(f'<ROIRef ID="ROI:{name.decode()}"/>\n' for name in names)
        file.write("</Image>\n")
        for table in result.tables():
            file.write(rois(table, result))
        file.write("</OME>\n")
        file.flush()
        file.detach()
    return path


def rois(table: pa.Table, result: Result) -> str:
    """Write a table's nuclei as ROI elements, a line each."""
    panel = result.panel
    classes = [quoteattr(panel.class_name(call)) for call in panel.calls]
    strokes = [_rgba(panel.color(call)) for call in panel.calls]
    rows = zip(
        id_texts(read_ids(table)).to_pylist(),
        ring_texts(read_rings(table)).to_pylist(),
        read_calls(table, panel).tolist(),
        _values(table),
        strict=True,
    )
    return "".join(
        f'<ROI ID="ROI:{(name := uuid.decode())}" Name={classes[call]}><Union>'
        f'<Polygon ID="Shape:{name}" StrokeColor="{strokes[call]}" Points="{_points(ring)}"/>'
        f"</Union><Description>{values}</Description></ROI>\n"
        for uuid, ring, call, values in rows
    )


def _description(result: Result) -> str:
    lines = [f"{name}: {row.get('statement', '')}" for name, row in result.evidence.items()]
    return "\n".join(
        [*result.warnings, *lines, f"Bundle {result.summary['bundle'].get('name')}, "
         f"sha256 {result.summary['bundle'].get('sha256')}", result.provenance["notice"]]
    )  # fmt: skip


def _points(ring: bytes) -> str:
    """``[[1,2],[3,4],[1,2]]`` as ``1,2 3,4``: OME closes a polygon by itself."""
    return ring[2:-2].replace(b"],[", b" ").rpartition(b" ")[0].decode()


def _values(table: pa.Table) -> list[str]:
    """Each nucleus's measurements as text, the missing ones left out."""
    names = [escape(name) for name in measurements(table.schema).values()]
    columns = [
        number_texts(table.column(c).to_numpy()).to_pylist() for c in measurements(table.schema)
    ]
    return [
        "; ".join(f"{n} {v.decode()}" for n, v in zip(names, row, strict=True) if v is not None)
        for row in zip(*columns, strict=True)
    ]


def _rgba(color: tuple[int, int, int]) -> int:
    """Colour as OME keeps it: red first, alpha last, a signed 32-bit number."""
    return int.from_bytes(bytes([*color, 255]), "big", signed=True)
