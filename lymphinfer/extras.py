"""What each extra brings, and a word at the start where a command needs one that is not there."""

from __future__ import annotations

from importlib.util import find_spec

from lymphinfer.errors import LymphinferError

IMPORTED = {
    "anndata": ("anndata",),
    "cluster": ("distributed",),
    "czi": ("pylibCZIrw",),
    "hovernet": ("tiatoolbox", "torch", "timm"),
    "orion": ("s3fs", "matplotlib"),
    "remote": ("fsspec", "aiohttp", "s3fs"),
    "report": ("jinja2", "matplotlib"),
    "spatialdata": ("spatialdata", "anndata"),
    "torch": ("torch", "timm"),
    "train": ("torch", "timm", "accelerate", "matplotlib", "threadpoolctl", "zarr"),
    "web": ("starlette", "uvicorn"),
    "zarr": ("zarr",),
}
"""Modules that the package imports of each extra, by the extra's name."""


def missing_packages(extra: str) -> list[str]:
    """Packages of an extra that are not installed, by the names that pip knows."""
    return [name for name in IMPORTED[extra] if find_spec(name) is None]


def fix_of(module: str) -> str:
    """What to say where a module is missed; empty for one that no extra brings."""
    package = module.split(".")[0]
    extra = next((extra for extra, brought in IMPORTED.items() if brought[0] == package), None)
    extra = extra or next((extra for extra, brought in IMPORTED.items() if package in brought), "")
    return extra and (
        f"this needs {package}, which is not installed. Run `pip install 'lymphinfer[{extra}]'`."
    )


def require_extra(extra: str, purpose: str, error: type[LymphinferError] = LymphinferError) -> None:
    """Say at the start what would be missed in the middle.

    Parameters
    ----------
    extra : str
        A key of `IMPORTED`.
    purpose : str
        What needs it: the message begins with this.
    error : type of LymphinferError
        What to raise.

    Raises
    ------
    LymphinferError
        A package is not installed; the message names it and the extra.
    """
    if missing := missing_packages(extra):
        raise error(
            f"{purpose} needs {', '.join(missing)}, which is not installed. "
            f"Run `pip install 'lymphinfer[{extra}]'`."
        )
