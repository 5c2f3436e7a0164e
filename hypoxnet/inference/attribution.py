"""Where a predicted risk comes from: how much each voxel, channel and covariate adds to it.

What is explained is the log-odds of locoregional failure by the horizon. The patient is compared with a reference: the
same patient, with the same contour, whose tumour looks in every channel like unremarkable tissue, and whose covariates
are those of the mean training patient. Unremarkable is the zero of each channel's normalisation: uptake like muscle or
blood (an SUV or a ratio of 1), typical soft tissue in a map, the image's own mean in a weighted image. Around the
tumour nothing changes, absent channels stay absent and missing covariates missing, so that the network sees an image
that could be. Differences of log-odds add up; differences of probability do not.

The image acts by two ways: by the features that are pooled inside the tumour, and by the predicted volumes that the
head reads. Training cuts the gradient of the second, so that the outcome cannot deform a contour; the risk depends on
those volumes all the same, so here it is kept. The volume of the contour is the same on both sides and has no share.

Axis legend: C channels, P columns of covariates, D H W voxels of the working grid, i j k voxels of the patient's
reference grid; the leading 1 is the patient.

Source:
    Integrated gradients and completeness: Sundararajan, Taly and Yan 2017, ICML, Axiomatic attribution for deep
    networks, equation 1 and proposition 1. The code for both methods: captum, Kokhlikyan et al. 2020, arXiv 2009.07896.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.cases import CaseRecord, Sample
from hypoxnet.errors import CaseError, ConfigError
from hypoxnet.inference.config import EXPLANATIONS
from hypoxnet.models.config import NO_BACKBONE
from hypoxnet.models.joint import HypoxNet
from hypoxnet.transforms.prepare import PreparedCase, prepare
from hypoxnet.transforms.spatial import to_grid

if TYPE_CHECKING:
    from hypoxnet.inference.predictor import Predictor

# Log-odds by which the sum may miss the difference, an odds ratio of 1.01; or this share of a difference above 1.
TOLERANCE = 0.01
FEWEST_STEPS, MOST_STEPS = 16, 256
# Side of the cubes that are ablated together, voxels of the working grid.
CUBE = 4
# Risks of 0 and 1 have no log-odds.
SMALLEST_RISK = 1e-6


@dataclass(frozen=True, slots=True)
class Attribution:
    """What adds up to the difference between a patient and the reference, in log-odds, on the working grid.

    Args:
        by_features: C D H W, of the image by way of the pooled features; 0 outside the tumour. Both ways together where
            the method cannot tell them apart.
        by_volumes: C D H W, of the image by way of the predicted volumes; None where the method cannot tell.
        covariates: P.
        log_odds: Of the patient.
        reference_log_odds: Of the reference.
        steps: Steps of the path; 0 for a method without a path.
    """

    by_features: Tensor
    by_volumes: Tensor | None
    covariates: Tensor
    log_odds: float
    reference_log_odds: float
    steps: int = 0

    @property
    def images(self) -> Tensor:
        """C D H W, the image by both ways."""
        return self.by_features if self.by_volumes is None else self.by_features + self.by_volumes

    @property
    def remainder(self) -> float:
        """Part of the difference that the sum leaves over."""
        total = float(self.images.double().sum() + self.covariates.double().sum())
        return self.log_odds - self.reference_log_odds - total

    @property
    def complete(self) -> bool:
        """The parts add up to the difference."""
        return abs(self.remainder) <= TOLERANCE * max(1.0, abs(self.log_odds - self.reference_log_odds))


@dataclass(frozen=True, slots=True)
class Explanation:
    """An attribution on the patient's own grid.

    Args:
        maps: Channel to i j k, float32, log-odds per mL; absent channels are left out.
        summary: What the JSON of the case says of it.
    """

    maps: Mapping[str, NDArray[np.float32]]
    summary: Mapping[str, Any]


class LogOdds:
    """The predicted log-odds of locoregional failure by the horizon as a function of images and covariates.

    It is what `Predictor.apply` says, averaged over the ensemble and mirrored images, with a gradient.

    Args:
        predictor: The loaded bundle.
        sample: The patient; contour, presence and known covariates are taken from here.
    """

    def __init__(self, predictor: Predictor, sample: Sample) -> None:
        self.predictor = predictor
        self.sample = sample
        self.tumour = sample.tumour[None].to(predictor.device, torch.float32)
        self.known = sample.covariates_known[None].to(predictor.device)

    def __call__(self, by_features: Tensor, by_volumes: Tensor, covariates: Tensor) -> Tensor:
        """Images twice, 1 C D H W, once for each way that they act, and 1 P, to 1.

        One tensor given twice goes through the networks once.
        """
        parts = [self._incidence(model, by_features, by_volumes, covariates) for model in self.predictor.models]
        return torch.logit(torch.stack(parts).mean(dim=0), eps=SMALLEST_RISK)

    def of(self, images: Tensor, covariates: Tensor) -> Tensor:
        """Both ways at once."""
        return self(images, images, covariates)

    def _incidence(self, model: HypoxNet, by_features: Tensor, by_volumes: Tensor, covariates: Tensor) -> Tensor:
        encoding = self.predictor.encode(model, replace(self.sample, images=by_features[0]))
        other = encoding
        if by_volumes is not by_features:
            other = self.predictor.encode(model, replace(self.sample, images=by_volumes[0]))
        outputs = model.outcome(
            encoding.pooled_sum,
            encoding.pooled_weight,
            model.volumes(other.segmentation.float(), self.tumour),
            covariates.to(self.predictor.device),
            self.known,
        )
        assert model.time is not None
        return model.time.incidence(outputs, [model.spec.outcome.horizon_months])[:, 0, 0]


def check_explainable(spec: BundleSpec) -> None:
    """Refuse a bundle whose risk cannot be traced to the image.

    Raises:
        ConfigError: The model has no outcome head, reads no image, or pools inside its own prediction.
    """
    if not spec.causes:
        raise ConfigError(f"{spec.name} predicts no outcome, there is no risk to explain; leave inference.explain out")
    if spec.model.backbone.backbone == NO_BACKBONE:
        raise ConfigError(
            f"{spec.name} reads no image, and what each covariate adds already stands in the JSON of a case; leave "
            "inference.explain out"
        )
    if spec.model.outcome.pool != "contour":
        # The edge of a prediction moves with the image and carries no gradient: the parts would not add up.
        raise ConfigError(
            f"{spec.name} pools inside its own prediction (outcome.pool={spec.model.outcome.pool}); inference.explain "
            "needs a model that was trained with outcome.pool=contour"
        )


def explain(predictor: Predictor, record: CaseRecord, *, method: str = EXPLANATIONS[0]) -> Explanation:
    """Explain the predicted risk of one case.

    Args:
        predictor: The loaded bundle.
        record: The case, with a tumour contour.
        method: `integrated_gradients` or `ablation`.

    Raises:
        ConfigError: The bundle's risk cannot be traced to the image, or there is no such method.
        CaseError: The case has no tumour contour, or cannot be read.

    Example:
        explanation = explain(load_predictor(Path("RUN/bundle"), InferenceConfig()), record)
        explanation.summary["channels"]["FMISO_SUV"]["log_odds"]
    """
    check_explainable(predictor.spec)
    case = prepare(predictor.needed(record), predictor.spec.settings)
    if not bool(case.sample.tumour_known > 0):
        raise CaseError(f"{record.key}: {no_contour(predictor.spec)}")
    return explain_case(predictor, case, method=method)


def no_contour(spec: BundleSpec) -> str:
    """Why a case without contour has no explanation."""
    return f"an explanation needs the tumour's contour, and none was given; add {' or '.join(spec.settings.tumour)}"


def explain_case(predictor: Predictor, case: PreparedCase, *, method: str) -> Explanation:
    """Explain a case that is prepared already and has a contour."""
    attribution = attribute(predictor, case.sample, method=method)
    settings, grid = predictor.spec.settings, case.sample.grid
    resampled = to_grid(attribution.images / grid.voxel_ml, grid, case.reference, beyond="zeros")
    present = [name for name, there in zip(settings.channels, case.sample.presence, strict=True) if there > 0]
    maps = {name: resampled[settings.channels.index(name)] for name in present}
    return Explanation(maps, summarise(predictor, case.sample, attribution, method=method))


def attribute(predictor: Predictor, sample: Sample, *, method: str = EXPLANATIONS[0]) -> Attribution:
    """The attribution of a sample with a contour, on the working grid.

    Args:
        predictor: The loaded bundle.
        sample: As prepared.
        method: `integrated_gradients`: the path is walked in ever smaller steps until the parts add up to the
            difference within `TOLERANCE`. `ablation`: cubes of four voxels, one channel at a time, and covariates one
            at a time are put to the reference; what a part does in company with others is left over.

    Raises:
        ConfigError: There is no such method.
    """
    log_odds = LogOdds(predictor, sample)
    patient = (sample.images[None], sample.covariates[None])
    reference = (reference_images(sample)[None], torch.zeros_like(patient[1]))
    with torch.no_grad():
        ends = [float(log_odds.of(*end)) for end in (patient, reference)]
    match method:
        case "integrated_gradients":
            return _integrated(log_odds, patient, reference, ends)
        case "ablation":
            return _ablated(log_odds, patient, reference, ends)
    raise ConfigError(f"inference.explain_by is {method!r}, it must be one of {', '.join(EXPLANATIONS)}")


def reference_images(sample: Sample) -> Tensor:
    """C D H W: the patient's images, with every channel at the zero of its normalisation inside the tumour."""
    return sample.images.masked_fill(sample.tumour > 0, 0.0)


