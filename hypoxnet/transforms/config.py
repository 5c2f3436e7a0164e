"""Settings of preparation, labels and augmentation. Values only: importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypoxnet.errors import ConfigError


@dataclass
class LabelConfig:
    """What the network learns to outline: the science of a run.

    Args:
        kind: `masks` takes contours from the manifest; `threshold` computes the region from a channel.
        regions: For `masks`: region name to the mask columns whose union it is; regions may nest. Empty is the hypoxic
            subvolume, `{hsv: [HYPOXIA]}` (empty by default because a composed configuration adds to a mapping).
        inside_tumour: Score and predict only inside the tumour contour, where a case has one.
        channel: For `threshold`: the channel, a ratio (`FAZA_TMR`) or an SUV with `reference_mask`.
        reference_mask: For `threshold` on an SUV: mask column of the reference region.
        reference_statistic: `median` or `mean` over the reference region.
        threshold: For `threshold`: ratio at and above which a voxel of the tumour counts as hypoxic.
        allow_input: Say aloud that the channel which defines the label may also be an input of the network.
    """

    kind: str = "masks"
    regions: dict[str, list[str]] = field(default_factory=dict)
    inside_tumour: bool = True
    channel: str = ""
    reference_mask: str = ""
    reference_statistic: str = "median"
    threshold: float = 1.4
    allow_input: bool = False

    def __post_init__(self) -> None:
        if self.kind not in {"masks", "threshold"}:
            raise ConfigError(f"label.kind is {self.kind!r}, it must be masks or threshold")
        if self.kind == "threshold" and not self.channel:
            raise ConfigError("label.kind=threshold needs label.channel, for example FAZA_TMR")
        if self.reference_statistic not in {"median", "mean"}:
            raise ConfigError(f"label.reference_statistic is {self.reference_statistic!r}, it must be median or mean")
        if not self.regions:
            self.regions = {"hsv": ["HYPOXIA"]}

    @property
    def region_names(self) -> tuple[str, ...]:
        """Names of the regions in the order of the network's outputs."""
        return tuple(self.regions) if self.kind == "masks" else ("hsv",)


@dataclass
class AugmentConfig:
    """Augmentation of a whole batch on its device; probabilities are per sample (and per channel where said).

    Args:
        flip: Probability of mirroring, for each axis.
        rotate_degrees: Largest rotation about each axis, degrees.
        scale: Largest relative change of size; 0.15 draws from 0.85 to 1.15.
        elastic_mm: Standard deviation of the elastic displacement, mm; 0 switches it off.
        spatial: Probability that rotation, scaling and elastic deformation are applied.
        misalign_mm: Standard deviation of a rigid shift of each channel against the others, mm.
        misalign: Probability of misalignment, per sample.
        pet_noise: Largest relative noise of PET at SUV 1; noise grows with the square root of the uptake.
        pet_blur_mm: Largest extra blur of PET, FWHM in mm.
        pet_scale: Largest relative error of the SUV scale.
        mr_noise: Largest Rician noise of MR, in units of the normalised image.
        mr_bias: Largest log-amplitude of the smooth bias field of MR.
        mr_gamma: Largest absolute log of the gamma applied to MR.
        intensity: Probability of each intensity change, per sample and channel.
        drop_channel: Probability that a channel is withheld; at least one always remains.
    """

    flip: float = 0.5
    rotate_degrees: float = 20.0
    scale: float = 0.15
    elastic_mm: float = 2.0
    spatial: float = 0.5
    misalign_mm: float = 1.0
    misalign: float = 0.2
    pet_noise: float = 0.1
    pet_blur_mm: float = 4.0
    pet_scale: float = 0.1
    mr_noise: float = 0.1
    mr_bias: float = 0.3
    mr_gamma: float = 0.3
    intensity: float = 0.2
    drop_channel: float = 0.05
