"""One training: from a split and settings to fitted weights; goes on where it was interrupted."""

from __future__ import annotations

import functools
import logging
import math
import os
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from hypoxnet.data.config import DataConfig
from hypoxnet.data.datamodule import HypoxiaDataModule
from hypoxnet.data.splits import Split
from hypoxnet.errors import ConfigError
from hypoxnet.losses.config import LossConfig
from hypoxnet.losses.joint import JointLoss
from hypoxnet.models.build import build_model
from hypoxnet.models.config import ModelConfig, OutcomeConfig
from hypoxnet.models.joint import HypoxNet
from hypoxnet.models.spec import ModelSpec
from hypoxnet.quantities import quantity
from hypoxnet.survival.time_models.bank import RiskSetBank
from hypoxnet.training.config import TrackingConfig, TrainingConfig
from hypoxnet.training.copies import by_torchrun, machines
from hypoxnet.training.module import Augmentation, HypoxModule
from hypoxnet.training.start import freeze, start_from
from hypoxnet.training.tracking import History, build_logger
from hypoxnet.transforms.augment import augment
from hypoxnet.transforms.config import AugmentConfig
from hypoxnet.transforms.settings import PrepareSettings

log = logging.getLogger(__name__)

# Which layers began with which weights of `training.start`.
START = "start.json"


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """The settings of every room that training composes."""

    data: DataConfig
    augment: AugmentConfig
    model: ModelConfig
    outcome: OutcomeConfig
    loss: LossConfig
    training: TrainingConfig
    tracking: TrackingConfig


@dataclass(frozen=True, slots=True)
class FittedModel:
    """What training hands on.

    Args:
        spec: How to build the network.
        weights: Its state, on the CPU.
        seconds: Training time, interrupted parts included.
        steps: Optimiser steps.
    """

    spec: ModelSpec
    weights: dict[str, torch.Tensor]
    seconds: float
    steps: int


def fit(split: Split, settings: PrepareSettings, setup: TrainingSetup, folder: Path, *, name: str) -> FittedModel:
    """Train on `split.train`; `split.validation`, where there is one, chooses the best epoch.

    An interrupted training is continued from its last whole epoch and ends with the same weights as one that was
    not interrupted (bit for bit on the CPU, unless `max_minutes` bounds it by the clock).

    Args:
        split: Who trains and who validates; `split.test` is not looked at.
        settings: How cases are prepared.
        setup: Everything else.
        folder: Where checkpoints and the CSV log lie.
        name: Name of the run, for the tracker.
    """
    training = setup.training
    pl.seed_everything(training.seed, verbose=False)
    spec = model_spec(settings, setup)
    cohort = HypoxiaDataModule(
        split,
        settings,
        setup.data,
        batch_size=training.batch_size,
        steps_per_epoch=training.steps_per_epoch,
        seed=training.seed,
    )
    module = build_module(spec, settings, setup, total_steps=training.epochs * cohort.steps_per_epoch)
    start_from_cohort(module.model, split)
    _begin(module, training, folder)
    trainer = build_trainer(setup, folder, name=name, validates=bool(split.validation))
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists():
        log.info("going on from %s", last)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 still asks torch 2.13 by a name that is going away.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            trainer.fit(module, datamodule=cohort, ckpt_path=last if last.exists() else None, weights_only=True)
    except SystemExit as stop:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from stop
    last_epoch = _load_exported(module, folder)
    if module.exported.time is not None and module.exported.time.baseline_after_training:
        keep_baseline(module.exported, split, settings, setup, trainer.strategy.root_device)
    weights = {key: value.detach().cpu().contiguous() for key, value in module.exported.state_dict().items()}
    return FittedModel(spec, weights, seconds=float(last_epoch["seconds"]), steps=int(last_epoch["global_step"]))


