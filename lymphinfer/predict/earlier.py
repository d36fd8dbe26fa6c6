"""What an earlier run has left in a slide's result folder."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from lymphinfer.cells.naming import PARTS, SUMMARY
from lymphinfer.cells.parts import is_done, list_parts
from lymphinfer.predict.settings import PredictSettings


def finished(
    folder: Path, file: Path, mark: str, settings: PredictSettings
) -> dict[str, Any] | None:
    """Summary of a complete earlier run with the same nuclei in the same file, or None."""
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text("utf-8"))
        asked = summary["arguments"]
        same = asked["fingerprint"] == mark and summary["file"] == file.name
        # The view's frame, which no nucleus depends on.
        same = same and asked["crop_to_bounds"] == settings.crop_to_bounds
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
