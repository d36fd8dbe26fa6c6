"""What an earlier run has left in a slide's result folder: taken over, or removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from lymphinfer.cells.naming import PARTS, SUMMARY, view_names
from lymphinfer.cells.parts import is_done, list_parts
from lymphinfer.predict.settings import PredictSettings

Mark = Callable[[str, str], str]
"""Fingerprint of a slide's nuclei by precision and runtime."""


def earlier_mark(
    folder: Path, settings: PredictSettings, precision: str, runtime: str, mark: Mark
) -> str:
    """Fingerprint that a finished result may have, and be as good as what is asked for.

    ``auto`` takes what each machine does best. What one machine has finished under it, a machine of
    another kind does not compute again.

    Parameters
    ----------
    folder : Path
    settings : PredictSettings
    precision, runtime : str
        In use here.
    mark : callable
        Of the settings, by precision and runtime.
    """
    asked = _arguments(folder)
    if settings.precision == "auto":
        precision = str(asked.get("precision", precision))
    if settings.runtime == "auto":
        runtime = str(asked.get("runtime", runtime))
    return mark(precision, runtime)


def finished(
    folder: Path,
    file: Path,
    marks: Collection[str],
    settings: PredictSettings,
    regions_sha256: str | None = None,
) -> dict[str, Any] | None:
    """Summary of a complete earlier run with such nuclei in the same file, or None."""
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text("utf-8"))
        asked = summary["arguments"]
        mark = asked["fingerprint"]
        same = mark in marks and summary["file"] == file.name
        # The view's frame, which no nucleus depends on.
        same = same and asked["crop_to_bounds"] == settings.crop_to_bounds
        if settings.regions is not None:
            same = same and asked.get("regions") == settings.regions
            same = same and asked.get("regions_sha256") == regions_sha256
            same = same and tuple(asked.get("margins", ())) == settings.margins
        total = int(summary["shards"]["total"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not same or not file.is_file():
        return None
    whole = sum(is_done(part, mark) for part in list_parts(folder / PARTS)) == total
    return summary if whole else None


def remove_parts(parts: Path, keep: Collection[str] = ()) -> None:
    """Delete the parts of a folder but those with these names."""
    for part in list_parts(parts):
        if part.name not in keep:
            with suppress(OSError):
                part.unlink()


def remove_views(folder: Path, stem: str, mark: str, settings: PredictSettings) -> None:
    """Delete what was made from the nuclei of an earlier run, unless they are those asked for.

    Parameters
    ----------
    folder : Path
    stem : str
        Start of the views' names.
    mark : str
        Fingerprint of the nuclei that are asked for.
    settings : PredictSettings
    """
    asked = _arguments(folder)
    same = asked.get("fingerprint") == mark and not settings.redo
    if same and asked.get("crop_to_bounds") == settings.crop_to_bounds:
        return
    for path in (folder / name for name in view_names(stem)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _arguments(folder: Path) -> dict[str, Any]:
    """What an earlier run says that it was asked for; empty where none has ended."""
    try:
        return dict(json.loads((folder / SUMMARY).read_text("utf-8"))["arguments"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
