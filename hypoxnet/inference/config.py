"""Settings of inference. Values only: importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from hypoxnet.errors import ConfigError

EXPLANATIONS = ("integrated_gradients", "ablation")
FLOAT32, BFLOAT16 = PRECISIONS = ("float32", "bfloat16")


@dataclass
class InferenceConfig:
    """How a bundle is applied to a case.

    Args:
        overlap: Overlap of neighbouring windows, as a share of the window; null takes the bundle's.
        windows_per_batch: Windows that go through the network at once; null measures what the memory holds. One
            window alone gives other last digits than several.
        cases_ahead: Cases that are read and prepared while another is on the device, by as many threads, and threads
            that write; 0 takes one case after another, null chooses by the device and the cores. Results are the same.
        mirror: Average over mirrored images (all flips); null takes the bundle's.
        threshold: Probability at and above which a voxel belongs to a region; null takes the bundle's.
        device: `auto`, `cpu`, `cuda`, `cuda:1` ...
        precision: What the network computes in: `float32`, or `bfloat16`, two to three times faster where the processor
            multiplies it (GPUs since 2020, CPUs with AMX), slower where it does not. Windows are added up in float32.
            Probabilities change in the third digit, see docs/reference/speed.md.
        spread: Write a map of the standard deviation over members and mirror images, per region: as many bytes again as
            the probabilities, which is why nobody gets it unasked. The numbers are always told.
        recompute: Predict finished cases again.
        explain: Write where the risk comes from: a map per channel, and parts in the JSON of the case.
        explain_by: `integrated_gradients`, whose parts add up, or `ablation`, which leaves each part out in turn.
    """

    overlap: float | None = None
    windows_per_batch: int | None = None
    cases_ahead: int | None = None
    mirror: bool | None = None
    threshold: float | None = None
    device: str = "auto"
    precision: str = FLOAT32
    spread: bool = False
    recompute: bool = False
    explain: bool = False
    explain_by: str = EXPLANATIONS[0]

    def __post_init__(self) -> None:
        if self.windows_per_batch is not None and self.windows_per_batch < 1:
            raise ConfigError(f"inference.windows_per_batch is {self.windows_per_batch}, it must be at least 1")
        if self.cases_ahead is not None and self.cases_ahead < 0:
            raise ConfigError(f"inference.cases_ahead is {self.cases_ahead}, it must be 0 or more")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"inference.precision is {self.precision!r}, it must be one of {', '.join(PRECISIONS)}")
        if self.explain_by not in EXPLANATIONS:
            raise ConfigError(
                f"inference.explain_by is {self.explain_by!r}, it must be one of {', '.join(EXPLANATIONS)}"
            )

    def chosen(self) -> dict[str, float | bool]:
        """What overrides the bundle: the settings among overlap, mirror and threshold that are not null.

        Example:
            >>> InferenceConfig(threshold=0.4).chosen()
            {'threshold': 0.4}
        """
        settings = {"overlap": self.overlap, "mirror": self.mirror, "threshold": self.threshold}
        return {name: value for name, value in settings.items() if value is not None}
