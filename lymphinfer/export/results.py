"""Result folders: what ``predict`` has left for a slide, opened for a view of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lymphinfer.cells.naming import BATCH_JSON, PARTS, SUMMARY
from lymphinfer.cells.parts import is_done, list_parts, open_parquet, read_parts
from lymphinfer.cells.provenance import provenance
from lymphinfer.errors import ResultError
from lymphinfer.panel import Panel, panel_of
from lymphinfer.version import __version__

LEARNED = ("stain", "morphology", "simulated", "measured")
"""Evidence behind which something was learned. Results of bundles that did not yet tell stain from
morphology say ``measured``."""


@dataclass(frozen=True)
class Result:
    """The results of one slide.

    Attributes
    ----------
    folder : Path
        Holds ``summary.json`` and ``parts/``.
    summary : dict
        Content of ``summary.json``.
    panel : Panel
        The markers of its nuclei.
    """

    folder: Path
    summary: dict[str, Any]
    panel: Panel

    @property
    def name(self) -> str:
        """File name of the slide."""
        return str(self.summary["slide"]["name"])

    @property
    def stem(self) -> str:
        """Start of the names of the slide's files, as ``predict`` has named them."""
        file = str(self.summary.get("file", ""))
        fmt = self.summary["arguments"].get("format")
        suffix = f".{fmt}"
        return file.removesuffix(suffix) if fmt and file.endswith(suffix) else self.folder.name

    @property
    def mpp(self) -> float:
        """Level-0 pixel size, µm/px."""
        return float(self.summary["slide"]["mpp"])

    @property
    def dimensions(self) -> tuple[int, int]:
        """Level-0 (width, height), px."""
        width, height = self.summary["slide"]["dimensions"]
        return int(width), int(height)

    @property
    def bounds_offset(self) -> tuple[int, int]:
        """Level-0 (x, y) of the corner at which QuPath's image begins."""
        x, y = self.summary["slide"].get("bounds_offset") or (0, 0)
        return int(x), int(y)

    @property
    def qupath_offset(self) -> tuple[int, int]:
        """Corner that the slide's GeoJSON was made with; (0, 0) after ``--no-crop``."""
        cropped = self.summary["arguments"].get("crop_to_bounds", True)
        return self.bounds_offset if cropped else (0, 0)

    @property
    def nuclei(self) -> int:
        """Nuclei of the slide."""
        return int(self.summary["nuclei"])

    @property
    def warnings(self) -> list[str]:
        """What the reader of the numbers must know."""
        return [str(warning) for warning in self.summary.get("warnings", [])]

    @property
    def evidence(self) -> dict[str, dict[str, Any]]:
        """By marker what stands behind its probability; empty where nothing was written down."""
        markers = self.summary["markers"]
        return {name: dict(markers[name].get("evidence") or {}) for name in self.panel.names}

    def word(self, marker: str) -> str:
        """Evidence behind a marker's probability in one word; ``unknown`` where none was given."""
        return str(self.evidence[marker].get("evidence") or "unknown")

    def is_learned(self, marker: str) -> bool:
        """Whether anything was learned behind a marker's probability."""
        return self.evidence[marker].get("evidence") in LEARNED

    def is_called(self, marker: str) -> bool:
        """Whether a nucleus may have been called positive for a marker."""
        return bool(self.evidence[marker].get("called", self.is_learned(marker)))

    @property
    def operating_point(self) -> dict[str, Any]:
        """From where nuclei were called: ``name``, ``statement`` and ``markers``; may be empty."""
        return dict(self.summary.get("operating_point") or {})

    @property
    def is_simulated(self) -> bool:
        """Whether any marker was learned on simulated slides."""
        return any(row.get("evidence") == "simulated" for row in self.evidence.values())

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Nucleus tables of the slide, at most 25,000 rows each, always in the same order.

        Parameters
        ----------
        columns : sequence of str, optional
            Only these: outlines are most of a table.

        Raises
        ------
        ResultError
            The parts are damaged, or are not those that the summary counted.
        """
        parts = self.folder / PARTS
        mark = self.summary["arguments"].get("fingerprint")
        found = 0
        for table in read_parts(parts, self.panel, mark, columns):
            found += table.num_rows
            yield table
        if found != self.nuclei:
            raise ResultError(
                f"{parts} has {found:,} nuclei where {SUMMARY} counts {self.nuclei:,}: run "
                "lymphinfer predict again, it computes what is missing"
            )

    def row_groups(self) -> list[tuple[Path, int]]:
        """(part, number in it) of each table that `tables` gives, for reading one again."""
        mark = self.summary["arguments"].get("fingerprint")
        found = []
        for path in list_parts(self.folder / PARTS):
            if mark is None or is_done(path, mark):
                with open_parquet(path) as file:
                    found += [(path, group) for group in range(file.num_row_groups)]
        return found

    @property
    def provenance(self) -> dict[str, Any]:
        """What made the nuclei, as the slide's GeoJSON carries it."""
        summary = self.summary
        software = summary.get("versions", {}).get("lymphinfer", __version__)
        return provenance(
            software=f"lymphinfer {software}",
            bundle=summary["bundle"],
            slide={**summary["slide"], "mpp": self.mpp},
            hierarchy=summary["arguments"].get("hierarchy"),
            evidence=self.evidence,
            operating_point=self.operating_point,
            warnings=self.warnings,
            region=summary.get("region"),
        )


