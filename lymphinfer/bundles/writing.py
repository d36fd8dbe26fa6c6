"""Writing a bundle: weights as safetensors, and the manifest with their hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors.torch import save
from torch import nn

from lymphinfer.bundles.loading import sha256_of
from lymphinfer.bundles.schema import MANIFEST, SCHEMA_VERSION, BundleManifest, MarkerSpec
from lymphinfer.bundles.schema import read_manifest as _read_manifest


def write_bundle(
    folder: Path,
    *,
    modules: Mapping[str, nn.Module],
    header: Mapping[str, Any],
    detector: Mapping[str, Any],
    classifier: Mapping[str, Any],
    markers: list[MarkerSpec],
    half: bool = True,
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
    half : bool
        Store float16: half the size, differences far below the networks' own noise.

    Returns
    -------
    BundleManifest
        Read back, so that what was written is known to be valid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.float16 if half else torch.float32
    for name, module in modules.items():
        state = {
            k: (v.to(dtype) if v.is_floating_point() else v).contiguous().cpu()
            for k, v in module.state_dict().items()
        }
        # Not save_file: it leaves files that only their owner may read.
        (folder / name).write_bytes(save(state))
    rows = [
        {k: (list(v) if isinstance(v, tuple) else v) for k, v in asdict(m).items() if v is not None}
        for m in markers
    ]
    document = {
        "schema": SCHEMA_VERSION,
        **header,
        "files": {name: sha256_of(folder / name) for name in modules},
        "detector": dict(detector),
        "classifier": dict(classifier),
        "marker": [{**row, "evidence": str(row["evidence"])} for row in rows],
    }
    (folder / MANIFEST).write_bytes(tomli_w.dumps(document).encode())
    return _read_manifest(folder)
