"""Finding bundles by name or folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from lymphinfer.bundles.schema import MANIFEST
from lymphinfer.errors import BundleError

DEFAULT_BUNDLE = "he-v2"
"""Its markers fit nuclei of any detector."""
ENVIRONMENT = "LYMPHINFER_WEIGHTS"


def search_path() -> list[Path]:
    """Folders searched for bundles, the first hit winning.

    ``$LYMPHINFER_WEIGHTS`` (separated as ``PATH`` is), then those that came with the installation,
    then the user's own (`user_weights`).
    """
    package = Path(__file__).resolve().parent.parent
    folders = [Path(p) for p in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if p]
    return [*folders, package / "weights", package.parent / "weights", user_weights()]


def user_weights() -> Path:
    """Folder of bundles that were downloaded or converted, in the user's data folder."""
    return Path(platformdirs.user_data_dir("lymphinfer", appauthor=False)) / "weights"


def list_bundles() -> dict[str, Path]:
    """Bundles that can be named, name to folder; the first on the search path wins."""
    found: dict[str, Path] = {}
    for root in search_path():
        for manifest in sorted(root.glob(f"*/{MANIFEST}")) if root.is_dir() else ():
            found.setdefault(manifest.parent.name, manifest.parent)
    return found


def find_bundle(name_or_folder: str | Path) -> Path:
    """Folder of a bundle.

    Parameters
    ----------
    name_or_folder : str or Path
        A folder with ``bundle.toml``, or a name among `list_bundles`.

    Returns
    -------
    Path

    Raises
    ------
    BundleError
        Nothing is there; the message lists what is.
    """
    folder = Path(name_or_folder)
    if (folder / MANIFEST).is_file():
        return folder
    bundles = list_bundles()
    if str(name_or_folder) in bundles:
        return bundles[str(name_or_folder)]
    known = ", ".join(bundles) or "none"
    raise BundleError(
        f"bundle {str(name_or_folder)!r}: no such folder with {MANIFEST}, and no bundle of that "
        f"name; known bundles: {known}. Set {ENVIRONMENT} to a folder that holds yours."
    )