def _begin(module: HypoxModule, training: TrainingConfig, folder: Path) -> None:
    """Weights of another training, and what stays frozen; the moving average begins with the same."""
    if training.start:
        start_from(module.model, Path(training.start).expanduser(), report=folder / START)
        if module.average is not None:
            module.average.module.load_state_dict(module.model.state_dict())
    if training.freeze:
        freeze(module.model)


def model_spec(settings: PrepareSettings, setup: TrainingSetup) -> ModelSpec:
    """The network that fits the settings: channels, regions, covariates, intervals."""
    return ModelSpec(
        backbone=setup.model,
        outcome=setup.outcome,
        channels=len(settings.channels),
        regions=len(settings.region_names),
        covariates=len(settings.covariate_columns),
        edges_months=settings.edges_months,
        spacing_mm=settings.spacing_mm,
    )


def build_module(spec: ModelSpec, settings: PrepareSettings, setup: TrainingSetup, *, total_steps: int) -> HypoxModule:
    """Network, loss and augmentation in their Lightning module; the seed must have been set."""
    model = build_model(spec)
    if setup.training.channels_last:
        model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return HypoxModule(
        model,
        JointLoss(setup.loss, bank=_bank(model, setup.outcome)),
        setup.training,
        total_steps=total_steps,
        inside_tumour=settings.inside_tumour,
        augmentation=_augmentation(settings, setup),
    )


def start_from_cohort(model: HypoxNet, split: Split) -> None:
    """Set the outcome's baseline to that of the training patients, so that only effects are left to learn."""
    outcomes = [record.outcome for record in split.train if record.outcome is not None]
    if model.head is None or not outcomes:
        return
    months = torch.tensor([math.nan if outcome.months is None else outcome.months for outcome in outcomes])
    event = torch.tensor([outcome.event for outcome in outcomes])
    model.head.start_from(months, event)


def _bank(model: HypoxNet, outcome: OutcomeConfig) -> RiskSetBank | None:
    """Where an outcome model that compares patients finds those outside the batch."""
    time = model.time
    if time is None or not time.compares:
        return None
    return RiskSetBank(outcome.bank, causes=time.causes, columns=time.columns)


def _augmentation(settings: PrepareSettings, setup: TrainingSetup) -> Augmentation | None:
    if not setup.training.augment:
        return None
    modalities = tuple(quantity(name).modality for name in settings.channels)
    return functools.partial(_augment, config=setup.augment, modalities=modalities, spacing_mm=settings.spacing_mm)


def _augment(batch: Any, generator: torch.Generator, **arguments: Any) -> Any:
    return augment(batch, generator=generator, **arguments)


def build_trainer(setup: TrainingSetup, folder: Path, *, name: str, validates: bool) -> pl.Trainer:
    """The Lightning trainer: devices, precision, checkpoints, tracking."""
    training = setup.training
    # Its notices are about machines and products, not about the run.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    callbacks: list[Callback] = [History(folder / "metrics.csv")]
    if validates:
        callbacks.append(
            ModelCheckpoint(
                folder / "checkpoints",
                filename="best",
                monitor=f"validation/{training.choose}",
                mode="min",
                save_top_k=1,
                enable_version_counter=False,
                save_on_train_epoch_end=False,
            )
        )
    # After the best one: what it says of the best epoch so far must be that of this epoch.
    callbacks.append(
        ModelCheckpoint(
            folder / "checkpoints",
            filename="last",
            save_top_k=1,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )
    )
    nodes, devices = machines() if by_torchrun() else (1, training.devices)
    return pl.Trainer(
        max_epochs=training.epochs,
        accelerator=training.accelerator,
        num_nodes=nodes,
        devices=devices if devices == "auto" else int(devices),
        strategy=_strategy(training),
        precision=_precision(training),  # type: ignore[arg-type]
        gradient_clip_val=training.gradient_clip or None,
        deterministic=training.deterministic,
        check_val_every_n_epoch=training.validate_every,
        limit_val_batches=None if validates else 0,
        num_sanity_val_steps=0,
        logger=build_logger(setup.tracking, folder / "tracking", name=name, settings=_public(setup)),
        callbacks=callbacks,
        default_root_dir=str(folder),
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        use_distributed_sampler=False,  # the sampler shards by itself
    )


