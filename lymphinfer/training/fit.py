"""Training a marker classifier: accumulation, early stopping, and resumption to the same curve."""

from __future__ import annotations

import json
import logging
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from lymphinfer.errors import DataError, LymphinferError
from lymphinfer.markers.classifier import MarkerClassifier, masked_bce
from lymphinfer.training.checkpoint import (
    BEST,
    LOG,
    RunLog,
    RunState,
    load_state,
    read_state,
    save_state,
    save_tensors,
)
from lymphinfer.training.config import RetrainConfig
from lymphinfer.training.data import (
    AUGMENTATION,
    Batch,
    EpochBatches,
    StoreSet,
    epoch_order,
    window_rows,
)
from lymphinfer.training.detectors.trainer import learning_rate_factor
from lymphinfer.training.device import make_accelerator
from lymphinfer.training.fingerprint import run_begun, run_fingerprint
from lymphinfer.training.losses import positive_weights
from lymphinfer.training.report import Reporter
from lymphinfer.training.resuming import check_same
from lymphinfer.training.start import build_classifier
from lymphinfer.training.validation import validate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """A finished run.

    Attributes
    ----------
    net : MarkerClassifier
        With the weights of the best epoch, in evaluation mode on the CPU.
    state : RunState
    """

    net: MarkerClassifier
    state: RunState


