"""What training any detector has in common: steps, their average, and going on after a stop."""

from __future__ import annotations

import json
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from lymphinfer.compute import channels_last
from lymphinfer.errors import DataError
from lymphinfer.nuclei.augment import Augmentation
from lymphinfer.nuclei.datasets import AnnotatedImage
from lymphinfer.training.checkpoint import save_tensors
from lymphinfer.training.resuming import Begun, check_same, digest_arrays, digest_weights

log = logging.getLogger(__name__)

STATE = "state.safetensors"
DATA = "images"
# Settings that may differ when a run goes on: how it is looked at and computed.
_FREE = ("validate_every", "bf16")
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class RunConfig:
    """What every training run states, whatever the network.

    Attributes
    ----------
    mpp : float
        Working pixel size, µm/px.
    crop_px, batch_size, steps : int
        Side of what is learned from, at the working pixel size; crops a step; optimiser steps.
    learning_rate, weight_decay : float
        Of `build_optimizer`; the rate rises for 5 % of the steps and falls along a cosine.
    ema_decay : float
        Of the moving average of the weights, which is what is kept.
    validate_every : int
        Steps between two looks at held-out images, each with a checkpoint.
    seed : int
        Of weights and crops.
    bf16 : bool
        Run the convolutions in bfloat16.
    augmentation : Augmentation
    """

    mpp: float = 0.325
    crop_px: int = 256
    batch_size: int = 8
    steps: int = 6000
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    ema_decay: float = 0.998
    validate_every: int = 500
    seed: int = 0
    bf16: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)


Config = TypeVar("Config", bound=RunConfig)
Net = TypeVar("Net", bound=nn.Module)


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up over 5 % of the steps, then half a cosine to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return float(0.5 * (1 + np.cos(np.pi * min(1.0, (step - warm) / max(1, steps - warm)))))


def build_optimizer(
    net: nn.Module, last_layers: Iterable[nn.Module], config: RunConfig
) -> torch.optim.Optimizer:
    """Muon for the convolutions, AdamW for the last layer of each head, norms and biases.

    Muon (Jordan et al. 2024, timm's implementation) makes each step of a hidden layer orthogonal;
    rescaled to the size of an AdamW step, it shares AdamW's rate. Its steps cannot give a last
    layer the scale that distances in pixels need, hence AdamW there.

    Parameters
    ----------
    net : nn.Module
    last_layers : iterable of nn.Module
        Of the heads.
    config : RunConfig

    Returns
    -------
    torch.optim.Optimizer
    """
    from timm.optim.muon import Muon

    last = {id(p) for m in last_layers for p in m.parameters()}
    hidden = [p for p in net.parameters() if id(p) not in last]
    heads = [p for p in net.parameters() if id(p) in last]
    groups: list[dict[str, Any]] = [
        {"params": hidden},
        {"params": heads, "use_fallback": True},
    ]
    return Muon(groups, lr=config.learning_rate, weight_decay=config.weight_decay)