def refuse_machine(training: TrainingConfig) -> None:
    """Refuse a device that is not there, and to be one of several copies that know nothing of each other.

    Raises:
        ConfigError: No GPU for `training.accelerator`, or something else than torchrun has started several copies,
            which would write into one folder.
    """
    if training.accelerator in {"gpu", "cuda"} and not torch.cuda.is_available():
        raise ConfigError(
            f"training.accelerator is {training.accelerator}, this machine or this build of torch has no GPU; "
            "say auto or cpu"
        )
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 or int(os.environ.get("SLURM_NTASKS", "1")) > 1
    if several and not by_torchrun():
        raise ConfigError(
            "several copies of the whole job were started (WORLD_SIZE or SLURM_NTASKS is above 1); start one, and say "
            "training.devices=N: it starts the processes that train; for several machines start it with torchrun"
        )


def _strategy(training: TrainingConfig) -> str:
    """Processes for several devices are started here, unless torchrun has done so."""
    if by_torchrun():
        return "ddp" if int(os.environ["WORLD_SIZE"]) > 1 else "auto"
    if training.devices in {"auto", "1"}:
        several = torch.cuda.device_count() > 1 and training.devices == "auto" and training.accelerator != "cpu"
        if not several:
            return "auto"
    # Plain "ddp" would compose Hydra's script anew in every process, with another run folder each.
    return "ddp_spawn"


def _precision(training: TrainingConfig) -> str:
    if training.precision != "auto":
        return training.precision
    uses_cuda = training.accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available()
    return "bf16-mixed" if uses_cuda else "32-true"


def _public(setup: TrainingSetup) -> dict[str, Any]:
    """The settings a tracker may see: no paths, no names of patients."""
    rooms = {room: asdict(getattr(setup, room)) for room in ("augment", "model", "outcome", "loss", "training")}
    del rooms["training"]["start"]
    rooms["data"] = {key: getattr(setup.data, key) for key in ("channels", "spacing_mm", "window", "covariates")}
    return rooms


def _load_exported(module: HypoxModule, folder: Path) -> dict[str, Any]:
    """Put the chosen epoch into the module: after spawned processes the one here was never trained.

    Returns:
        The checkpoint of the last epoch.
    """
    best = folder / "checkpoints" / "best.ckpt"
    chosen = best if best.exists() else folder / "checkpoints" / "last.ckpt"
    module.load_state_dict(torch.load(chosen, map_location="cpu", weights_only=True)["state_dict"])
    last: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    return last


@torch.inference_mode()
def keep_baseline(
    model: HypoxNet, split: Split, settings: PrepareSettings, setup: TrainingSetup, device: torch.device
) -> None:
    """Give an outcome model the baseline that only the trained network and the whole cohort can tell.

    Args:
        model: The network that leaves training; back on the CPU afterwards, in evaluation mode.
        split: Its training patients.
        settings: How cases are prepared.
        setup: Windows, cache and workers.
        device: Where the network runs.
    """
    assert model.head is not None
    batch_size = setup.training.batch_size
    withheld = Split(split.train, split.train, ())  # validation windows: centred, not augmented
    cohort = HypoxiaDataModule(
        withheld, settings, setup.data, batch_size=batch_size, steps_per_epoch=1, seed=setup.training.seed
    )
    model.to(device).eval()
    seen = []
    for read in cohort.val_dataloader():
        batch = read.to(device)
        logits = model(
            batch.images, batch.presence, batch.tumour, batch.tumour_known, batch.covariates, batch.covariates_known
        )
        known = batch.outcome_known > 0
        seen.append((logits.hazards[known], batch.months[known], batch.event[known]))
    model.head.time.set_baseline(*(torch.cat(part) for part in zip(*seen, strict=True)))
    model.cpu()
