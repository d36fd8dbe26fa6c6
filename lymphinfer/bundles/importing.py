"""Bundles out of what others published: official StarDist models."""

from __future__ import annotations

from pathlib import Path

from lymphinfer.bundles.borrowing import write_with_markers_of
from lymphinfer.bundles.composing import used_manifest
from lymphinfer.bundles.schema import BundleManifest
from lymphinfer.downloading import sha256_of
from lymphinfer.errors import BundleError
from lymphinfer.nuclei.stardist.keras import convert_keras, weight_file

_CARD = """# {name}

The StarDist model `{source}`, converted, with the marker model of the bundle `{markers}`.

## Intended use

As `{markers}`'s card says. **Research use only, not for diagnosis.**

## Networks

- Detector: the official Keras weights (`{file}`, sha256 `{sha256}`), the same graph in PyTorch,
  read at {mpp} µm/px. Their data, quality and licence are their publisher's: {licence}.
- Marker model: that of `{markers}`, unchanged, cut around this detector's nuclei.

## Metrics

None of this detector were measured here. The AUROC of the marker model was measured at annotated
nuclei and does not depend on the detector. The pair is measured by
`python benchmarks/quality.py --data DIR --bundle FOLDER`.
"""


def import_stardist_keras(
    folder: Path,
    out: Path,
    *,
    mpp: float,
    markers_from: str | Path,
    licence: str = "as published with the model",
) -> BundleManifest:
    """Make a bundle of an official StarDist model and another bundle's marker model.

    Parameters
    ----------
    folder : Path
        ``config.json``, ``weights_best.h5``, ``thresholds.json``, as StarDist publishes them.
    out : Path
        Folder of the new bundle; its name is the bundle's. Must not exist.
    mpp : float
        Pixel size that the model was trained for, µm/px. No file of the model states it.
    markers_from : str or Path
        A bundle with a patch classifier.
    licence : str
        Of the model.

    Returns
    -------
    BundleManifest

    Raises
    ------
    BundleError
        The model cannot be converted; `out` exists; the other bundle reads its own detector's
        features and cannot work with another.
    """
    if out.exists():
        raise BundleError(f"{out}: is there already; choose another --name, or remove it")
    if not 0.1 <= mpp <= 1.0:
        raise BundleError(f"--mpp {mpp}: a detector of nuclei works at 0.1 to 1.0 µm/px")
    source = convert_keras(folder)
    weights = weight_file(folder)
    return write_with_markers_of(
        markers_from,
        out,
        net=source.net,
        detector={
            "kind": "stardist",
            "file": "stardist.safetensors",
            "mpp": mpp,
            "prob_threshold": source.prob_threshold,
            "nms_threshold": source.nms_threshold,
            "network": source.net.config.to_dict(),
        },
        name=f"StarDist {folder.name}",
        licence=licence,
        card=_CARD.format(
            name=out.name,
            source=folder.name,
            markers=used_manifest(markers_from).name,
            file=weights.name,
            sha256=sha256_of(weights),
            mpp=mpp,
            licence=licence,
        ),
    )