class DetectorTrainer(ABC, Generic[Net, Config]):
    """One training run in a folder; the same folder again goes on where it stopped.

    Parameters
    ----------
    config : RunConfig
    folder : Path
        ``state.safetensors`` (weights, their average, optimiser), ``log.jsonl``, ``config.json``,
        and the average at each look at held-out images, ``average-STEP.safetensors``.
    device : torch.device or str
    initial : mapping of str to Tensor, optional
        Weights to begin with, by name and shape; others start at random.
    workers : int, optional
        Processes that cut crops; by default all cores but one for a GPU, which waits for them even
        so, and the class's `workers` for a CPU.
    looks : iterable of int
        Steps whose average is kept besides those of ``validate_every``.

    Attributes
    ----------
    net, average : nn.Module
        What is trained, and the moving average of its weights.
    step : int
        Steps taken.
    """

    loss_names: tuple[str, ...]
    workers = 0

    def __init__(
        self,
        config: Config,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        initial: dict[str, Tensor] | None = None,
        workers: int | None = None,
        looks: Iterable[int] = (),
    ):
        self.config, self.folder, self.device = config, folder, torch.device(device)
        if workers is None:
            on_gpu = self.device.type == "cuda"
            workers = max(1, (os.cpu_count() or 1) - 1) if on_gpu else type(self).workers
        self.workers = workers
        self.looks = frozenset(looks)
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.net: Net = channels_last(self.build(), self.device)
        if initial is not None:
            own = self.net.state_dict()
            fitting = {k: v for k, v in initial.items() if k in own and own[k].shape == v.shape}
            self.net.load_state_dict(fitting, strict=False)
            log.info("%d of %d tensors start from given weights", len(fitting), len(own))
        self.average: Net = deepcopy(self.net).eval()
        self.optimizer = build_optimizer(self.net, self.last_layers(), config)
        self.step = 0
        plain = {k: v for k, v in asdict(config).items() if k not in _FREE}
        self.begun: Begun = {**plain, "initial weights": digest_weights(initial)}
        self._resumed: Begun | None = None
        if (folder / STATE).exists():
            self._resumed = self._read_begun()
            settings = {k: v for k, v in self._resumed.items() if k != DATA}
            check_same(folder, settings, self.begun)
            self._load()
        (folder / "config.json").write_text(json.dumps(asdict(config), indent=1), "utf-8")

    @abstractmethod
    def build(self) -> Net:
        """Network of the configuration, with random weights."""

    @abstractmethod
    def last_layers(self) -> Iterable[nn.Module]:
        """Layers of `net` whose outputs are the predictions."""

    @abstractmethod
    def losses(self, batch: Batch) -> Sequence[Tensor]:
        """Scalars named by `loss_names`; the first is minimised. The batch is on the device."""

    @abstractmethod
    def score(self, held_out: Sequence[AnnotatedImage]) -> dict[str, float]:
        """Quality of the averaged network on held-out images, for the log."""

    def run(
        self,
        dataset: Dataset[Batch],
        data: Mapping[str, Sequence[AnnotatedImage]],
        held_out: Sequence[AnnotatedImage],
    ) -> Net:
        """Train to the last step and return the averaged network in evaluation mode.

        Parameters
        ----------
        dataset : Dataset
            Endless; begun where this run stands.
        data : mapping of str to sequence of AnnotatedImage
            What the crops are cut from, by set. A run goes on with the same images alone.
        held_out : sequence of AnnotatedImage
            Scored every ``validate_every`` steps, never trained on; may be empty.

        Returns
        -------
        nn.Module

        Raises
        ------
        DataError
            The folder's run was begun with other images.
        """
        self.begun[DATA] = {name: _digest(images) for name, images in data.items()}
        if self._resumed is not None:
            check_same(self.folder, {DATA: self._resumed[DATA]}, {DATA: self.begun[DATA]})
        cfg = self.config
        batches = iter(
            DataLoader(
                dataset,
                batch_size=cfg.batch_size,
                num_workers=self.workers,
                prefetch_factor=4 if self.workers else None,
                worker_init_fn=use_one_thread,
            )
        )
        self.net.train()
        began, sums, count = time.monotonic(), np.zeros(len(self.loss_names)), 0
        while self.step < cfg.steps:
            sums += self._update(next(batches))
            self.step, count = self.step + 1, count + 1
            if self.step % cfg.validate_every == 0 or self.step in {*self.looks, cfg.steps}:
                self._report(held_out, sums / count, time.monotonic() - began)
                began, sums, count = time.monotonic(), np.zeros(len(self.loss_names)), 0
                self._save()
        return self.average.eval()

    def _update(self, batch: Batch) -> NDArray[np.float64]:
        cfg = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.learning_rate * learning_rate_factor(self.step, cfg.steps)
        losses = self.losses({k: v.to(self.device) for k, v in batch.items()})
        self.optimizer.zero_grad(set_to_none=True)
        losses[0].backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimizer.step()
        decay = min(cfg.ema_decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            own = self.net.state_dict()
            kept = self.average.state_dict()
            weights = [name for name, value in kept.items() if value.is_floating_point()]
            # One call for all of them: a GPU waits for each.
            get_ema_multi_avg_fn(decay)(
                [kept[name] for name in weights], [own[name] for name in weights], None
            )
            for name in kept.keys() - weights:
                kept[name].copy_(own[name])
        return np.array([float(v.detach()) for v in losses])

    def _report(
        self, held_out: Sequence[AnnotatedImage], losses: NDArray[np.float64], seconds: float
    ) -> None:
        row: dict[str, Any] = {"step": self.step, "seconds": round(seconds, 1)}
        row |= dict(zip(self.loss_names, losses.round(4).tolist(), strict=True))
        if held_out:
            row |= {name: round(value, 4) for name, value in self.score(held_out).items()}
        with (self.folder / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        log.info("%s", row)

    def _save(self) -> None:
        save_tensors(
            self.folder / f"average-{self.step}.safetensors", self.average.state_dict(), {}
        )
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            # What is no tensor (which rule a parameter follows), the optimiser finds out again.
            kept = {k: v for k, v in state.items() if isinstance(v, Tensor)}
            tensors |= {f"optimizer.{index}.{k}": v for k, v in kept.items()}
        tensors["step"] = torch.tensor(self.step)
        save_tensors(self.folder / STATE, tensors, {"begun": json.dumps(self.begun)})

    def _read_begun(self) -> Begun:
        """What the folder's run was begun with."""
        path = self.folder / STATE
        try:
            with safe_open(path, "pt") as file:
                found: Begun = json.loads(file.metadata()["begun"])
            return found
        # A state of an earlier version has no metadata: what it was begun with cannot be proved.
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: not a checkpoint of this version ({error}). Delete {self.folder} to "
                "train anew."
            ) from error

    def _load(self) -> None:
        tensors = load_file(self.folder / STATE)
        self.step = int(tensors.pop("step"))

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.net.load_state_dict(part("net."))
        self.average.load_state_dict(part("average."))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimizer.").items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _digest(images: Sequence[AnnotatedImage]) -> str:
    """Images of a set as one line: how many, and a hash of pixels, nuclei and what is known."""
    sizes = np.array([image.mpp for image in images])
    arrays = (a for i in images for a in (i.image, i.instances, i.leukocyte))
    return f"{len(images)} images ({digest_arrays([sizes, *arrays])})"


def use_one_thread(worker: int) -> None:
    """Keep a process that cuts crops to one thread; stardist's C++ would start one a core in each.

    Parameters
    ----------
    worker : int
        Its number; what `DataLoader` passes.
    """
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def network_input(image: Tensor) -> Tensor:
    """Images uint8 (B, 3, H, W) as float in [0, 1], channels last."""
    return image.float().div_(255).contiguous(memory_format=torch.channels_last)
