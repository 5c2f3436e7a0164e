"""What a bundle says about itself: everything inference needs besides the weights, as plain values.

Layout of the folder (MONAI bundle, with safetensors in the place of pickled weights):

    configs/metadata.json            MONAI's keys: versions, task, inputs and outputs with channel, unit and range
    configs/hypoxnet.json            `BundleSpec`
    models/model_<i>.safetensors     one file per member of the ensemble
    docs/README.md                   model card
    checksums.json                   SHA-256 of every other file
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from hypoxnet.bundle.bounds import check_content, shortened
from hypoxnet.bundle.typical import Typical
from hypoxnet.cases import CENSORED, DEATH, END_POINTS, FAILURE, CaseRecord
from hypoxnet.errors import BundleError, ConfigError, HypoxNetError
from hypoxnet.files import finite
from hypoxnet.maps.config import SETTINGS
from hypoxnet.models.spec import ModelSpec
from hypoxnet.transforms.covariates import CovariateTerm
from hypoxnet.transforms.settings import PrepareSettings

FORMAT = "hypoxnet-bundle"
FORMAT_VERSION = 1

METADATA = "configs/metadata.json"
SPEC = "configs/hypoxnet.json"
CARD = "docs/README.md"
CHECKSUMS = "checksums.json"

# Members that say what their training patients look like; further ones of a large ensemble are not asked.
MOST_TYPICAL = 8

INTENDED_USE = "research use only; not a medical device, not for diagnosis or treatment decisions"


def weights_name(member: int) -> str:
    """Path of a member's weights inside the bundle.

    Example:
        >>> weights_name(0)
        'models/model_0.safetensors'
    """
    return f"models/model_{member}.safetensors"


@dataclass(frozen=True, slots=True)
class InferenceDefaults:
    """How the bundle was applied when its metrics were measured; inference repeats it unless told otherwise.

    The window is that of the preparation settings.

    Args:
        overlap: Overlap of neighbouring windows, as a share of the window.
        mirror: Average over mirrored images.
        threshold: Probability at and above which a voxel belongs to a region.
    """

    overlap: float = 0.5
    mirror: bool = False
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"inference.overlap is {self.overlap}, it must lie in [0, 1)")
        if not 0 < self.threshold < 1:
            raise ConfigError(f"inference.threshold is {self.threshold}, it must lie in (0, 1)")


@dataclass(frozen=True, slots=True)
class BundleSpec:
    """A trained model in words.

    Args:
        name: Name of the model.
        model: How to build each member.
        settings: How a case is prepared: channels, normalisation constants, spacing, labels, covariates.
        inference: Overlap, mirroring, threshold.
        maps: How raw series become channels; empty when every channel came as a file.
        members: Number of networks whose predictions are averaged.
        temperatures: Per member, per region, what log-odds are divided by before they become probabilities; empty where
            none were fitted. The outcome head reads the volumes of probabilities as they were in training, without.
        typical: Per member, what its training patients look like; empty where that is not known.
        version: Version of the model.
        cohort: Whom it was trained on, as counts (`cohort_counts`): no identifiers, no names of hospitals.
        metrics: Figures on withheld patients; `{value, low, high}` each.
        provenance: Versions of packages, seed, time, machine; no paths.
        digest: SHA-256 over the checksums of a bundle that was read; empty for one that is yet to be written.
    """

    name: str
    model: ModelSpec
    settings: PrepareSettings
    inference: InferenceDefaults = InferenceDefaults()
    maps: Mapping[str, Any] = field(default_factory=dict)
    members: int = 1
    temperatures: tuple[tuple[float, ...], ...] = ()
    typical: tuple[Typical | None, ...] = ()
    version: str = "1.0.0"
    cohort: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    def __post_init__(self) -> None:
        if self.members < 1:
            raise BundleError(f"{self.name}: a bundle needs at least one model, {self.members} were given")
        for what, of_model, of_settings in (
            ("channels", self.model.channels, len(self.settings.channels)),
            ("regions", self.model.regions, len(self.settings.region_names)),
            ("covariates", self.model.covariates, len(self.settings.covariate_columns)),
        ):
            if of_model != of_settings:
                raise BundleError(f"{self.name}: the model has {of_model} {what}, its preparation {of_settings}")
        self._check_calibration()

    def _check_calibration(self) -> None:
        for what, given in (("temperatures", self.temperatures), ("typical", self.typical)):
            if given and len(given) != self.members:
                raise BundleError(f"{self.name}: {what} are of {len(given)} members, there are {self.members}")
        regions = len(self.settings.region_names)
        for row in self.temperatures:
            if len(row) != regions or not all(temperature > 0 for temperature in row):
                raise BundleError(f"{self.name}: a member has the temperatures {row}, {regions} above 0 are needed")

    @property
    def every_temperature(self) -> tuple[tuple[float, ...], ...]:
        """Per member, per region; 1 where none were fitted."""
        return self.temperatures or ((1.0,) * len(self.settings.region_names),) * self.members

    @property
    def calibrated(self) -> bool:
        """Some temperature is not 1."""
        return any(temperature != 1.0 for row in self.temperatures for temperature in row)

    @property
    def causes(self) -> tuple[str, ...]:
        """Names of the causes whose incidence is predicted; empty without an outcome head."""
        return END_POINTS[self.settings.endpoint][: self.model.causes] if self.model.outcome.enabled else ()

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not a finite number (an interval without events) is written as None."""
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "version": self.version,
            "intended_use": INTENDED_USE,
            "members": self.members,
            "model": self.model.to_json(),
            "settings": self.settings.to_json(),
            "regions": list(self.settings.region_names),
            "causes": list(self.causes),
            "inference": asdict(self.inference),
            "temperatures": [list(row) for row in self.temperatures],
            "typical": [{} if one is None else one.to_json() for one in self.typical],
            "maps": dict(self.maps),
            "cohort": dict(self.cohort),
            "metrics": dict(self.metrics),
            "provenance": dict(self.provenance),
        }
        return {key: finite(value) for key, value in content.items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, digest: str = "") -> BundleSpec:
        """The inverse of `to_json`.

        Raises:
            BundleError: Another format, a newer version of it, or a value that is missing or of the wrong kind.
        """
        check_format(content)
        try:
            check_content(content)
            spec = cls(
                name=str(content["name"]),
                model=ModelSpec.from_json(content["model"]),
                settings=PrepareSettings.from_json(content["settings"]),
                inference=InferenceDefaults(**content["inference"]),
                maps=dict(content.get("maps", {})),
                members=int(content["members"]),
                temperatures=tuple(tuple(map(float, row)) for row in content.get("temperatures", ())),
                typical=tuple(Typical.from_json(one) if one else None for one in content.get("typical", ())),
                version=str(content["version"]),
                cohort=dict(content["cohort"]),
                metrics=dict(content["metrics"]),
                provenance=dict(content["provenance"]),
                digest=digest,
            )
            _check_terms(spec.settings.terms)
            _check_maps(spec.maps)
        except KeyError as error:
            raise BundleError(f"{SPEC} lacks {error}; the bundle was made by hand or by another program") from error
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            reason = str(error) if isinstance(error, HypoxNetError) else f"{type(error).__name__}: {error}"
            raise BundleError(f"{SPEC} cannot be used: {shortened(reason, 300)}") from error
        return spec


