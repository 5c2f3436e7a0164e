"""Settings of training and tracking. Values only: importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from hypoxnet.errors import ConfigError

# A network that has taken a smaller share of the default's steps has hardly begun to learn.
ENOUGH_STEPS = 0.1


@dataclass
class TrackingConfig:
    """Where the run is followed besides the CSV log, which is always written.

    Args:
        kind: `csv` or `wandb`.
        project: wandb project.
        offline: wandb writes to disk only; no account, no question asked.
    """

    kind: str = "csv"
    project: str = "hypoxnet"
    offline: bool = True

    def __post_init__(self) -> None:
        if self.kind not in {"csv", "wandb"}:
            raise ConfigError(f"tracking.kind is {self.kind!r}, it must be csv or wandb")


@dataclass
class TrainingConfig:
    """Optimisation.

    Args:
        epochs: Number of epochs.
        steps_per_epoch: Batches per epoch, so that a run is as long for a small cohort as for a large one; 0 shows each
            training case once.
        max_minutes: The learning-rate schedule ends, and training stops, after this time at the latest; 0 is no limit.
            A run bounded by time cannot be resumed bit for bit, because its schedule follows the clock.
        batch_size: Windows per step.
        learning_rate: Peak learning rate.
        weight_decay: AdamW weight decay.
        schedule: `cosine` or `polynomial` decay.
        warmup: Share of the run in which the learning rate rises.
        gradient_clip: Largest norm of the gradient.
        ema: Decay of the moving average of the weights that is exported; 0 exports the weights themselves.
        accelerator: `auto`, `cpu`, `gpu` ...
        devices: Devices for DDP, `auto` or a number.
        precision: `auto` is bf16 on CUDA and 32-bit elsewhere.
        channels_last: Memory format of 3D convolutions.
        deterministic: Use deterministic algorithms only.
        seed: Seed of initial weights, sampling and augmentation.
        validate_every: Epochs between validations, when there are validation cases.
        augment: Switch of the augmentation.
        start: Weights to begin with: a bundle; or a file (`.pt`, `.pth`, `.ckpt`, `.safetensors`) or folder of MONAI or
            nnU-Net v2 with a network of the same structure. Layers of another name or shape are drawn and named in the
            log and in `training/start.json`. Patients who trained them must not be withheld now.
        freeze: `backbone` trains the outcome head alone, on features as they are; empty trains everything.
        choose: Which part of the validation loss chooses the epoch: `total`, `dice`, `cross_entropy` or `outcome`.
    """

    epochs: int = 30
    steps_per_epoch: int = 150
    max_minutes: float = 0.0
    batch_size: int = 2
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    schedule: str = "cosine"
    warmup: float = 0.05
    gradient_clip: float = 1.0
    ema: float = 0.99
    accelerator: str = "auto"
    devices: str = "auto"
    precision: str = "auto"
    channels_last: bool = False
    deterministic: bool = True
    seed: int = 0
    validate_every: int = 5
    augment: bool = True
    start: str = ""
    freeze: str = ""
    choose: str = "total"

    def __post_init__(self) -> None:
        if self.schedule not in {"cosine", "polynomial"}:
            raise ConfigError(f"training.schedule is {self.schedule!r}, it must be cosine or polynomial")
        if self.freeze not in {"", "backbone"}:
            raise ConfigError(f"training.freeze is {self.freeze!r}, it must be backbone or empty")
        if self.choose not in {"total", "dice", "cross_entropy", "outcome"}:
            raise ConfigError(f"training.choose is {self.choose!r}, it must be total, dice, cross_entropy or outcome")
        for name in ("epochs", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} is {getattr(self, name)}, it must be at least 1")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"training.ema is {self.ema}, it must lie in [0, 1)")


def few_steps(steps: int) -> str:
    """That a network was trained too briefly to be judged by its figures; empty when it was not.

    Args:
        steps: Steps that it took.

    Example:
        >>> few_steps(18)
        'trained for 18 steps, the default is 4,500: too few to judge the model by its figures, they show that it runs'
        >>> few_steps(2000)
        ''
    """
    default = TrainingConfig()
    usual = default.epochs * default.steps_per_epoch
    if steps >= ENOUGH_STEPS * usual:
        return ""
    return (
        f"trained for {steps} steps, the default is {usual:,}: too few to judge the model by its figures, they show "
        "that it runs"
    )
