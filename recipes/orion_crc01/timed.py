"""Training for a given number of seconds, and telling cells, with all pixels on the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.compute import half_type
from lymphinfer.markers.classifier import ClassifierConfig, MarkerClassifier, masked_bce
from recipes.orion_crc01.device_slide import DeviceSlide, change_stain

WARM_UP = 0.08
WEIGHT_DECAY = 0.02
LAYER_SCALE = 0.1
"""ConvNeXt's layers begin at 1e-6 of their own, from where a short training does not raise them."""


@dataclass(frozen=True)
class Fitted:
    """What a training took.

    Attributes
    ----------
    steps, patches : int
    seconds : float
    loss : float
        Mean of its last steps.
    """

    steps: int
    patches: int
    seconds: float
    loss: float


@dataclass
class Bench:
    """Where networks are trained.

    Attributes
    ----------
    slide : DeviceSlide
    device : torch.device
    generator : torch.Generator
        On the device: which cells, how they are turned and stained.
    most_steps : int
        Of one training, for rehearsals; 0: as many as there is time for.
    told_at_once : int
        Cells.
    """

    slide: DeviceSlide
    device: torch.device
    generator: torch.Generator
    most_steps: int = 0
    told_at_once: int = 256

    def __post_init__(self) -> None:
        self.half = half_type(self.device)

    def build(self, config: ClassifierConfig) -> MarkerClassifier:
        """Make a network with random weights on the device, its layers awake."""
        torch.manual_seed(0)
        with torch.device(self.device):
            net = MarkerClassifier(config)
        with torch.no_grad():
            for module in net.modules():
                gamma = getattr(module, "gamma", None)
                if isinstance(gamma, nn.Parameter):
                    gamma.fill_(LAYER_SCALE)
        moved: MarkerClassifier = net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return moved

    def fit(
        self,
        net: MarkerClassifier,
        index: NDArray[np.int64],
        labels: NDArray[np.floating] | NDArray[np.integer],
        *,
        seconds: float,
        batch: int,
        rate: float,
        weights: NDArray[np.float32] | None = None,
        soft: bool = False,
    ) -> Fitted:
        """Train for a number of seconds, the rate falling to 0 by then.

        The first step, in which the device chooses its kernels, is not in the time.

        Parameters
        ----------
        net : MarkerClassifier
        index : ndarray of int64, (N,)
            Cells of the slide.
        labels : ndarray, (N, M)
            1, 0 or -1 unknown; values in [0, 1] where `soft`.
        seconds : float
        batch : int
        rate : float
            Highest learning rate.
        weights : ndarray of float32, (M,), optional
            Of positive labels.
        soft : bool

        Returns
        -------
        Fitted

        Raises
        ------
        FloatingPointError
            The loss is not finite.
        """
        cuda = self.device.type == "cuda"
        cells = torch.from_numpy(index).to(self.device)
        truth = torch.from_numpy(np.ascontiguousarray(labels, np.float32)).to(self.device)
        positive = None if weights is None else torch.from_numpy(weights).to(self.device)
        optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=WEIGHT_DECAY, fused=cuda)
        net.train()
        waiting: list[Callable[[], object]] = []
        losses: list[Tensor] = []
        begun, steps = time.perf_counter(), 0
        while True:
            share = (time.perf_counter() - begun) / max(seconds, 1e-9)
            if self.most_steps:
                share = steps / self.most_steps
            if share >= 1 and steps:
                break
            for group in optimizer.param_groups:
                group["lr"] = rate * _factor(min(share, 1.0))
            drawn = torch.randint(
                len(cells), (batch,), generator=self.generator, device=self.device
            )
            logits = self._logits(net, cells[drawn], learn=True)
            if soft:
                loss = F.binary_cross_entropy_with_logits(logits, truth[drawn])
            else:
                loss = masked_bce(logits, truth[drawn], positive)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 2.0)
            optimizer.step()
            losses.append(loss.detach())
            steps += 1
            if cuda:
                event = torch.cuda.Event()
                event.record()
                waiting.append(event.synchronize)
                # Queued steps would still run when the time is over.
                if len(waiting) > 2 or steps == 1:
                    waiting.pop(0)()
            if steps == 1:
                begun = time.perf_counter()
        if cuda:
            torch.cuda.synchronize(self.device)
        mean = float(torch.stack(losses[-50:]).mean())
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss is {mean} after {steps} steps")
        return Fitted(steps, steps * batch, time.perf_counter() - begun, mean)

    @torch.inference_mode()
    def tell(self, net: MarkerClassifier, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (N, M) of cells as they are."""
        net.eval()
        # All batches have one size, for which the device chooses its kernels once.
        filled = np.resize(index, math.ceil(len(index) / self.told_at_once) * self.told_at_once)
        cells = torch.from_numpy(filled).to(self.device)
        parts = [self._logits(net, part, learn=False) for part in cells.split(self.told_at_once)]
        logits: NDArray[np.float32] = torch.cat(parts)[: len(index)].cpu().numpy()
        return logits

    def seconds_to_tell(self, net: MarkerClassifier, index: NDArray[np.int64]) -> float:
        """How long `tell` will take, by one of its batches."""
        few = index[: self.told_at_once]
        # The first time kernels are chosen.
        self.tell(net, few)
        begun = time.perf_counter()
        self.tell(net, few)
        return (time.perf_counter() - begun) * math.ceil(len(index) / self.told_at_once)

    def _logits(self, net: MarkerClassifier, cells: Tensor, *, learn: bool) -> Tensor:
        x = self.slide.cut(cells, net.config.patch_px, self.generator if learn else None)
        if learn:
            x = change_stain(x, self.generator)
        half = self.half
        # Without a scaler of gradients float16 is no choice.
        if half is not torch.bfloat16:
            half = None
        with torch.autocast(self.device.type, half, enabled=half is not None):
            logits = net(x.contiguous(memory_format=torch.channels_last))
        found: Tensor = logits.float()
        return found


def _factor(share: float) -> float:
    """Share of the highest rate at a share of the time."""
    if share < WARM_UP:
        return max(share / WARM_UP, 0.02)
    return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
