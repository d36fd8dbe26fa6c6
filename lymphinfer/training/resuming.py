"""What a training run was begun with, kept beside its state: a run goes on with that or not at all.

A run that went on with other data, another rate or another seed would end in a card that names
what it was not made of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from lymphinfer.errors import DataError

Begun = dict[str, Any]
"""Plain values by name, tables within tables."""


def digest_arrays(arrays: Iterable[NDArray[Any]]) -> str:
    """Hash of arrays: of their bytes, shapes and types."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def digest_weights(weights: Mapping[str, Tensor] | None) -> str:
    """Hash of a network's tensors; empty for none."""
    if weights is None:
        return ""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def check_same(folder: Path, begun: Begun, now: Begun) -> None:
    """Prove that a folder's run is the one that is asked for.

    Parameters
    ----------
    folder : Path
    begun, now : dict
        What the run began with, and what it is to go on with.

    Raises
    ------
    DataError
        They differ; each difference is named.
    """
    was, wanted = _flat(begun), _flat(now)
    missing = "nothing"
    differences = [
        f"{name} was {was.get(name, missing)}, is {wanted.get(name, missing)}"
        for name in dict.fromkeys([*was, *wanted])
        if was.get(name, missing) != wanted.get(name, missing)
    ]
    if differences:
        raise DataError(
            f"{folder} holds a training run of other data or settings: {'; '.join(differences)}. "
            "Give the ones it was begun with, choose another folder (--work), or delete it to "
            "train anew."
        )


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Values by dotted name, as JSON: what was written and read again is equal."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat
