"""Bundles out of HoVer-Net weights that others published, TIAToolbox's above all.

They are published as ``.pth``: pickles, which run code when they are read as such. LymphInfer reads
none where it predicts. Here, once and on the user's word, the file goes through torch's restricted
unpickler (``weights_only=True``), which builds tensors and plain containers and refuses all else;
what comes out is stored as safetensors, and the pickle is not kept in the bundle. Before torch 2.6
that unpickler could be got round (CVE-2025-32434), so older ones are refused.

TIAToolbox's table names the files and no hashes. A hash is checked where the user states one, and
what was found is printed and recorded in the bundle, so that another site can state it.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lymphinfer.bundles.borrowing import write_with_markers_of
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.bundles.download import fetch
from lymphinfer.bundles.schema import BundleManifest
from lymphinfer.downloading import OnBytes, sha256_of, silent
from lymphinfer.errors import BundleError
from lymphinfer.nuclei.hovernet.network import HoVerNetConfig, build_network, config_of
from lymphinfer.nuclei.hovernet.tiatoolbox import Published, published_models

FILE = "hovernet.safetensors"
SAFE_TORCH = (2, 6)
LICENCE = "as published with the weights"
_CARD = """# {name}

HoVer-Net ({mode} mode) with the weights `{source}`, and the marker model of the bundle `{markers}`.

## Intended use

As `{markers}`'s card says. **Research use only, not for diagnosis.** The weights' data and licence
are their publisher's ({licence}); several of TIAToolbox's were learned on data for non-commercial
use only.

## Networks

- Detector: TIAToolbox's architecture and post-processing, read at {mpp} µm/px; nucleus types:
  {types}. Source file sha256 `{sha256}` ({checked}).
- Marker model: that of `{markers}`, unchanged, cut around this detector's nuclei.

## Metrics

None of this detector were measured here. The AUROC of the marker model was measured at annotated
nuclei and does not depend on the detector.
"""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or of a PyTorch file by the restricted unpickler.

    Raises
    ------
    BundleError
        Not readable, holds more than tensors, or torch is too old to read it safely.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if tuple(int(v) for v in torch.__version__.split(".")[:2]) < SAFE_TORCH:
            raise BundleError(
                f"{path}: torch {torch.__version__} cannot read PyTorch files safely; update it "
                "to 2.6 or later"
            )
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise BundleError(
            f"{path}: holds more than tensors or is damaged, and was not read on "
            f"({str(error).splitlines()[0]})"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("desc"), dict):
        content = content["desc"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise BundleError(f"{path}: not a table of tensors, as a network's weights are")
    return {str(k).removeprefix("module."): v for k, v in content.items()}


def import_hovernet(
    path: Path,
    out: Path,
    *,
    types: tuple[str, ...] = (),
    mpp: float = 0.25,
    markers_from: str | Path,
    licence: str = LICENCE,
    sha256: str | None = None,
    source_name: str = "",
) -> BundleManifest:
    """Make a bundle of HoVer-Net weights and another bundle's marker model.

    Parameters
    ----------
    path : Path
        TIAToolbox's ``.pth``, or safetensors under the same names.
    out : Path
        Folder of the new bundle; its name is the bundle's. Must not exist.
    types : tuple of str
        Names of the nucleus types without background; by default those of TIAToolbox's table
        where the file has a name of it.
    mpp : float
        Pixel size that the weights were learned at, µm/px.
    markers_from : str or Path
        A bundle with a patch classifier.
    licence : str
        Of the weights.
    sha256 : str, optional
        That the file must have.
    source_name : str
        What the card calls the weights; by default the file's name.

    Returns
    -------
    BundleManifest

    Raises
    ------
    BundleError
        TIAToolbox is not installed, the file has another hash or is no HoVer-Net's, `out` exists,
        or the other bundle's markers depend on its own detector.
    """
    if out.exists():
        raise BundleError(f"{out}: is there already; choose another --name, or remove it")
    if not 0.1 <= mpp <= 1.0:
        raise BundleError(f"--mpp {mpp}: a detector of nuclei works at 0.1 to 1.0 µm/px")
    if not path.is_file():
        raise BundleError(f"{path}: no such file")
    found = sha256_of(path)
    if sha256 is not None and found != sha256:
        raise BundleError(f"{path}: has sha256 {found[:12]}…, expected {sha256[:12]}…")
    table = published_models()
    state = read_weights(path)
    if not types and path.stem in table:
        types = table[path.stem].types
    try:
        config = config_of(state, types)
        net = build_network(config)
        net.load_state_dict(state)
    except (BundleError, RuntimeError, ValueError) as error:
        raise BundleError(f"{path}: {str(error).splitlines()[0]}") from error
    source = source_name or path.name
    card = _CARD.format(
        name=out.name,
        mode=config.mode,
        source=source,
        markers=used_manifest(markers_from).name,
        mpp=mpp,
        types=", ".join(config.types) or "none",
        licence=licence,
        sha256=found,
        checked="as stated by the user" if sha256 else "nothing to compare it with",
    )
    return write_with_markers_of(
        markers_from,
        out,
        net=net,
        detector=hovernet_table(config, mpp, source=source, sha256=found),
        name=f"HoVer-Net ({source})",
        licence=licence,
        card=card,
    )


def pull_hovernet(
    name: str,
    out: Path,
    *,
    markers_from: str | Path,
    sha256: str | None = None,
    published: Published | None = None,
    on_bytes: OnBytes = silent,
    wait_s: float = 1.0,
) -> BundleManifest:
    """Fetch published weights, resumed where a try was cut, and make a bundle of them.

    Parameters
    ----------
    name : str
        Of TIAToolbox's table, such as ``hovernet_fast-monusac``.
    out : Path
        As in `import_hovernet`.
    markers_from : str or Path
    sha256 : str, optional
        That the file must have; without it the hash found is recorded.
    published : Published, optional
        Instead of the table's entry.
    on_bytes : callable
    wait_s : float
        As in `fetch`.

    Returns
    -------
    BundleManifest

    Raises
    ------
    BundleError
        As `fetch` and `import_hovernet`.
    """
    if out.exists():
        raise BundleError(f"{out}: is there already; remove it to fetch it again")
    entry = published or published_models().get(name)
    if entry is None:
        raise BundleError(f"{name}: TIAToolbox publishes {', '.join(published_models())}")
    path = out.parent / f".{name}.pth"
    try:
        fetch(entry.url, path, sha256=sha256, on_bytes=on_bytes, wait_s=wait_s)
    except BundleError as error:
        raise BundleError(
            f"{error} The file of another machine becomes a bundle by `lymphinfer weights import "
            f"hovernet {name}.pth`."
        ) from error
    try:
        return import_hovernet(
            path,
            out,
            types=entry.types,
            mpp=entry.mpp,
            markers_from=markers_from,
            sha256=sha256,
            source_name=name,
            licence="as published by the TIA Centre with TIAToolbox's pretrained models",
        )
    finally:
        path.unlink(missing_ok=True)


def hovernet_table(
    config: HoVerNetConfig, mpp: float, *, source: str, sha256: str
) -> dict[str, Any]:
    """The table ``[detector]`` of a HoVer-Net: its shape, pixel size and what it was made from."""
    return {
        "kind": "hovernet",
        "file": FILE,
        "mpp": mpp,
        "source": source,
        "source_sha256": sha256,
        "network": config.to_dict(),
    }
