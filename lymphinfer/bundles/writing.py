"""Writing a bundle: weights as safetensors, and the manifest with their hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import tomli_w

from lymphinfer.bundles.schema import MANIFEST, SCHEMA_VERSION, BundleManifest, MarkerSpec
from lymphinfer.bundles.schema import read_manifest as _read_manifest
from lymphinfer.downloading import sha256_of
from lymphinfer.panel import PANELS, Panel

if TYPE_CHECKING:
    from torch import nn


def write_bundle(
    folder: Path,
    *,
    modules: Mapping[str, nn.Module],
    header: Mapping[str, Any],
    detector: Mapping[str, Any],
    classifier: Mapping[str, Any],
    markers: list[MarkerSpec],
    panel: Panel | None = None,
    half: bool = True,
    others: Mapping[str, bytes] = MappingProxyType({}),
) -> BundleManifest:
    """Write weights and manifest.

    Parameters
    ----------
    folder : Path
        Made if it is missing; its weights and manifest are replaced.
    modules : mapping of str to nn.Module
        File name (``*.safetensors``) to network.
    header : mapping
        ``name``, ``version``, ``summary``, ``licence``, ``panel`` (name), ``mpp``, ``hierarchy``.
    detector, classifier : mapping
        Tables as `lymphinfer.bundles.loading` reads them.
    markers : list of MarkerSpec
    panel : Panel, optional
        Where it is none of LymphInfer's: parents and colours go into the manifest.
    half : bool
        Store float16: half the size, differences far below the networks' own noise.
    others : mapping of str to bytes
        Further safetensors that the tables name, by file name.

    Returns
    -------
    BundleManifest
        Read back, so that what was written is known to be valid.
    """
    import torch
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.float16 if half else torch.float32
    for name, module in modules.items():
        state = {
            k: (v.to(dtype) if v.is_floating_point() else v).contiguous().cpu()
            for k, v in module.state_dict().items()
        }
        # Not save_file: it leaves files that only their owner may read.
        (folder / name).write_bytes(save(state))
    for name, content in others.items():
        (folder / name).write_bytes(content)
    document = {
        "schema": SCHEMA_VERSION,
        **header,
        "files": {name: sha256_of(folder / name) for name in (*modules, *others)},
        "detector": dict(detector),
        "classifier": dict(classifier),
        "marker": [{**marker_table(marker), **_of_panel(marker, panel)} for marker in markers],
    }
    (folder / MANIFEST).write_bytes(tomli_w.dumps(document).encode())
    return _read_manifest(folder)


def _of_panel(marker: MarkerSpec, panel: Panel | None) -> dict[str, Any]:
    """What makes a panel of one's own of its markers' tables."""
    if panel is None or PANELS.get(panel.name) == panel:
        return {}
    own = panel.described()[panel.index(marker.name)]
    return {key: value for key, value in own.items() if value}


def marker_table(marker: MarkerSpec) -> dict[str, Any]:
    """What a marker's table says: nothing of what is unknown or as it mostly is."""
    values = {f.name: getattr(marker, f.name) for f in fields(marker)}
    points = {name: point.to_dict() for name, point in marker.points.items()}
    table = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}
    table |= {"evidence": marker.evidence.value, "points": points}
    return {k: v for k, v in table.items() if v is not False and v != {}}
