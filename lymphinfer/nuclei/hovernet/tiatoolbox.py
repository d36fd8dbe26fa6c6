"""TIAToolbox, imported without what that does to a program's logging, and what it publishes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lymphinfer.errors import BundleError

WEIGHTS_URL = "https://huggingface.co/{repository}/resolve/main/{name}.pth"
"""Where the Hugging Face hub serves a file of a repository that TIAToolbox's table names."""


@dataclass(frozen=True)
class Published:
    """A HoVer-Net in TIAToolbox's table of pretrained models. The table has no hashes.

    Attributes
    ----------
    name : str
    mode : {"fast", "original"}
    types : tuple of str
        Names of the nucleus types, background left out; empty without a type branch.
    mpp : float
        Pixel size it was trained at, µm/px.
    url : str
        Of the weights, a PyTorch file (``.pth``).
    """

    name: str
    mode: str
    types: tuple[str, ...]
    mpp: float
    url: str


@contextmanager
def _quiet() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImportError as error:
        raise BundleError(
            f"HoVer-Net needs TIAToolbox: pip install 'lymphinfer[hovernet]' ({error})"
        ) from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)


def hovernet_module() -> Any:
    """TIAToolbox's module of the architecture, without the log handlers that its import installs.

    Raises
    ------
    BundleError
        TIAToolbox is not installed; the message names the extra.
    """
    with _quiet():
        from tiatoolbox.models.architecture import hovernet
    return hovernet


def published_models() -> dict[str, Published]:
    """Every plain HoVer-Net of TIAToolbox's table, by name.

    Raises
    ------
    BundleError
        TIAToolbox is not installed.
    """
    with _quiet():
        from tiatoolbox import rcParam
    found = {}
    for name, entry in rcParam["pretrained_model_info"].items():
        if entry["architecture"]["class"] != "hovernet.HoVerNet":
            continue
        options = entry["architecture"]["kwargs"]
        types = options.get("nuc_type_dict") or {}
        found[name] = Published(
            name=name,
            mode=options["mode"],
            types=tuple(types[i] for i in sorted(types) if i),
            mpp=float(entry["ioconfig"]["kwargs"]["input_resolutions"][0]["resolution"]),
            url=WEIGHTS_URL.format(repository=entry["hf_repo_id"], name=name),
        )
    return found
