"""Settings of the two jobs, composed of the rooms' own. Values only: importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypoxnet.data.config import DataConfig, SplitConfig
from hypoxnet.errors import ConfigError
from hypoxnet.inference.cluster.config import ClusterConfig, Shard
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.losses.config import LossConfig
from hypoxnet.metrics.config import EvaluationConfig
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
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass
class InferJobConfig:
    """`python infer.py bundle=DIR manifest=cohort.csv output=DIR`.

    Args:
        bundle: Folder of the bundle.
        manifest: Cohort to predict; outcome columns are not needed.
        output: Folder of the predictions.
        input: `manifest`, or `dicom`: the cohort is imported from `folder` first, into `output/imported`.
        folder: Folder or zip archive of DICOM, for input=dicom.
        rules: Rules by which series become channels; empty takes the default.
        output_format: What is written of each case: `nifti` always, and for input=dicom also `seg`, `probability`,
            `rtstruct`.
        shard: A part of the cohort, `2/4`, which this process predicts; the part that is finished last, or
            `hypoxnet merge`, makes one table of all. Empty predicts the whole.
    """

    bundle: str = ""
    manifest: str = ""
    output: str = ""
    input: str = "manifest"
    folder: str = ""
    rules: str = ""
    output_format: list[str] = field(default_factory=lambda: ["nifti"])
    shard: str = ""

    def __post_init__(self) -> None:
        if self.shard:
            Shard.parse(self.shard)
            self._refuse_with_shard()
        if self.input not in {"manifest", "dicom"}:
            raise ConfigError(f"input is {self.input!r}, it must be manifest or dicom")
        unknown = set(self.output_format) - {"nifti", "seg", "probability", "rtstruct"}
        if unknown:
            raise ConfigError(
                f"output_format has {sorted(unknown)[0]!r}, it may hold nifti, seg, probability and rtstruct"
            )
        if self.input == "manifest" and set(self.output_format) - {"nifti"}:
            raise ConfigError(
                "DICOM can be written only of cases that came as DICOM: give input=dicom and folder=DIR, or turn masks "
                "into DICOM with hypoxnet to-dicom"
            )

    def _refuse_with_shard(self) -> None:
        if self.input == "dicom":
            raise ConfigError(
                f"shard={self.shard} needs a manifest, since every part would import the same DICOM; run hypoxnet "
                "import first and give its manifest"
            )
        if self.cluster.wanted:
            raise ConfigError(
                f"shard={self.shard} predicts a part here, cluster settings have workers predict the whole; give one "
                "of the two"
            )

    inference: InferenceConfig = field(default_factory=InferenceConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