Inputs = tuple[Tensor, Tensor]


def _integrated(log_odds: LogOdds, patient: Inputs, reference: Inputs, ends: list[float]) -> Attribution:
    # Here, not above: captum takes a second to load, and most predictions do without it.
    from captum.attr import IntegratedGradients

    gradients = IntegratedGradients(log_odds)
    steps = FEWEST_STEPS
    while True:
        by_features, by_volumes, covariates = gradients.attribute(
            (patient[0], patient[0].clone(), patient[1]),
            (reference[0], reference[0], reference[1]),
            n_steps=steps,
            # One point of the path at a time: a case's windows with their graph are what fits into memory.
            internal_batch_size=1,
        )
        found = [part[0].detach().cpu().float() for part in (by_features, by_volumes, covariates)]
        attribution = Attribution(found[0], found[1], found[2], ends[0], ends[1], steps)
        if attribution.complete or steps >= MOST_STEPS:
            return attribution
        steps *= 2


def _ablated(log_odds: LogOdds, patient: Inputs, reference: Inputs, ends: list[float]) -> Attribution:
    from captum.attr import FeatureAblation

    cubes = _cubes(log_odds.sample)
    terms = torch.tensor(_term_of_column(log_odds.predictor.spec), dtype=torch.int64)

    def of(images: Tensor, covariates: Tensor = patient[1]) -> Tensor:
        return log_odds.of(images, covariates)

    # captum refuses an input without elements: no covariates, no second input.
    given = 2 if len(terms) else 1
    masks = (cubes[None], terms[None] + int(cubes.max()) + 1)
    with torch.no_grad():
        found = FeatureAblation(of).attribute(patient[:given], reference[:given], feature_mask=masks[:given])
    images = _divided(found[0][0].cpu().float(), cubes).masked_fill(cubes == 0, 0.0)
    covariates = _divided(found[1][0].cpu().float(), terms) if len(terms) else torch.zeros(0)
    return Attribution(images, None, covariates, ends[0], ends[1])


