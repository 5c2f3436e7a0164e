"""The Lightning module: one step of the joint model, its schedule, and the moving average that is exported."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hypoxnet.cases import Batch
from hypoxnet.losses.joint import JointLoss
from hypoxnet.models.joint import HypoxNet
from hypoxnet.training.config import TrainingConfig

Augmentation = Callable[[Batch, torch.Generator], Batch]

# Learning rate at the end of the schedule, as a share of its peak.
FINAL_SHARE = 0.01


def learning_rate_share(progress: float, *, schedule: str, warmup: float) -> float:
    """Learning rate as a share of its peak.

    Args:
        progress: Share of the run that is done, 0 to 1.
        schedule: `cosine` or `polynomial` (power 0.9, as in nnU-Net).
        warmup: Share of the run in which the rate rises linearly.

    Returns:
        Share between `FINAL_SHARE` and 1.

    Example:
        >>> learning_rate_share(0.0, schedule="polynomial", warmup=0.0)
        1.0
    """
    if progress < warmup:
        return max(FINAL_SHARE, progress / warmup)
    left = 1.0 - min(1.0, (progress - warmup) / max(1e-9, 1.0 - warmup))
    share = 0.5 * (1.0 - math.cos(math.pi * left)) if schedule == "cosine" else left**0.9
    return max(FINAL_SHARE, share)


class _Decay:
    """torch's exponential moving average, in a form that can be sent to the processes of several devices."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def __call__(self, averaged: Any, current: Any, count: Any) -> None:
        get_ema_multi_avg_fn(self.decay)(averaged, current, count)  # type: ignore[no-untyped-call]


def _moving_average(model: HypoxNet, decay: float) -> AveragedModel:
    average = AveragedModel(model, multi_avg_fn=_Decay(decay))
    # DDP waits for the gradient of every parameter that asks for one.
    return average.requires_grad_(False)


class HypoxModule(pl.LightningModule):
    """Trains a `HypoxNet`; every random draw depends on the seed and the step alone, so a resumed run repeats itself.

    Args:
        model: The network.
        loss: The joint loss.
        config: Optimisation.
        total_steps: Optimiser steps of the whole run.
        inside_tumour: The segmentation is scored inside the tumour contour only, where there is one.
        augmentation: Applied to every training batch on its device; None leaves the batch as it is.
    """

    def __init__(
        self,
        model: HypoxNet,
        loss: JointLoss,
        config: TrainingConfig,
        *,
        total_steps: int,
        inside_tumour: bool,
        augmentation: Augmentation | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.average = _moving_average(model, config.ema) if config.ema else None
        self.loss = loss
        self.config = config
        self.total_steps = total_steps
        self.inside_tumour = inside_tumour
        self.augmentation = augmentation
        self.seconds_before = 0.0
        self.started: float | None = None

    @property
    def exported(self) -> HypoxNet:
        """The network whose weights leave training: the moving average, or the last weights without one."""
        if self.average is None:
            return self.model
        averaged = self.average.module
        assert isinstance(averaged, HypoxNet)
        return averaged

    @property
    def seconds(self) -> float:
        """Training time so far, interrupted parts included."""
        return self.seconds_before + (time.monotonic() - self.started if self.started is not None else 0.0)

    @property
    def progress(self) -> float:
        """Share of the run that is done: by steps, or by the clock where that is further."""
        by_steps = self.global_step / self.total_steps
        limit = self.config.max_minutes * 60.0
        return min(1.0, max(by_steps, self.seconds / limit if limit else 0.0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; normalisation, biases and other vectors are not decayed, nor is the outcome's baseline."""
        learnt = [*self.model.named_parameters(), *self.loss.named_parameters()]
        # Shrunk to zero, the baseline would pull the average patient towards an arbitrary risk.
        decayed = [p for name, p in learnt if p.requires_grad and p.ndim > 1 and name != "head.baseline"]
        others = [p for name, p in learnt if p.requires_grad and (p.ndim <= 1 or name == "head.baseline")]
        groups = [
            {"params": decayed, "weight_decay": self.config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.config.learning_rate)

    def on_fit_start(self) -> None:
        """Start the clock."""
        self.started = time.monotonic()

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> int | None:
        """Set the learning rate from the progress and dropout's seed from the step: no state that a resume could lose.

        Dropout draws from torch's global state, and so does the loader whenever Lightning makes its iterator, which it
        does at another moment after a resume.
        """
        torch.manual_seed(self._step_seed())
        progress = self.progress
        if self.config.max_minutes and self.seconds >= self.config.max_minutes * 60.0:
            self.trainer.should_stop = True
            return -1
        share = learning_rate_share(progress, schedule=self.config.schedule, warmup=self.config.warmup)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.config.learning_rate * share
        return None

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Augment, predict, score."""
        if self.augmentation is not None:
            generator = torch.Generator(device=batch.images.device)
            generator.manual_seed(self._step_seed())
            with torch.autocast(batch.images.device.type, enabled=False):
                batch = self.augmentation(batch, generator)
        return self._score(self.model, batch, "train")["total"]

    def _step_seed(self) -> int:
        """Another number for each seed, step and process; hashes of integers are the same in every process."""
        return hash((self.config.seed, self.global_step, self.global_rank)) % 2**63

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Score the exported weights on windows that are not augmented."""
        self._score(self.exported, batch, "validation")

    def _score(self, model: HypoxNet, batch: Batch, stage: str) -> dict[str, torch.Tensor]:
        logits = model(
            batch.images, batch.presence, batch.tumour, batch.tumour_known, batch.covariates, batch.covariates_known
        )
        terms: dict[str, torch.Tensor] = self.loss(logits, batch, time=model.time, inside_tumour=self.inside_tumour)
        for name, value in terms.items():
            self.log(
                f"{stage}/{name}",
                value.detach(),
                on_step=False,
                on_epoch=True,
                batch_size=len(batch),
                prog_bar=name == "total",
                sync_dist=True,
            )
        return terms

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        """Move the average towards the new weights."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the training time, which bounds the run when `max_minutes` is set."""
        checkpoint["seconds"] = self.seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting from the time already spent."""
        self.seconds_before = float(checkpoint["seconds"])
