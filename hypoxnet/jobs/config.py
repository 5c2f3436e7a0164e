"""Settings of the two jobs, composed of the rooms' own. Values only: importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypoxnet.data.config import DataConfig, SplitConfig
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.losses.config import LossConfig
from hypoxnet.models.config import ModelConfig, OutcomeConfig
from hypoxnet.training.config import TrackingConfig, TrainingConfig
from hypoxnet.transforms.config import AugmentConfig, LabelConfig


def _label_without_regions() -> LabelConfig:
    # A composed configuration adds to a mapping: with the default regions in it, label=gtv would mean both.
    label = LabelConfig()
    label.regions = {}
    return label


@dataclass
class TrainJobConfig:
    """`python train.py`.

    Args:
        name: Name of the run, part of its folder and of the bundle; empty takes the manifest's, or `phantom`.
        output: Run folder, `runs/NAME/TIME` when empty; an interrupted run is continued by naming its folder again.
        bootstrap: Resamplings for the intervals of the metrics.
    """

    name: str = ""
    output: str = ""
    bootstrap: int = 1000
    data: DataConfig = field(default_factory=DataConfig)
    label: LabelConfig = field(default_factory=_label_without_regions)
    split: SplitConfig = field(default_factory=SplitConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    outcome: OutcomeConfig = field(default_factory=OutcomeConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)


@dataclass
class InferJobConfig:
    """`python infer.py bundle=DIR manifest=cohort.csv output=DIR`.

    Args:
        bundle: Folder of the bundle.
        manifest: Cohort to predict; outcome columns are not needed.
        output: Folder of the predictions.
    """

    bundle: str = ""
    manifest: str = ""
    output: str = ""
    inference: InferenceConfig = field(default_factory=InferenceConfig)
