"""A bundle in memory: models loaded once, applied to one case at a time.

Axis legend: C channels, K regions, F features, J causes, T intervals, D H W voxels of the working grid, i j k voxels of
the patient's reference grid; the leading 1 is the patient.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypoxnet.bundle.read import load_strictly, read_bundle
from hypoxnet.bundle.schema import BundleSpec, InferenceDefaults, weights_name
from hypoxnet.cases import CaseRecord, Prediction, Sample
from hypoxnet.errors import CaseError
from hypoxnet.files import sha256_of
from hypoxnet.inference.attribution import Explanation, check_explainable, explain_case, no_contour
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.covariates import cohort_incidence, needed_alone, predict_alone
from hypoxnet.inference.device import choose_device
from hypoxnet.inference.read_outs import Risk, describe, on_reference_grid, report_months
from hypoxnet.inference.windows import Encoding, Sliding, encode_by_windows, surroundings
from hypoxnet.maps.reference_region import ratio_hint
from hypoxnet.models.build import build_model
from hypoxnet.models.config import NO_BACKBONE
from hypoxnet.models.joint import HypoxNet
from hypoxnet.transforms.prepare import PreparedCase, prepare

# Raise it when the same bundle and files would give other numbers: finished cases are then predicted again.
VERSION = 1


@dataclass(frozen=True, slots=True)
class Applied:
    """What the networks say about one sample, averaged over the ensemble.

    Args:
        probability: K D H W.
        incidence: J (T + 1), at the interval edges and at the horizon; None without an outcome head.
    """

    probability: Tensor
    incidence: Tensor | None


class Predictor:
    """Predicts cases with the models of one bundle.

    Args:
        spec: What the bundle says about itself.
        models: Members of the ensemble.
        config: How it is applied; what is null is taken from the bundle.
    """

    def __init__(self, spec: BundleSpec, models: Sequence[HypoxNet], config: InferenceConfig) -> None:
        self.spec = spec
        # Covariates alone are a few multiplications: no device is faster than this one.
        alone = spec.model.backbone.backbone == NO_BACKBONE
        self.device = choose_device("cpu" if alone else config.device)
        self.models = tuple(model.to(self.device).eval() for model in models)
        self.choices = InferenceDefaults(**{**asdict(spec.inference), **config.chosen()})
        self.sliding = Sliding(spec.settings.window, self.choices.overlap, config.windows_per_batch)
        self.explain_by = config.explain_by if config.explain else None
        if config.explain:
            check_explainable(spec)

    @property
    def alone(self) -> bool:
        """The model reads covariates and no image."""
        return self.spec.model.backbone.backbone == NO_BACKBONE

    @torch.inference_mode()
    def risk_of_covariates(self, records: Sequence[CaseRecord]) -> list[list[float]]:
        """Incidence of each cause at the horizon for a whole cohort, of a model of covariates alone."""
        at_horizon: list[list[float]] = cohort_incidence(self.models, self.spec, records)[..., -1].tolist()
        return at_horizon

    def predict(self, record: CaseRecord) -> Prediction:
        """Predict one case.

        Args:
            record: The case; true regions and the outcome are not looked at.

        Returns:
            Probabilities and masks on the case's own reference grid, incidences, read-outs for its JSON.

        Raises:
            CaseError: A file is damaged, channels do not overlap, none of the network's channels is present, or the
                device has too little memory.
            GeometryError: An affine is unusable.
        """
        record = self.needed(record)
        if self.alone:
            return predict_alone(self.models, self.spec, record)
        case = prepare(record, self.spec.settings)
        try:
            explanation = self._explain(case)
            return self._predict(record, case, explanation)
        except torch.OutOfMemoryError as error:
            raise CaseError(
                f"{record.key}: {self.device} has too little memory for {self.sliding.windows_per_batch} windows of "
                f"{' x '.join(map(str, self.sliding.window))} voxels; lower inference.windows_per_batch"
                f"{' or leave inference.explain out' if self.explain_by else ''}"
            ) from error

    def _explain(self, case: PreparedCase) -> Explanation | None:
        """Outside of inference mode, which has no gradients; None when nobody asked, or without a contour."""
        if self.explain_by is None or not bool(case.sample.tumour_known > 0):
            return None
        return explain_case(self, case, method=self.explain_by)

    @torch.inference_mode()
    def _predict(self, record: CaseRecord, case: PreparedCase, explanation: Explanation | None) -> Prediction:
        applied = self.apply(case.sample)
        native = on_reference_grid(
            applied.probability,
            case,
            record=record,
            settings=self.spec.settings,
            threshold=self.choices.threshold,
        )
        risk = Risk.of(self.spec, applied.incidence)
        return Prediction(
            key=record.key,
            grid=case.reference,
            probability=native.probability,
            mask=native.mask,
            incidence=risk.incidence,
            months=self.spec.model.edges_months if risk.incidence else (),
            read_outs=self._with_explanation(
                describe(self.spec, record, case=case, native=native, risk=risk, choices=self.choices), explanation
            ),
            attribution={} if explanation is None else explanation.maps,
        )

    def _with_explanation(self, read_outs: dict[str, Any], explanation: Explanation | None) -> Mapping[str, Any]:
        if self.explain_by is None:
            return read_outs
        if explanation is None:
            return {**read_outs, "explanation": None, "notes": [*read_outs["notes"], no_contour(self.spec)]}
        return {**read_outs, "explanation": explanation.summary}

    def apply(self, sample: Sample) -> Applied:
        """Probabilities on the working grid and incidences, averaged over the models (and mirrored images)."""
        probability, incidence = None, None
        for model in self.models:
            encoding = self.encode(model, sample)
            part = encoding.segmentation / len(self.models)
            probability = part if probability is None else probability.add_(part)
            risk = self._incidence(model, sample, encoding)
            if risk is not None:
                incidence = risk / len(self.models) + (0.0 if incidence is None else incidence)
        assert probability is not None
        return Applied(probability[0], incidence)

    def encode(self, model: HypoxNet, sample: Sample) -> Encoding:
        """One model over a sample; `segmentation` is a probability here, 1 K D H W, 0 where nothing was predicted."""
        box = self._box(sample)
        images = sample.images[None][(..., *box)].to(self.device)
        tumour = sample.tumour[None][(..., *box)].to(self.device, images.dtype)
        presence = sample.presence[None].to(self.device)
        known = sample.tumour_known[None].to(self.device)
        flips = _all_flips() if self.choices.mirror else ((),)
        parts = []
        for axes in flips:
            part = encode_by_windows(
                model,
                images.flip(axes) if axes else images,
                presence=presence,
                tumour=tumour.flip(axes) if axes else tumour,
                tumour_known=known,
                sliding=self.sliding,
            )
            upright = part.segmentation.sigmoid_().flip(axes) if axes else part.segmentation.sigmoid_()
            parts.append(replace(part, segmentation=upright))
        whole = _mean(parts)
        if whole.segmentation.shape[2:] == sample.images.shape[1:]:
            return whole
        padded = whole.segmentation.new_zeros((1, whole.segmentation.shape[1], *sample.images.shape[1:]))
        padded[(..., *box)] = whole.segmentation
        return replace(whole, segmentation=padded)

    def _box(self, sample: Sample) -> tuple[slice, slice, slice]:
        """Where windows are laid: everywhere, or round the tumour when nothing outside it is looked at."""
        only_inside = self.spec.settings.inside_tumour and bool(sample.tumour_known > 0)
        pools_inside = not self.spec.model.outcome.enabled or self.spec.model.outcome.pool == "contour"
        window = self.sliding.window if only_inside and pools_inside else sample.images.shape[1:]
        tumour = sample.tumour[0]
        return surroundings(tumour, window)

    def _incidence(self, model: HypoxNet, sample: Sample, encoding: Encoding) -> Tensor | None:
        if not self.spec.causes:
            return None
        tumour = sample.tumour[None].to(self.device, torch.float32)
        known = sample.tumour_known[None].to(self.device)
        read_outs = model.read_outs(encoding.segmentation, tumour, known)
        outputs = model.outcome(
            encoding.pooled_sum,
            encoding.pooled_weight,
            read_outs,
            sample.covariates[None].to(self.device),
            sample.covariates_known[None].to(self.device),
        )
        assert model.time is not None
        return model.time.incidence(outputs, report_months(self.spec))[0]

    def needed(self, record: CaseRecord) -> CaseRecord:
        """The part of a record that prediction reads: no true regions, no outcome, no channel the network ignores.

        Raises:
            CaseError: None of the network's channels is present.
        """
        settings = self.spec.settings
        if self.alone:
            return needed_alone(record, self.spec)
        channels = {name: path for name, path in record.channels.items() if name in settings.channels}
        if not channels:
            raise CaseError(
                f"{record.key}: the network reads {', '.join(settings.channels)}, the manifest (line {record.line}) "
                f"has {', '.join(record.channels) or 'no channel'}; give at least one of them"
                f"{next(filter(None, map(ratio_hint, settings.channels)), '')}"
            )
        return replace(
            record,
            channels=channels,
            masks={name: path for name, path in record.masks.items() if name in settings.tumour},
            covariates={name: value for name, value in record.covariates.items() if name in settings.covariates},
            outcome=None,
        )

    def digest(self, record: CaseRecord) -> str:
        """A name for everything a prediction depends on: bundle, choices, content of the case's files, covariates.

        Raises:
            CaseError: None of the network's channels is present.
            OSError: A file cannot be read.
        """
        needed = self.needed(record)
        content = {
            "version": VERSION,
            "bundle": self.spec.digest,
            "choices": asdict(self.choices),
            "case": [needed.case_id, needed.visit, needed.site],
            "files": {name: sha256_of(path) for name, path in sorted({**needed.channels, **needed.masks}.items())},
            "covariates": dict(sorted(needed.covariates.items())),
            "measured": list(needed.measured),
        }
        if self.explain_by is not None:
            content["explain_by"] = self.explain_by
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_predictor(bundle: Path, config: InferenceConfig) -> Predictor:
    """Read a bundle and build its networks, once.

    Raises:
        BundleError: The bundle is incomplete, was changed, or its weights do not fit its description.
        ConfigError: The device does not exist, or a choice is out of its range.

    Example:
        predictor = load_predictor(Path("runs/a/bundle"), InferenceConfig(device="cpu"))
        prediction = predictor.predict(record)
    """
    spec, members = read_bundle(bundle)
    models = []
    for member, weights in enumerate(members):
        # Fresh weights are drawn and then replaced: the draw must not disturb the caller's random state.
        with torch.random.fork_rng(devices=[]):
            model = build_model(spec.model)
        load_strictly(model, weights, source=str(bundle / weights_name(member)))
        models.append(model.requires_grad_(False))
    return Predictor(spec, models, config)


def _all_flips() -> tuple[tuple[int, ...], ...]:
    """The eight mirror images of a 1 C D H W volume, as the axes that are flipped."""
    return tuple(axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count))


def _mean(parts: Sequence[Encoding]) -> Encoding:
    if len(parts) == 1:
        return parts[0]
    return Encoding(
        torch.stack([part.segmentation for part in parts]).mean(dim=0),
        torch.stack([part.pooled_sum for part in parts]).mean(dim=0),
        torch.stack([part.pooled_weight for part in parts]).mean(dim=0),
    )