def open_result(folder: Path) -> Result:
    """Open a slide's result folder.

    Raises
    ------
    ResultError
        No readable summary, an unknown panel, or no parts although nuclei were counted.
    """
    path = folder / SUMMARY
    try:
        summary = json.loads(path.read_text("utf-8"))
        panel, unknown = panel_of(summary["panel"], summary.get("panel_markers", []))
        if panel is None:
            raise ValueError("; ".join(unknown))
        result = Result(folder, summary, panel)
        # What every view needs, touched once here, so that a foreign file is told at once.
        _ = (result.name, result.stem, result.mpp, result.dimensions, result.evidence)
        nuclei = result.nuclei
    except OSError as error:
        raise ResultError(
            f"{path}: cannot be read ({error.strerror or error}); a slide's results are a folder "
            f"with {SUMMARY} and {PARTS}, which lymphinfer predict makes"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(
            f"{path}: not a summary that this version reads ({type(error).__name__}: {error}); run "
            "lymphinfer predict again"
        ) from error
    if nuclei and not list_parts(folder / PARTS):
        raise ResultError(
            f"{folder}: {SUMMARY} counts {nuclei:,} nuclei but {PARTS} is empty or gone: "
            "run lymphinfer predict again"
        )
    return result


def find_results(source: Path) -> list[Path]:
    """Result folders of a source, in the order of their paths.

    Parameters
    ----------
    source : Path
        A slide's result folder (or its ``summary.json``), or a folder with such folders at any
        depth.

    Returns
    -------
    list of Path

    Raises
    ------
    ResultError
        There is none.
    """
    if source.name == SUMMARY and source.is_file():
        return [source.parent]
    if (source / SUMMARY).is_file():
        return [source]
    found = sorted(path.parent for path in source.rglob(SUMMARY)) if source.is_dir() else []
    if not found:
        what = "no results in this folder" if source.is_dir() else "no such folder"
        raise ResultError(
            f"{source}: {what}; give a slide's result folder (it holds {SUMMARY}), or the --out of "
            "lymphinfer predict"
        )
    return found


def batch_rows(folder: Path) -> list[dict[str, str]]:
    """Rows of the ``batch.json`` that ``predict`` leaves in the root of a batch's results.

    Returns
    -------
    list of dict
        ``slide``, ``folder``, ``status`` and ``reason`` of each; empty where there is no such file
        or it cannot be understood: what it says is a help, never needed.
    """
    names = ("slide", "folder", "status", "reason")
    try:
        rows = json.loads((folder / BATCH_JSON).read_text("utf-8"))["slides"]
        return [{name: str(row.get(name) or "") for name in names} for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
