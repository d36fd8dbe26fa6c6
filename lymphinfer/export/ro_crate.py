"""A slide's results as an RO-Crate: a ``.zip`` that says in JSON-LD what it holds and what made it.

RO-Crate 1.1 (https://w3id.org/ro/crate/1.1) with the profile Process Run Crate 0.5
(https://w3id.org/ro/wfrun/process/0.5): the prediction is a ``CreateAction`` whose instrument is
LymphInfer, whose objects are the slide, the bundle and the settings, whose results are the files.
The slide itself is named, not packed.
"""

from __future__ import annotations

import json
import mimetypes
import zipfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from lymphinfer.cells.areas import AREAS
from lymphinfer.cells.files import atomic_write
from lymphinfer.cells.naming import FIGURES, PARTS, REPORT, STATE, SUMMARY, view_names
from lymphinfer.cells.provenance import NOTICE
from lymphinfer.downloading import sha256_of
from lymphinfer.export.results import Result
from lymphinfer.textfiles import json_bytes, shown

METADATA = "ro-crate-metadata.json"
SUFFIX = ".ro-crate.zip"
CRATE = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
NO_LICENCE = "No licence was stated: ask whoever made these results what may be done with them."

_WHAT = {
    SUMMARY: "Counts and densities, what they rest on, versions, settings and seconds",
    AREAS: "The tissue that the densities are of, and what of it is out of focus; level-0 pixels",
    REPORT: "The slide's page, for a browser",
    FIGURES: "The page's figures",
    PARTS: "The nucleus table in parts (Apache Parquet): outlines, areas, probabilities, calls",
}
_TYPES = {
    ".parquet": "application/vnd.apache.parquet",
    ".geojson": "application/geo+json",
    ".h5ad": "application/x-hdf5",
    ".tif": "image/tiff",
    ".csv": "text/csv",
    ".gz": "application/gzip",
}
# The same bytes for the same results.
_DATE = (1980, 1, 1, 0, 0, 0)

Entity = dict[str, Any]


def write_ro_crate(path: Path, result: Result, licence: str | None = None) -> Path:
    """Pack a slide's result folder with a description of its content and origin.

    Parameters
    ----------
    path : Path
        The ``.zip``.
    result : Result
    licence : str, optional
        Of the results: an address, such as that of a Creative Commons licence, or words. Without
        one the crate says that none was stated.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ResultError
        The parts are damaged or not those that were counted, or the file cannot be written.
    """
    for _ in result.tables(("call",)):
        pass
    files = [file for file in _files(result) if file != path]
    graph = crate(result, files, licence)
    with atomic_write(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        _add(archive, METADATA, json_bytes(graph, orjson.OPT_INDENT_2), zipfile.ZIP_DEFLATED)
        for file in files:
            name = file.relative_to(result.folder).as_posix()
            packed = file.suffix in (".parquet", ".zip", ".gz", ".png", ".tif", ".h5ad")
            with file.open("rb") as content:
                entry = zipfile.ZipInfo(name, _DATE)
                entry.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
                entry.file_size = file.stat().st_size
                with archive.open(entry, "w") as target:
                    while block := content.read(1 << 20):
                        target.write(block)
    return path


def crate(result: Result, files: list[Path], licence: str | None = None) -> dict[str, Any]:
    """Content of ``ro-crate-metadata.json``.

    Parameters
    ----------
    result : Result
    files : list of Path
        What is described, below the result's folder.
    licence : str, optional
        See `write_ro_crate`.

    Returns
    -------
    dict
        ``@context`` and the flat ``@graph``.
    """
    began, ended = _times(result)
    data = _data_entities(result, files)
    top = [entity for entity in data if entity["@id"].rstrip("/").count("/") == 0]
    markers = [_measured(result, name) for name in result.panel.names]
    settings = _settings(result)
    terms = _licence(licence)
    software = result.provenance["software"]
    bundle = result.summary["bundle"]
    other = (
        f"; the nuclei are of another detector: {bundle['detector']}"
        if "detector" in bundle
        else ""
    )
    root: Entity = {
        "@id": "./",
        "@type": "Dataset",
        "conformsTo": {"@id": PROFILE},
        "name": f"LymphInfer results of {shown(result.name)}",
        "description": f"{result.nuclei:,} nuclei of an H&E slide with a probability for "
        f"{', '.join(result.panel.names)}, by the bundle {bundle['name']} {bundle['version']}. "
        f"{NOTICE}",
        "datePublished": ended,
        "license": _refer(terms),
        "hasPart": [_refer(entity) for entity in top],
        "mentions": {"@id": "#prediction"},
        "variableMeasured": [_refer(marker) for marker in markers],
    }
    slide: Entity = {
        "@id": "#slide",
        "@type": "CreativeWork",
        "name": shown(result.name),
        "description": f"The H&E slide, {result.dimensions[0]:,} x {result.dimensions[1]:,} pixels "
        f"of {result.mpp:g} µm; not in this crate",
        "identifier": str(result.summary["slide"].get("identity")),
    }
    model: Entity = {
        "@id": "#bundle",
        "@type": "CreativeWork",
        "name": str(bundle["name"]),
        "version": str(bundle["version"]),
        "description": f"Nucleus detector, marker model, thresholds and their evidence{other}",
        "identifier": f"sha256:{bundle['sha256']}",
    }
    program: Entity = {
        "@id": "#lymphinfer",
        "@type": "SoftwareApplication",
        "name": "LymphInfer",
        "softwareVersion": software.removeprefix("lymphinfer "),
        "description": "Lymphocyte markers from plain H&E whole-slide images",
    }
    action: Entity = {
        "@id": "#prediction",
        "@type": "CreateAction",
        "name": f"Prediction of {shown(result.name)}",
        "instrument": {"@id": "#lymphinfer"},
        "object": [{"@id": "#slide"}, {"@id": "#bundle"}, *map(_refer, settings)],
        "result": [_refer(entity) for entity in top],
        "startTime": began,
        "endTime": ended,
        "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
    }
    about: Entity = {
        "@id": METADATA,
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": CRATE},
    }
    profile: Entity = {
        "@id": PROFILE,
        "@type": "CreativeWork",
        "name": "Process Run Crate",
        "version": "0.5",
    }
    entities = [about, root, profile, terms, action, program, slide, model, *settings, *markers]
    # The context of RO-Crate 1.1 is older than schema.org's word for a file's hash.
    context = [f"{CRATE}/context", {"sha256": "http://schema.org/sha256"}]
    return {"@context": context, "@graph": [*entities, *data]}


def _files(result: Result) -> list[Path]:
    """What is packed: files of a result folder that its names' owner knows, no lock or state."""
    names = (SUMMARY, AREAS, PARTS, *view_names(result.stem))
    found: list[Path] = []
    for place in (result.folder / name for name in names):
        if place.is_dir():
            inner = sorted(file for file in place.rglob("*") if file.is_file())
            found += [f for f in inner if not f.name.endswith(".tmp")]
        elif place.is_file() and not place.name.endswith(SUFFIX):
            found.append(place)
    return found


def _data_entities(result: Result, files: list[Path]) -> list[Entity]:
    """A File a file and a Dataset a folder; folders have their files as parts."""
    folders: dict[str, list[Entity]] = {}
    entities: list[Entity] = []
    for file in files:
        name = file.relative_to(result.folder).as_posix()
        entity: Entity = {
            "@id": _address(name),
            "@type": "File",
            "name": file.name,
            "contentSize": str(file.stat().st_size),
            "encodingFormat": _encoding(file),
            "sha256": sha256_of(file),
        }
        top, _, inner = name.partition("/")
        if inner:
            folders.setdefault(top, []).append(entity)
        else:
            entity["description"] = _WHAT.get(name, "Made of the nucleus table")
        entities.append(entity)
    for top, inside in folders.items():
        what = _WHAT.get(top, "Made of the nucleus table")
        parts = [_refer(entity) for entity in inside]
        entities.append({"@id": f"{_address(top)}/", "@type": "Dataset", "name": top,
                         "description": what, "hasPart": parts})  # fmt: skip
    return entities


def _encoding(file: Path) -> str:
    known = _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0]
    return known or "application/octet-stream"


