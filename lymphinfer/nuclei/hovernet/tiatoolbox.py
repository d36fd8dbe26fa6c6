"""TIAToolbox, imported without what that does to a program's logging, and what it publishes."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
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


class _Later(ModuleType):
    """A package whose ``__init__`` runs once something is asked of it."""

    def __getattr__(self, name: str) -> Any:
        loader = self.__spec__.loader if self.__spec__ is not None else None
        if name.startswith("__") or loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        loader.exec_module(self)
        return getattr(self, name)


def _import_later(package: str) -> None:
    """Python runs the ``__init__`` of a module's package first; of this package, only if used."""
    if package in sys.modules:
        return
    spec = find_spec(package)
    if spec is None:
        raise ImportError(f"no {package}")
    module = module_from_spec(spec)
    module.__class__ = _Later
    sys.modules[package] = module
    parent, _, name = package.rpartition(".")
    setattr(sys.modules[parent], name, module)


def hovernet_module() -> Any:
    """TIAToolbox's module of the architecture, without the log handlers that its import installs.

    Nor what else its package imports, which it does not need.

    Raises
    ------
    BundleError
        TIAToolbox is not installed; the message names the extra.
    """
    package = "tiatoolbox.models.architecture"
    with _quiet():
        # These import all models, engines and readers, 10 s of which a network needs nothing.
        _import_later("tiatoolbox.models")
        _import_later(package)
        import_module(package)
        return import_module(f"{package}.hovernet")


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
