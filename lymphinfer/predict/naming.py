"""What a slide's results are called."""

from __future__ import annotations

from pathlib import Path

SUMMARY = "summary.json"
PARTS = "parts"


def slide_stem(path: Path) -> str:
    """File name without its slide suffix: ``a.svs`` and ``a.ome.tif`` both give ``a``."""
    stem = path.stem
    return stem[:-4] if stem.lower().endswith(".ome") else stem


def default_out(path: Path) -> Path:
    """Result root beside a slide or folder: ``<stem>.lymphinfer``."""
    if not path.name or path.name == "..":
        path = path.resolve()
    stem = path.name if path.is_dir() else slide_stem(path)
    return path.parent / f"{stem}.lymphinfer"
