"""What a slide's results are called: the one owner of every name in a result folder."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from contextlib import suppress
from pathlib import Path

from lymphinfer.slides.remote import remote_address, remote_name
from lymphinfer.textfiles import shown

SUMMARY = "summary.json"
PARTS = "parts"
STATE = "state.json"
LOCK = ".lock"
REPORT = "report.html"
FIGURES = "figures"
BATCH_JSON, BATCH_CSV = "batch.json", "batch.csv"
REGIONS, REGIONS_CSV, REGION_NUCLEI = "regions.json", "regions.csv", "regions.parquet"
RUNS = "runs"
"""Folder in the root of the results, with a file for each call of the command."""

GEOJSON_FORMATS = ("zip", "geojson.gz", "geojson")
_VIEWS = (".csv", ".csv-metadata.json", ".parquet", ".tissue.geojson", ".regions.geojson", ".h5ad",
          ".spatialdata.zarr", ".ome.xml", ".labels.ome.tif", ".ro-crate.zip")  # fmt: skip
VIEW_SUFFIXES = (
    *(f"{kind}.{fmt}" for kind in ("", ".points", ".types") for fmt in GEOJSON_FORMATS),
    *_VIEWS,
)
"""Of the files that are made from a slide's nuclei, behind its stem."""

MAX_NAME_BYTES = 255
MAX_STEM_BYTES = 230
"""Of the start of a slide's files: views append up to 18 bytes (``.points.geojson.gz``)."""

LONGEST_SUFFIX = ".points.geojson.gz"
_MARK_BYTES = 9


def view_names(stem: str) -> tuple[str, ...]:
    """Everything in a slide's result folder that is made from its nuclei."""
    views = (f"{stem}{suffix}" for suffix in VIEW_SUFFIXES)
    return (*views, REPORT, FIGURES, REGIONS, REGIONS_CSV, REGION_NUCLEI)


def file_name(path: Path) -> str:
    """Name of a slide's file, of an address too, where a query would tell of passwords."""
    address = remote_address(path)
    return path.name if address is None else Path(remote_name(address)).name


def slide_stem(path: Path) -> str:
    """File name without its slide suffix: ``a.svs`` and ``a.ome.tif`` both give ``a``.

    A name that not every file system takes, or that leaves no room for the suffixes of the results,
    is made safe, see `safe_name`.
    """
    name = file_name(path)
    stem = Path(name).stem
    if stem.lower().endswith(".ome"):
        stem = stem[:-4]
    return safe_name(stem, whole=name)


def safe_name(name: str, *, whole: str | None = None, limit: int = MAX_STEM_BYTES) -> str:
    r"""Name that can be written wherever results are: most names are their own.

    Bytes that are no UTF-8 and control characters become ``%F6``, blanks and dots at the end go
    (Windows and network shares drop them), and what is too long is cut. A name that was changed
    ends in ``~`` and eight digits of the hash of the whole, so that no two become one.

    Parameters
    ----------
    name : str
    whole : str, optional
        What the digits are of; the name itself by default.
    limit : int
        Bytes of UTF-8.

    Examples
    --------
    >>> safe_name("B 1.8 (x)"), safe_name("Gr\udcf6\udcdfe"), len(safe_name("n" * 250))
    ('B 1.8 (x)', 'Gr%F6%DFe~ddd4387f', 230)
    """
    safe = "".join(_printable(character) for character in name).rstrip(" .")
    if safe == name and len(name.encode()) <= limit:
        return name
    digest = hashlib.sha256((whole or name).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{cut_name(safe, limit - _MARK_BYTES)}~{digest}"


def cut_name(name: str, limit: int) -> str:
    """Start of a name that is at most so many bytes long, never within a character."""
    return name.encode("utf-8", "surrogateescape")[:limit].decode("utf-8", "ignore").rstrip(" .")


def mirrored(inner: Path, out: Path) -> Path:
    """Result folder of a slide by its path from the folder that was searched."""
    above = (safe_name(part, limit=MAX_NAME_BYTES) for part in inner.parts[:-1])
    return out.joinpath(*above, slide_stem(inner))


def second_name(folder: Path, slide: Path) -> Path:
    """Result folder of a slide where its own is another's: with the hash of where it lies."""
    place = str(slide.absolute()).encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(place).hexdigest()[: _MARK_BYTES - 1]
    return folder.with_name(f"{cut_name(folder.name, MAX_STEM_BYTES - _MARK_BYTES)}~{digest}")


def name_key(folder: Path) -> str:
    """Equal for two paths that some file system takes for one: case and composed letters."""
    return unicodedata.normalize("NFC", str(folder)).casefold()


def default_out(path: Path) -> Path:
    """Result root beside a slide or folder: ``<stem>.lymphinfer``."""
    if not path.name or path.name == "..":
        path = path.resolve()
    is_folder = path.is_dir() and path.suffix.lower() != ".zarr"
    stem = safe_name(path.name) if is_folder else slide_stem(path)
    return path.parent / f"{stem}.lymphinfer"


def slide_place(slide: Path) -> str:
    """Where a slide lies: its path from the root, or its address.

    Of an address's query, which may hold a password, there is the hash alone.
    """
    address = remote_address(slide)
    if address is None:
        return shown(slide.absolute())
    place, _, query = address.partition("?")
    return f"{place}?{hashlib.sha256(query.encode()).hexdigest()[:8]}" if query else place


def slide_places(slide: Path, folder: Path) -> dict[str, str | None]:
    """Where a slide lies, for a later view of its results.

    Parameters
    ----------
    slide : Path
        The slide, or its address, of which the query is left out.
    folder : Path
        The result folder.

    Returns
    -------
    dict
        ``path``, absolute, and ``relative_path``, from the result folder: it still holds where
        both were moved together. None for an address, and for another drive.
    """
    if remote_address(slide) is not None:
        return {"path": slide_words(slide), "relative_path": None}
    relative = None
    # A link to a slide keeps its name; links among the folders would lead ".." astray.
    target = slide.parent.resolve() / slide.name
    with suppress(ValueError):
        relative = shown(Path(os.path.relpath(target, folder.resolve())).as_posix())
    return {"path": shown(slide.absolute()), "relative_path": relative}


def slide_words(slide: Path) -> str:
    """A slide as the user named it, an address without its query."""
    address = remote_address(slide)
    return str(slide) if address is None else address.partition("?")[0]


def _printable(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"%{ord(character) - 0xDC00:02X}"
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return f"%{ord(character):02X}"
    return character