def _measured(result: Result, marker: str) -> Entity:
    """What is known of a marker on this slide, and the word for what it rests on."""
    row = result.summary["markers"][marker]
    evidence = result.evidence[marker]
    density = row.get("expected_per_mm2")
    entity: Entity = {
        "@id": f"#marker-{marker}",
        "@type": "PropertyValue",
        "name": f"{marker}, expected number of positive nuclei",
        "description": f"Evidence: {evidence.get('statement') or result.word(marker)}",
        "value": row["expected"] if density is None else density,
        "unitText": "nuclei" if density is None else "nuclei per mm² of tissue",
    }
    return entity


def _settings(result: Result) -> list[Entity]:
    """Arguments of the prediction that have a plain value."""
    return [
        {"@id": f"#setting-{name}", "@type": "PropertyValue", "name": name, "value": str(value)}
        for name, value in sorted(result.summary["arguments"].items())
        if isinstance(value, str | int | float)
    ]


def _licence(licence: str | None) -> Entity:
    if licence is not None and licence.startswith(("https://", "http://")):
        return {"@id": licence, "@type": "CreativeWork", "name": licence,
                "description": "Licence of these results"}  # fmt: skip
    words = licence or NO_LICENCE
    return {"@id": "#licence", "@type": "CreativeWork", "name": words, "description": words}


def _times(result: Result) -> tuple[str, str]:
    """Begin and end of the prediction, ISO 8601: by its state, else by the summary's file."""
    ended = (result.folder / SUMMARY).stat().st_mtime
    seconds = float(result.summary.get("seconds", {}).get("total") or 0.0)
    with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        state = json.loads((result.folder / STATE).read_text("utf-8"))
        last = [attempt for attempt in state["history"] if attempt["end"] == "done"][-1]
        seconds = float(last["seconds"])
        ended = float(last["began"]) + seconds
    return _iso(ended - seconds), _iso(ended)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(round(seconds), UTC).isoformat()


def _address(name: str) -> str:
    """A path as a relative address: RO-Crate asks for percent-encoding."""
    return quote(name, safe="/~!$&'()*+,;=@", errors="surrogateescape")


def _refer(entity: Entity) -> dict[str, str]:
    return {"@id": str(entity["@id"])}


def _add(archive: zipfile.ZipFile, name: str, content: bytes, how: int) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = how
    archive.writestr(entry, content)