def of_all_members(specs: Sequence[BundleSpec]) -> dict[str, Any]:
    """`members`, `temperatures` and `typical` of the members of all bundles as one.

    Args:
        specs: In the order of their weights.
    """
    fitted = any(spec.temperatures for spec in specs)
    known = [one for spec in specs for one in spec.typical or (None,) * spec.members]
    # Some 100 kB each in a description that may have 4 MB.
    known[MOST_TYPICAL:] = [None] * len(known[MOST_TYPICAL:])
    return {
        "members": len(known),
        "temperatures": tuple(row for spec in specs for row in spec.every_temperature) if fitted else (),
        "typical": tuple(known) if any(known) else (),
    }


def check_format(content: object) -> None:
    """Refuse what is not a bundle of a version that this program reads.

    Raises:
        BundleError: Not our format, or a version above `FORMAT_VERSION`.
    """
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise BundleError(f"{SPEC} is not a description of a HypoxNet bundle (format is not {FORMAT!r})")
    version = content.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise BundleError(
            f"{SPEC} has format version {version!r}, this HypoxNet reads 1 to {FORMAT_VERSION}; "
            "install the version that wrote the bundle, or a newer one"
        )


def _check_terms(terms: Sequence[CovariateTerm]) -> None:
    for term in terms:
        if not len(term.means) == len(term.sds) == len(term.columns):
            raise BundleError(f"{term.name} has {len(term.columns)} columns, and means and deviations of others")


def _check_maps(maps: Mapping[str, Any]) -> None:
    for name, values in maps.items():
        if name not in SETTINGS:
            raise BundleError(f"maps.{shortened(name)} is not known, known are {', '.join(SETTINGS)}")
        SETTINGS[name](**values)


def cohort_counts(records: Sequence[CaseRecord]) -> dict[str, Any]:
    """A cohort as numbers, for the bundle and its card: nothing in it points to a patient or a hospital.

    Args:
        records: The training cases.

    Returns:
        Counts of patients, cases, sites, channels, masks, outcomes; median follow-up of the censored, months (None
        when nobody was censored with a time).
    """
    outcomes = [r.outcome for r in records if r.outcome is not None]
    events = [outcome.event for outcome in outcomes]
    followed = [o.months for o in outcomes if o.months is not None and o.event == CENSORED]
    return {
        "patients": len({r.case_id for r in records}),
        "cases": len(records),
        "sites": len({r.site for r in records if r.site}),
        "channels": _counts(name for r in records for name in r.channels),
        "masks": _counts(name for r in records for name in r.masks),
        "outcome_known": len(events),
        "failures": events.count(FAILURE),
        "deaths_without_failure": events.count(DEATH),
        "median_follow_up_months": round(median(followed), 1) if followed else None,
    }


def _counts(names: Any) -> dict[str, int]:
    counted: dict[str, int] = {}
    for name in names:
        counted[name] = counted.get(name, 0) + 1
    return dict(sorted(counted.items()))
