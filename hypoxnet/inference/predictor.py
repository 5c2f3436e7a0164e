"""A bundle in memory: models loaded once, applied to one case at a time.

Axis legend: C channels, K regions, F features, J causes, T intervals, D H W voxels of the working grid, i j k voxels of
the patient's reference grid; the leading 1 is the patient.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypoxnet.bundle.read import read_networks
from hypoxnet.bundle.schema import BundleSpec, InferenceDefaults
from hypoxnet.cases import CaseRecord, Prediction, Sample
from hypoxnet.errors import CaseError
from hypoxnet.files import sha256_of
from hypoxnet.inference.applied import Applied, Together, said_by, temperatures_of, whole
from hypoxnet.inference.attribution import Explanation, check_explainable, explain_case, no_contour
from hypoxnet.inference.batching import measured_batch, memory_of, most_on, threads_on
from hypoxnet.inference.config import BFLOAT16, InferenceConfig
from hypoxnet.inference.covariates import cohort_incidence, needed_alone, predict_alone
from hypoxnet.inference.device import cases_ahead_on, choose_device
from hypoxnet.inference.read_outs import (
    Risk,
    describe,
    native_values,
    not_read,
    not_read_notes,
    on_reference_grid,
    report_months,
    why_not_made,
)
from hypoxnet.inference.spread import Members, Passes, no_spread
from hypoxnet.inference.unlike import unlike_training
from hypoxnet.inference.windows import (
    Box,
    Encoding,
    Sliding,
    passes,
    passes_by_windows,
    probability_by_windows,
    surroundings,
)
from hypoxnet.models.config import NO_BACKBONE
from hypoxnet.models.joint import HypoxNet
from hypoxnet.threads import one_thread
from hypoxnet.transforms.prepare import PreparedCase, prepare

log = logging.getLogger(__name__)

# Raise it when the same bundle and files would give other numbers: finished cases are then predicted again.
VERSION = 5


@dataclass(frozen=True, slots=True)
class Ready:
    """A case that was read and prepared for the network.

    Args:
        record: The part of it that prediction reads.
        case: On the working grid; None for a model of covariates alone, which reads no file.
        not_read: Channels of the case that prediction does not read.
    """

    record: CaseRecord
    case: PreparedCase | None
    not_read: tuple[str, ...] = ()


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
        self.temperatures = temperatures_of(spec, self.device)
        self.spread = config.spread
        self.bfloat16 = config.precision == BFLOAT16
        self.choices = InferenceDefaults(**{**asdict(spec.inference), **config.chosen()})
        # None until the first case: its measurement needs the device.
        self.windows_per_batch = config.windows_per_batch
        self.threads = threads_on(self.device, spec.settings.window)
        self.cases_ahead = cases_ahead_on(self.device) if config.cases_ahead is None else config.cases_ahead
        self.explain_by = config.explain_by if config.explain else None
        if config.explain:
            check_explainable(spec)

    @property
    def sliding(self) -> Sliding:
        """How windows are laid; what was not chosen is measured when it is first asked for."""
        if self.windows_per_batch is None:
            self.windows_per_batch = self._measured_batch()
            log.info("%d windows at once on %s", self.windows_per_batch, self.device)
        return Sliding(
            self.spec.settings.window,
            self.choices.overlap,
            self.windows_per_batch,
            mirror=self.choices.mirror,
            bfloat16=self.bfloat16,
            threads=self.threads,
        )

    @torch.inference_mode()
    def _measured_batch(self) -> int:
        most = most_on(self.device, self.spec.settings.window, bfloat16=self.bfloat16)
        windows = torch.zeros(1, len(self.spec.settings.channels) + 1, *self.spec.settings.window, device=self.device)
        known = torch.ones(1, device=self.device)

        def work(count: int) -> None:
            images = windows[:, :-1].expand(count, -1, -1, -1, -1).contiguous()
            presence = known.expand(count, images.shape[1])
            self.models[0].encode(images, presence, windows[:, -1:].expand(count, -1, -1, -1, -1), known.expand(count))

        return measured_batch(work, memory_of(self.device), most=most, at_once=self.threads)

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
            CaseError: A file is damaged, the tumour's contour is empty, channels do not overlap, none of the network's
                channels is present, or the device has too little memory.
            GeometryError: An affine is unusable.
        """
        return self.predict_ready(self.prepare(record))

    def prepare(self, record: CaseRecord) -> Ready:
        """Read a case and bring it onto the working grid; uses no device, and may run beside a prediction.

        Raises:
            CaseError, GeometryError: As `predict`.
        """
        needed = self.needed(record)
        if self.alone:
            return Ready(needed, None)
        with one_thread():
            return Ready(needed, prepare(needed, self.spec.settings), self._not_read(record))

    def predict_ready(self, ready: Ready) -> Prediction:
        """Predict a prepared case; with half as many windows at once when the device has too little memory.

        Raises:
            CaseError: The device has too little memory for one window.
        """
        record, case = ready.record, ready.case
        if case is None:
            return predict_alone(self.models, self.spec, record)
        at_first = self.windows_per_batch
        while True:
            try:
                return self._predict(ready, case, self._explain(case))
            except torch.OutOfMemoryError as error:
                if self.windows_per_batch in (None, 1):
                    self.windows_per_batch = at_first  # one huge case must not slow the others
                    raise self._too_little_memory(record) from error
            # Only here, outside of the handler: while the error lives, so does what the failed attempt holds.
            self.windows_per_batch = self._halved(record)

    def _halved(self, record: CaseRecord) -> int:
        assert self.windows_per_batch is not None
        fewer = self.windows_per_batch // 2
        log.warning(
            "%s: %s has too little memory for %d windows at once, going on with %d",
            *(record.key, self.device, self.windows_per_batch, fewer),
        )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return fewer

    def _too_little_memory(self, record: CaseRecord) -> CaseError:
        return CaseError(
            f"{record.key}: {self.device} has too little memory for one window of "
            f"{' x '.join(map(str, self.spec.settings.window))} voxels; take a device with more"
            f"{', or leave inference.explain out' if self.explain_by else ', or inference.device=cpu'}"
        )

    def _explain(self, case: PreparedCase) -> Explanation | None:
        """Outside of inference mode, which has no gradients; None when nobody asked, or without a contour."""
        if self.explain_by is None or not bool(case.sample.tumour_known > 0):
            return None
        return explain_case(self, case, method=self.explain_by)

    @torch.inference_mode()
    def _predict(self, ready: Ready, case: PreparedCase, explanation: Explanation | None) -> Prediction:
        record = ready.record
        members = self._members(case)
        applied = self.apply(case.sample, members)
        native = on_reference_grid(
            applied.inside, applied.box, case, settings=self.spec.settings, threshold=self.choices.threshold
        )
        risk = Risk.of(self.spec, applied.incidence)
        said = describe(self.spec, record, case=case, native=native, risk=risk, choices=self.choices)
        said |= self._doubts(case, applied, members, [*said["notes"], *not_read_notes(ready.not_read)])
        if self.bfloat16:
            said["choices"] |= {"precision": BFLOAT16}
        return Prediction(
            key=record.key,
            grid=case.reference,
            probability=native.probability,
            mask=native.mask,
            incidence=risk.incidence,
            months=self.spec.model.edges_months if risk.incidence else (),
            read_outs=self._with_explanation(said, explanation),
            attribution={} if explanation is None else explanation.maps,
            deviation=self._deviation(case, applied, native.tumour if native.restricted else None),
        )

    def _members(self, case: PreparedCase) -> Members:
        return Members(case, self.spec.settings, self.choices.threshold, several=len(self.models) > 1)

    def _doubts(self, case: PreparedCase, applied: Applied, members: Members, notes: list[str]) -> dict[str, Any]:
        """How far members are apart, and whether the case is unlike those that trained them."""
        looks = len(self.models) * len(passes(self.sliding))
        at_horizon = [incidence[:, -1].tolist() for incidence in applied.by_member]
        alone = [no_spread()] if self.spread and looks == 1 else []
        return {
            "spread": members.describe(self.spec, at_horizon, passes=looks),
            "unlike_training": unlike_training(self.spec, case.sample, applied.pooled),
            "notes": [*notes, *alone],
        }

    def _deviation(
        self, case: PreparedCase, applied: Applied, within: NDArray[np.bool_] | None
    ) -> dict[str, NDArray[np.float32]]:
        if applied.deviation is None:
            return {}
        native = native_values(applied.deviation, applied.box, case, within=within).cpu().numpy()
        return dict(zip(self.spec.settings.region_names, native, strict=True))

    def _with_explanation(self, read_outs: dict[str, Any], explanation: Explanation | None) -> Mapping[str, Any]:
        if self.explain_by is None:
            return read_outs
        if explanation is None:
            return {**read_outs, "explanation": None, "notes": [*read_outs["notes"], no_contour(self.spec)]}
        return {**read_outs, "explanation": explanation.summary}

    def apply(self, sample: Sample, members: Members | None = None) -> Applied:
        """Probabilities and incidences, averaged over the models (and mirrored images); `members` is told of each."""
        box = self._box(sample)
        together, deviation = Together(len(self.models)), Passes() if self.spread else None
        for place, model in enumerate(self.models):
            logits = passes_by_windows(model, **self._windows_of(sample, box))
            said = said_by(logits, self.temperatures[place], deviation)
            if members is not None:
                members.add(said.probability[0], box)
            together.add(said, self._incidence(model, sample, said.encoding, box))
        return together.applied(box, sample.grid.shape, deviation)

    def logits(self, model: HypoxNet, sample: Sample) -> tuple[Box, Iterator[Encoding]]:
        """Uncalibrated logits of one model inside a box, of the case and of its mirror images upright again."""
        box = self._box(sample)
        return box, passes_by_windows(model, **self._windows_of(sample, box))

    def encode(self, model: HypoxNet, sample: Sample) -> Encoding:
        """One model over a sample; `segmentation` is a probability here, 1 K D H W, 0 where nothing was predicted."""
        box = self._box(sample)
        encoding = probability_by_windows(model, **self._windows_of(sample, box))
        return replace(encoding, segmentation=whole(encoding.segmentation, box, sample.grid.shape))

    def _windows_of(self, sample: Sample, box: Box) -> dict[str, Any]:
        images = sample.images[None][(..., *box)].to(self.device)
        return {
            "images": images,
            "presence": sample.presence[None].to(self.device),
            "tumour": sample.tumour[None][(..., *box)].to(self.device, images.dtype),
            "tumour_known": sample.tumour_known[None].to(self.device),
            "sliding": self.sliding,
        }

    def _box(self, sample: Sample) -> Box:
        """Where windows are laid: everywhere, or round the tumour when nothing outside it is looked at."""
        only_inside = self.spec.settings.inside_tumour and bool(sample.tumour_known > 0)
        pools_inside = not self.spec.model.outcome.enabled or self.spec.model.outcome.pool == "contour"
        window = self.spec.settings.window if only_inside and pools_inside else sample.images.shape[1:]
        tumour = sample.tumour[0]
        return surroundings(tumour, window)

    def _incidence(self, model: HypoxNet, sample: Sample, encoding: Encoding, box: Box) -> Tensor | None:
        if not self.spec.causes:
            return None
        # A contour lies in the box as a whole, and without one the box is everything.
        tumour = sample.tumour[None][(..., *box)].to(self.device, torch.float32)
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
                f"{next(filter(None, (why_not_made(name, record) for name in settings.channels)), '')}"
            )
        return replace(
            record,
            channels=channels,
            masks={name: path for name, path in record.masks.items() if name in settings.tumour},
            covariates={name: value for name, value in record.covariates.items() if name in settings.covariates},
            outcome=None,
        )

    def _not_read(self, record: CaseRecord) -> tuple[str, ...]:
        return () if self.alone else tuple(not_read(record, self.spec.settings))

    def made_by(self) -> dict[str, Any]:
        """What makes a prediction, apart from the case."""
        made_by = {"version": VERSION, "bundle": self.spec.digest, "choices": asdict(self.choices)}
        made_by |= {"spread": True} if self.spread else {}
        made_by |= {"precision": BFLOAT16} if self.bfloat16 else {}
        return made_by if self.explain_by is None else {**made_by, "explain_by": self.explain_by}

    def digest(self, record: CaseRecord) -> str:
        """A name for everything a prediction and its notes depend on: bundle, choices, content of files, covariates.

        Raises:
            CaseError: None of the network's channels is present.
            OSError: A file cannot be read.
        """
        needed = self.needed(record)
        content = {
            **self.made_by(),
            "case": [needed.case_id, needed.visit, needed.site],
            "files": {name: sha256_of(path) for name, path in sorted({**needed.channels, **needed.masks}.items())},
            "covariates": dict(sorted(needed.covariates.items())),
            "measured": list(needed.measured),
            "not_read": list(self._not_read(record)),
        }
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
    spec, models = read_networks(bundle)
    return Predictor(spec, models, config)