class Trainer:
    """One training run in a folder; the same folder again goes on where it stopped.

    Parameters
    ----------
    config : RetrainConfig
    train, val : StoreSet
    folder : Path
        ``state.safetensors``, ``best.safetensors``, ``log.jsonl`` and TensorBoard's ``events``.
    device : str
        ``auto`` or ``cpu``.
    progress : bool
        Show a bar.

    Raises
    ------
    DataError
        The folder holds a run of other data or settings; a marker cannot be learned.
    """

    def __init__(
        self,
        config: RetrainConfig,
        train: StoreSet,
        val: StoreSet,
        folder: Path,
        *,
        device: str = "auto",
        progress: bool = True,
    ):
        self.config, self.train, self.val, self.folder = config, train, val, folder
        fit = config.fit
        weights = positive_weights(train.labels, train.panel)
        fingerprint = run_fingerprint(config, (train, val))
        begun = run_begun(config, (train, val))
        state = read_state(folder)
        if state is not None and state.fingerprint != fingerprint:
            check_same(folder, state.begun or {"fingerprint": state.fingerprint}, begun)
        self.accelerator = make_accelerator(fit.precision, device)
        torch.manual_seed(fit.seed)
        if state is None:
            self.net, start = build_classifier(config.model, train.panel, train.patch_px)
        else:
            blank = {**asdict(config.model), "pretrained": "no", "backbone_weights": ""}
            model = type(config.model)(**blank)
            self.net, start = build_classifier(model, train.panel, train.patch_px)
        self.state = state or RunState(fingerprint, start=start, begun=begun)
        self.net.to(self.accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=fit.learning_rate, weight_decay=fit.weight_decay
        )
        if state is not None:
            load_state(folder, self.net, optimizer)
            if self.accelerator.scaler is not None and state.scaler:
                self.accelerator.scaler.load_state_dict(state.scaler)
        self.model, self.optimizer = self.accelerator.prepare(self.net, optimizer)
        self.positive_weight = (
            torch.from_numpy(weights).to(self.accelerator.device) if fit.weighted else None
        )
        self.chunks = train.chunks()
        self.progress = progress

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return math.ceil(len(self._batches(0)) / self.config.fit.accumulation)

    def fit(self) -> FitResult:
        """Train until the mean validation AUROC has not risen for `patience` epochs.

        Returns
        -------
        FitResult

        Raises
        ------
        LymphinferError
            The loss is not finite.
        """
        state, fit = self.state, self.config.fit
        main = self.accelerator.is_main_process
        run_log = RunLog(self.folder / LOG, state.log_bytes) if main else None
        total = fit.epochs * self.steps_per_epoch
        with Reporter(self.folder, state.step, total, show=main and self.progress) as reporter:
            while not self._is_over():
                self._epoch(run_log, reporter)
                row = self._validate()
                if run_log is not None:
                    run_log.write(row)
                    reporter.epoch(row)
                self._save(run_log)
        if run_log is not None:
            run_log.close()
        self.accelerator.wait_for_everyone()
        net = MarkerClassifier(self.net.config)
        net.load_state_dict(load_file(self.folder / BEST))
        self.accelerator.free_memory()
        return FitResult(net.eval(), state)

    def _is_over(self) -> bool:
        state, fit = self.state, self.config.fit
        waited = state.epoch - 1 - state.best_epoch
        return state.epoch >= fit.epochs or (state.epoch > 0 and waited >= fit.patience)

    def _batches(self, epoch: int) -> EpochBatches:
        fit, ranks = self.config.fit, self.accelerator.num_processes
        window = window_rows(self.chunks, fit.window_chunks, fit.batch_size * ranks)
        return EpochBatches(
            self.train,
            epoch_order(self.chunks, window=window, seed=fit.seed, epoch=epoch),
            batch_size=fit.batch_size,
            seed=fit.seed,
            epoch=epoch,
            augmentation=AUGMENTATION if fit.augment else None,
            rank=self.accelerator.process_index,
            ranks=ranks,
        )

    def _epoch(self, run_log: RunLog | None, reporter: Reporter) -> None:
        state, fit = self.state, self.config.fit
        batches = self._batches(state.epoch)
        if not len(batches):
            raise DataError(
                f"{len(self.train)} training patches do not fill one batch of {fit.batch_size}; "
                "set a smaller [fit] batch_size or add cells"
            )
        done = state.epoch_step * fit.accumulation
        loader = DataLoader(
            Subset(batches, range(done, len(batches))),
            batch_size=None,
            num_workers=fit.workers,
            pin_memory=self.accelerator.device.type == "cuda",
            prefetch_factor=4 if fit.workers else None,
        )
        self.model.train()
        group: list[Batch] = []
        began = time.monotonic()
        for index, batch in enumerate(loader, start=done):
            group.append(batch)
            if len(group) < fit.accumulation and index + 1 < len(batches):
                continue
            loss, rate = self._step(group)
            group = []
            state.step, state.epoch_step = state.step + 1, state.epoch_step + 1
            state.loss_sum += loss
            now = time.monotonic()
            state.seconds, began = state.seconds + now - began, now
            row = {"step": state.step, "epoch": state.epoch, "loss": loss, "rate": rate}
            if run_log is not None:
                run_log.write(row)
                reporter.step(row)
            if state.step % fit.checkpoint_steps == 0 and index + 1 < len(batches):
                self._save(run_log)
                began = time.monotonic()

    def _step(self, group: list[Batch]) -> tuple[float, float]:
        """One optimiser step over some batches; returns mean loss and learning rate."""
        fit, accelerator = self.config.fit, self.accelerator
        rate = fit.learning_rate
        if fit.schedule == "cosine":
            rate *= learning_rate_factor(self.state.step, fit.epochs * self.steps_per_epoch)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        losses: list[Tensor] = []
        for index, (patches, labels) in enumerate(group):
            # Dropout of this batch, the same whether or not the run was interrupted before it.
            seed = [fit.seed, self.state.step, index, accelerator.process_index]
            torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
            x = patches.to(accelerator.device, non_blocking=True).float().div_(255)
            x = x.contiguous(memory_format=torch.channels_last)
            last = index + 1 == len(group)
            with nullcontext() if last else accelerator.no_sync(self.model):
                logits = self.model(x)
                loss = masked_bce(logits, labels.to(accelerator.device), self.positive_weight)
                accelerator.backward(loss / len(group))
            losses.append(loss.detach())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        mean = accelerator.reduce(torch.stack(losses).mean(), "mean")
        value = float(mean)
        if not math.isfinite(value):
            raise LymphinferError(
                f"the loss is {value} at step {self.state.step + 1}; go on from the last "
                f'checkpoint in {self.folder} with a smaller learning_rate or precision = "no"'
            )
        return value, rate

    def _validate(self) -> dict[str, Any]:
        """Close the epoch: score the validation set and keep the weights if they are the best."""
        state = self.state
        mean, aurocs = validate(
            self.net, self.val, self.accelerator, batch_size=2 * self.config.fit.batch_size
        )
        if mean > state.best_auroc:
            state.best_auroc, state.best_epoch = mean, state.epoch
            if self.accelerator.is_main_process:
                network = json.dumps(self.net.config.to_dict())
                save_tensors(self.folder / BEST, self.net.state_dict(), {"network": network})
        row = {
            "epoch": state.epoch,
            "step": state.step,
            "train_loss": state.loss_sum / max(state.epoch_step, 1),
            "auroc": mean,
            "aurocs": aurocs,
        }
        state.history.append(row)
        state.epoch, state.epoch_step, state.loss_sum = state.epoch + 1, 0, 0.0
        state.finished = self._is_over()
        return row

    def _save(self, run_log: RunLog | None) -> None:
        if run_log is None:
            return
        self.state.log_bytes = run_log.flush()
        if self.accelerator.scaler is not None:
            self.state.scaler = self.accelerator.scaler.state_dict()
        save_state(self.folder, self.state, self.net, self.optimizer)
