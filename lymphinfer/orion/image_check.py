"""What an ORION image file holds, and what is wrong with it, from its TIFF headers alone."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from lymphinfer.errors import DataError
from lymphinfer.orion.manifest import CHANNELS
from lymphinfer.slides.tiff_header import read_header
from lymphinfer.textfiles import read_text


@dataclass(frozen=True)
class ImageFacts:
    """Header of an image.

    Attributes
    ----------
    path : Path
    width, height : int
        Level 0, px.
    channels : int
        Colours or channels.
    dtype : str
    mpp : float or None
        Pixel size of that image, µm/px; None where the file states none.
    levels : int
        Of the pyramid.
    channel_names : tuple of str
        As its OME-XML has them; empty where one has no name or two share one.
    """

    path: Path
    width: int
    height: int
    channels: int
    dtype: str
    mpp: float | None
    levels: int
    channel_names: tuple[str, ...] = ()


def inspect_image(path: Path) -> tuple[ImageFacts | None, list[str]]:
    """Read a TIFF's headers and make sure that the file reaches to its last pixel.

    Parameters
    ----------
    path : Path
        An OME-TIFF.

    Returns
    -------
    facts : ImageFacts or None
        None where the file cannot be understood.
    problems : list of str
        Sentences; empty if nothing is wrong.
    """
    again = "Download it again: `lymphinfer orion download` goes on where a file was cut."
    try:
        size = path.stat().st_size
        header = read_header(path)
    # tifffile raises whatever a damaged file leads it into.
    except Exception as error:
        return None, [f"{path}: cannot be read as a TIFF ({error}). It is cut or damaged. {again}"]
    if header is None:
        return None, [f"{path}: a TIFF without images. It is cut or damaged. {again}"]
    image, stated = header.image, header.image.stated.xy
    names = tuple(channel.name for channel in image.channels)
    facts = ImageFacts(
        path,
        *image.dimensions,
        image.channel_count,
        header.dtype,
        None if stated is None else sum(stated) / 2,
        header.levels,
        names if all(names) and len(set(names)) == len(names) else (),
    )
    if header.end > size:
        return facts, [
            f"{path}: cut short: its pixels reach to byte {header.end:,} but it ends at {size:,}. "
            f"{again}"
        ]
    if not header.is_ome:
        return facts, [f"{path}: has no OME-XML, so it is cut or no file of ORION. {again}"]
    return facts, []


def channel_problems(path: Path) -> list[str]:
    """Compare a ``markers.csv``, with or without a header, with the channels of ORION."""
    try:
        text = read_text(path, DataError, "the list of channels")
    except OSError as error:
        return [f"{path}: cannot be read ({error})."]
    except DataError as error:
        return [f"{error}."]
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    rows = [row for row in reader if any(cell.strip() for cell in row)]
    names = _channel_names(rows)
    if names == list(CHANNELS):
        return []
    return [
        f"{path}: names the channels {', '.join(names) or '(none)'}, where ORION has "
        f"{', '.join(CHANNELS)}. It belongs to other data: download it again."
    ]


def _channel_names(rows: list[list[str]]) -> list[str]:
    """Names in the column that holds them: under a header with "marker" or "name", or the only."""
    if not rows:
        return []
    head = [cell.strip().lower() for cell in rows[0]]
    if CHANNELS[0].lower() in head:
        column, body = head.index(CHANNELS[0].lower()), rows
    else:
        named = [i for i, cell in enumerate(head) if "marker" in cell or "name" in cell]
        column, body = (named[0] if named else 0), rows[1:]
    return [row[column].strip() for row in body if len(row) > column]
