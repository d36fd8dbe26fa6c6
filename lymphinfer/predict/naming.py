"""What a slide's results are called."""

from __future__ import annotations

from pathlib import Path

from lymphinfer.slides.remote import remote_address, remote_name

SUMMARY = "summary.json"
PARTS = "parts"


def slide_stem(path: Path) -> str:
    """File name without its slide suffix: ``a.svs`` and ``a.ome.tif`` both give ``a``."""
    address = remote_address(path)
    stem = path.stem if address is None else Path(remote_name(address)).stem
    return stem[:-4] if stem.lower().endswith(".ome") else stem


def default_out(path: Path) -> Path:
    """Result root beside a slide or folder: ``<stem>.lymphinfer``."""
    if not path.name or path.name == "..":
        path = path.resolve()
    is_folder = path.is_dir() and path.suffix.lower() != ".zarr"
    stem = path.name if is_folder else slide_stem(path)
    return path.parent / f"{stem}.lymphinfer"