def _divided(effect: Tensor, parts: Tensor) -> Tensor:
    """captum gives each element the effect of its whole part; here the elements of a part share it."""
    return effect / torch.bincount(parts.flatten())[parts]


def _cubes(sample: Sample) -> Tensor:
    """C D H W: number of the cube, of one channel, that is ablated together; 0 outside and in absent channels."""
    cubes = tuple(math.ceil(n / CUBE) for n in sample.tumour.shape[1:])
    z, y, x = (torch.arange(n) // CUBE for n in sample.tumour.shape[1:])
    place = (z[:, None, None] * cubes[1] + y[None, :, None]) * cubes[2] + x[None, None, :]
    channel = torch.arange(len(sample.images))[:, None, None, None] * math.prod(cubes)
    counts = (sample.tumour > 0) & (sample.presence > 0)[:, None, None, None]
    numbered = torch.where(counts, place[None] + channel + 1, 0)
    dense: Tensor = torch.unique(numbered, return_inverse=True)[1]
    # With a tumour that fills the image nothing is outside, and 0 must still mean outside.
    return dense if bool((numbered == 0).any()) else dense + 1


def _term_of_column(spec: BundleSpec) -> list[int]:
    """P: which covariate each column belongs to."""
    return [number for number, term in enumerate(spec.settings.terms) for _ in term.columns]


def summarise(predictor: Predictor, sample: Sample, attribution: Attribution, *, method: str) -> dict[str, Any]:
    """What the JSON of a case says of an attribution: parts in log-odds, and their shares of what moves."""
    spec = predictor.spec
    horizon = spec.model.outcome.horizon_months
    covariates = _by_covariate(spec, attribution)
    ways = {"image": float(attribution.images.double().sum()), "covariates": sum(covariates.values())}
    if attribution.by_volumes is not None:
        volumes = float(attribution.by_volumes.double().sum())
        ways = {"image_by_features": ways.pop("image") - volumes, "image_by_volumes": volumes, **ways}
    return {
        "method": method,
        "of": f"log-odds of {spec.causes[0]}" + ("" if math.isinf(horizon) else f" by {horizon:g} months"),
        "reference": "same contour; tumour at the zero of each channel's normalisation; covariates of the mean patient",
        "risk": round(_probability(attribution.log_odds), 6),
        "reference_risk": round(_probability(attribution.reference_log_odds), 6),
        "difference": round(attribution.log_odds - attribution.reference_log_odds, 6),
        "left_over": round(attribution.remainder, 6),
        "complete": attribution.complete,
        "steps": attribution.steps,
        "parts": _with_shares(ways),
        "channels": _channels(spec, sample, attribution),
        "covariates": {name: round(value, 6) for name, value in covariates.items()},
        "regions": _regions(predictor, sample, attribution),
    }


def _by_covariate(spec: BundleSpec, attribution: Attribution) -> dict[str, float]:
    totals = {term.name: 0.0 for term in spec.settings.terms}
    for number, value in zip(_term_of_column(spec), attribution.covariates.tolist(), strict=True):
        totals[spec.settings.terms[number].name] += value
    return totals


def _channels(spec: BundleSpec, sample: Sample, attribution: Attribution) -> dict[str, dict[str, float | None]]:
    sums = attribution.images.double().sum(dim=(1, 2, 3)).tolist()
    there = zip(spec.settings.channels, sums, sample.presence.tolist(), strict=True)
    return _with_shares({name: value for name, value, present in there if present > 0})


def _regions(predictor: Predictor, sample: Sample, attribution: Attribution) -> dict[str, dict[str, float | None]]:
    """Of each predicted region inside the contour: what it adds, its share of all that moves, and of the tumour."""
    with torch.inference_mode():
        probability = predictor.apply(sample).probability.cpu()
    tumour = sample.tumour[0] > 0
    by_voxel = attribution.images.double().sum(dim=0)
    moved = float(by_voxel.abs().sum())
    found: dict[str, dict[str, float | None]] = {}
    for name, volume in zip(predictor.spec.settings.region_names, probability, strict=True):
        inside = (volume >= predictor.choices.threshold) & tumour
        found[name] = {
            "log_odds": round(float(by_voxel[inside].sum()), 6),
            "share": round(float(by_voxel[inside].abs().sum()) / moved, 6) if moved else None,
            "share_of_tumour": round(float(inside.sum()) / float(tumour.sum()), 6) if tumour.any() else None,
        }
    return found


def _with_shares(parts: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """Each part with its share of the sum of magnitudes: parts may cancel, and a share of the rest would mislead."""
    moved = sum(abs(value) for value in parts.values())
    return {
        name: {"log_odds": round(value, 6), "share": round(abs(value) / moved, 6) if moved else None}
        for name, value in parts.items()
    }


def _probability(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-log_odds))
