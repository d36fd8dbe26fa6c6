"""TIAToolbox's own engine with HoVer-Net (fast): from the slide's file to a file for QuPath.

python benchmarks/peer_hovernet.py prepare SLIDE LABELS.npz WEIGHTS.pth
python benchmarks/peer_hovernet.py run SLIDE WEIGHTS.pth OUT

`prepare` makes the network as TIAToolbox builds it for its MoNuSAC weights, with random weights,
each kernel a random plane (white noise sees no directions as far as a nucleus reaches), and output
layers as `readout.py` says, fitted in SLIDE's middle. The threshold of its nucleus map is moved (by
the bias) to where TIAToolbox's own post-processing finds as many nuclei there as there are in
LABELS. `run` is what a user writes: `MultiTaskSegmentor` with the settings that TIAToolbox
publishes beside its MoNuSAC weights, on the whole file.

**It finds fewer nuclei than predict**, sometimes none: the post-processing stretches the gradients
of a tile to the range of its extremes, and a linear layer on random features puts out far ones in a
few dark nuclei and, it seems, at the slide's edge. Its post-processing has less to do than with
published weights: its whole time is a lower bound.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peer import PeerRun
from readout import Float, fit, nearest_count, read_labels, whole_nuclei

TYPES = 5  # Background, epithelial, lymphocyte, macrophage, neutrophil.
IN_PX, OUT_PX = 256, 164
WINDOWS = 4
LOGIT = 8.0


def network() -> Any:
    from tiatoolbox.models.architecture.hovernet import HoVerNet

    return HoVerNet(num_types=TYPES, mode="fast")


def distances(labels: NDArray[np.int32]) -> Float:
    """Horizontal and vertical distance to a nucleus's middle (H, W, 2), -1 to 1 of its extent."""
    from skimage.measure import regionprops

    maps = np.zeros((*labels.shape, 2), np.float32)
    for nucleus in regionprops(labels):
        rows, columns = nucleus.coords.T
        y, x = nucleus.centroid
        for channel, away in enumerate((columns - x, rows - y)):
            maps[rows, columns, channel] = away / max(float(np.abs(away).max()), 1.0)
    return maps


def prepare(slide: Path, labels: NDArray[np.int32], out: Path, windows: int = WINDOWS) -> int:
    """Write the network's weights; returns how many nuclei it finds where it was fitted.

    Parameters
    ----------
    slide : Path
        At 0.25 µm/px.
    labels : ndarray of int32, (H, W)
        Nuclei of all of level 0.
    out : Path
        The file of weights.
    windows : int
        How many of them a side are looked at, where the slide has room for them.
    """
    import torch
    from openslide import OpenSlide

    lost = IN_PX - OUT_PX
    windows = min(windows, (min(labels.shape) - lost) // OUT_PX)
    side = windows * OUT_PX
    y, x = ((n - side - lost) // 2 for n in labels.shape)
    with OpenSlide(slide) as file:
        at = file.read_region((x, y), 0, (side + lost, side + lost)).convert("RGB")
    pixels = torch.from_numpy(np.asarray(at).copy()).permute(2, 0, 1).float()
    starts = [(r * OUT_PX, c * OUT_PX) for r in range(windows) for c in range(windows)]
    batch = torch.stack([pixels[:, r : r + IN_PX, c : c + IN_PX] for r, c in starts])

    torch.manual_seed(0)
    net = network()
    _planes(net)
    kept: dict[str, list[Float]] = {"np": [], "hv": []}
    for name, features in kept.items():
        last = net.decoder[name].u0.conv
        last.register_forward_pre_hook(_keeper(features))
    with torch.no_grad():
        net.eval()
        for window in batch:
            net(window[None])
        inner = (
            slice(y + lost // 2, y + lost // 2 + side),
            slice(x + lost // 2, x + lost // 2 + side),
        )
        seen = labels[inner]
        maps = {name: _joined(features, windows) for name, features in kept.items()}
        nucleus, offset = _fitted(maps["np"], (seen > 0)[..., None].astype(np.float32))
        nucleus_map = maps["np"] @ nucleus[:, 0] + offset[0]
        direction, middle = _fitted(maps["hv"], distances(seen))
        directions = maps["hv"] @ direction + middle

        def count(level: float) -> int:
            probability = 1 / (1 + np.exp(-LOGIT * (nucleus_map - level)))
            found = net._proc_np_hv(probability[..., None].astype(np.float32), directions)
            return whole_nuclei(found, slice(None), slice(None))

        share = float((seen > 0).mean())
        levels = np.quantile(nucleus_map, 1 - share * np.geomspace(0.25, 2.0, 16))
        level, found = nearest_count(
            count, [float(v) for v in levels], whole_nuclei(labels, *inner)
        )
        _set(net.decoder.np.u0.conv, np.pad(LOGIT * nucleus, ((0, 0), (1, 0))),
             np.array([0.0, LOGIT * (offset[0] - level)]))  # fmt: skip
        _set(net.decoder.hv.u0.conv, direction, middle)
    torch.save(net.state_dict(), out)
    return found


def _planes(net: Any) -> None:
    """Each kernel of more than a pixel a random plane, as strong as it was."""
    import torch

    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size[0] > 1:
            weight = module.weight.data
            along = torch.linspace(-1, 1, weight.shape[-1])
            even, down, right = torch.randn(3, *weight.shape[:2], 1, 1)
            plane = even + down * along[:, None] + right * along
            module.weight.data = plane * (weight.std() / plane.std())


def _keeper(features: list[Float]) -> Any:
    def keep(_module: Any, inputs: tuple[Any, ...]) -> None:
        features.extend(inputs[0].detach().permute(0, 2, 3, 1).numpy().copy())

    return keep


def _joined(parts: list[Float], windows: int) -> Float:
    rows = [np.concatenate(parts[i : i + windows], 1) for i in range(0, len(parts), windows)]
    return np.concatenate(rows)


def _fitted(features: Float, targets: Float) -> tuple[Float, Float]:
    return fit(features.reshape(-1, features.shape[-1]), targets.reshape(-1, targets.shape[-1]))


def _set(layer: Any, weights: NDArray[np.floating], bias: NDArray[np.floating]) -> None:
    import torch

    layer.weight.copy_(torch.from_numpy(weights.T.astype(np.float32))[:, :, None, None])
    layer.bias.copy_(torch.from_numpy(bias.astype(np.float32)))


def segment(slide: Path, weights: Path, out: Path) -> None:
    """The measured run."""
    told = PeerRun(out)
    from tiatoolbox.models.engine.io_config import IOInstanceSegmentorConfig
    from tiatoolbox.models.engine.multi_task_segmentor import MultiTaskSegmentor

    at = {"units": "mpp", "resolution": 0.25}
    engine = MultiTaskSegmentor(
        model=network(), weights=weights, batch_size=8, num_workers=0, device="cpu", verbose=False
    )
    # As in its data/pretrained_model.yaml, hovernet_fast-monusac.
    ioconfig = IOInstanceSegmentorConfig(
        input_resolutions=[at], output_resolutions=[at] * 3, margin=128, tile_shape=[1024, 1024],
        patch_input_shape=[IN_PX] * 2, patch_output_shape=[OUT_PX] * 2, stride_shape=[OUT_PX] * 2,
        save_resolution=at,
    )  # fmt: skip
    told.ready()
    found = engine.run(
        [slide], patch_mode=False, ioconfig=ioconfig, save_dir=out / "tiatoolbox",
        output_type="qupath", auto_get_mask=False, overwrite=True,
    )  # fmt: skip
    told.done(_features(found))


def _features(found: Any) -> int:
    import json

    values = list(found.values()) if isinstance(found, dict) else [found]
    while isinstance(values[0], list | tuple | dict):
        first = values[0]
        values = list(first.values()) if isinstance(first, dict) else list(first)
    return len(json.loads(Path(values[0]).read_text())["features"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("prepare", "run"))
    parser.add_argument("slide", type=Path)
    parser.add_argument("given", type=Path, help="LABELS.npz or WEIGHTS.pth")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    if options.step == "prepare":
        prepare(options.slide, read_labels(options.given), options.out)
    else:
        segment(options.slide, options.given, options.out)


if __name__ == "__main__":
    main()
