"""What leaves a bundle: its networks as graphs of plain tensors, with one signature for every format.

Axis legend: B patients, C channels, K regions, P columns of covariates, F features, R members of the ensemble, J
causes, M months (the interval edges, then the horizon), D H W voxels of the working grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hypoxnet.bundle.export.onnx_tape import Tape
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.models.config import NO_BACKBONE
from hypoxnet.models.heads import OutcomeHead
from hypoxnet.models.joint import HypoxNet, mean_of_pooled, read_outs_of

# Of an example no size may equal another, or an exporter takes two axes for one, nor the smallest that is allowed,
# which would become the only one.
EXAMPLE_BLOCKS = (3, 4, 5)
EXAMPLE_PATIENTS = 2


class CaseGraph(nn.Module):
    """Images of patients to probabilities and incidences, averaged over the ensemble.

    `pred` and `incidence` are those of a patient whose box is given whole. A larger patient is given window by window:
    then `logits`, blended, make the segmentation, and the sums of `pooled_sum` and `pooled_weight` go into
    `OutcomeGraph`, as `inference.windows` does. `logits` are calibrated: divided by the temperature of their member and
    region. The outcome reads volumes of what they were before, `logits` times `temperature`.

    Args:
        spec: The bundle.
        models: Members of the ensemble.
    """

    temperature: Tensor

    def __init__(self, spec: BundleSpec, models: Sequence[HypoxNet]) -> None:
        super().__init__()
        self.members = nn.ModuleList(models)
        self.outcome = OutcomeGraph(spec, models) if spec.causes else None
        self.calibrated = spec.calibrated
        self.register_buffer("temperature", temperature_of(spec), persistent=False)

    def forward(
        self,
        image: Tensor,
        presence: Tensor,
        tumour: Tensor,
        tumour_known: Tensor,
        covariates: Tensor | None = None,
        covariates_known: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """B C D H W, B C, B 1 D H W, B, B P, B P to `pred` B K D H W, `incidence` B J M, `logits` B R K D H W,
        `pooled_sum` and `pooled_weight` B R F; sizes are multiples of `box_multiple`.
        """
        encoded = [member.encode(image, presence, tumour, tumour_known) for member in _networks(self.members)]
        plain = torch.stack([part.segmentation.float() for part in encoded], dim=1)
        logits = plain / self.temperature if self.calibrated else plain
        outputs = {"pred": torch.sigmoid(logits).mean(dim=1)}
        if self.outcome is None:
            return outputs | {"logits": logits}
        pooled_sum = torch.stack([part.pooled_sum for part in encoded], dim=1)
        pooled_weight = torch.stack([part.pooled_weight for part in encoded], dim=1)
        tumour_ml, region_ml = self.outcome.volumes_ml(torch.sigmoid(plain), tumour, tumour_known)
        incidence = self.outcome(pooled_sum, pooled_weight, tumour_ml, region_ml, covariates, covariates_known)
        return outputs | {
            "incidence": incidence["incidence"],
            "logits": logits,
            "pooled_sum": pooled_sum,
            "pooled_weight": pooled_weight,
        }


class OutcomeGraph(nn.Module):
    """What the windows of a patient add up to, to incidences averaged over the ensemble.

    Args:
        spec: The bundle; it has an outcome head.
        models: Members of the ensemble.
    """

    def __init__(self, spec: BundleSpec, models: Sequence[HypoxNet]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_head(model) for model in models)
        self.model = spec.model
        self.months = reported_months(spec)
        self.voxel_ml = spec.model.voxel_ml
        self.inside = spec.model.outcome.pool == "contour"

    def volumes_ml(self, probability: Tensor, tumour: Tensor, tumour_known: Tensor) -> tuple[Tensor, Tensor]:
        """Volumes of tumour, B R, and of the regions, B R K, of probabilities B R K D H W."""
        first = probability[:, :, :1]
        known = tumour_known[:, None, None, None, None, None] > 0
        mask = torch.where(known, tumour[:, None].float(), first) if self.inside else first
        inside = probability * mask if self.inside else probability
        space = (3, 4, 5)
        return mask.sum(dim=space)[:, :, 0] * self.voxel_ml, inside.sum(dim=space) * self.voxel_ml

    def forward(
        self,
        pooled_sum: Tensor,
        pooled_weight: Tensor,
        tumour_ml: Tensor,
        region_ml: Tensor,
        covariates: Tensor | None = None,
        covariates_known: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """B R F, B R F, B R, B R K, B P, B P to `incidence` B J M."""
        nothing = pooled_sum.new_zeros((pooled_sum.shape[0], 0))
        values, known = (nothing if tensor is None else tensor for tensor in (covariates, covariates_known))
        parts = []
        for place, head in enumerate(self.heads):
            assert isinstance(head, OutcomeHead)
            pooled = mean_of_pooled(pooled_sum[:, place], pooled_weight[:, place])
            read_outs = read_outs_of(self.model, tumour_ml[:, place : place + 1], region_ml[:, place])
            parts.append(head.time.incidence(head(pooled, read_outs, values, known), self.months))
        return {"incidence": torch.stack(parts).mean(dim=0)}


class CovariateGraph(nn.Module):
    """A model of covariates alone: columns of covariates to incidences, averaged over the ensemble.

    Args:
        spec: The bundle.
        models: Members of the ensemble.
    """

    def __init__(self, spec: BundleSpec, models: Sequence[HypoxNet]) -> None:
        super().__init__()
        self.members = nn.ModuleList(models)
        self.months = reported_months(spec)

    def forward(self, covariates: Tensor, covariates_known: Tensor) -> dict[str, Tensor]:
        """B P and B P to `incidence` B J M."""
        parts = []
        for member in _networks(self.members):
            assert member.time is not None
            outputs = member.outcome_of_covariates(covariates, covariates_known)
            parts.append(member.time.incidence(outputs, self.months))
        return {"incidence": torch.stack(parts).mean(dim=0)}


def temperature_of(spec: BundleSpec) -> Tensor:
    """What log-odds are divided by, 1 R K 1 1 1; 1 where none was fitted."""
    return torch.tensor(spec.every_temperature, dtype=torch.float32)[None, :, :, None, None, None]


def _networks(members: nn.ModuleList) -> Iterator[HypoxNet]:
    for member in members:
        assert isinstance(member, HypoxNet)
        yield member


def _head(model: HypoxNet) -> OutcomeHead:
    assert model.head is not None, "a bundle with causes has a head in every member"
    return model.head


def reported_months(spec: BundleSpec) -> tuple[float, ...]:
    """Months at which incidence is reported: the interval edges, then the horizon."""
    return (*spec.model.edges_months, spec.model.outcome.horizon_months)


@dataclass(frozen=True, slots=True)
class Graph:
    """A module with the names of what goes in and comes out, and an example of it.

    Args:
        name: `network`, `outcome`, `covariates`, or `prepare` and `finish` round them.
        module: In evaluation mode, on the CPU.
        inputs: Name to example; batch `EXAMPLE_PATIENTS`, unequal sizes.
        outputs: Names in order.
        spatial: Name of an input or output to the number of its leading axes before D H W, where it has them.
        multiple: Sizes along D, H, W are multiples of this, and twice as much at least.
        tape: Operators of ONNX that do what the module does, where no exporter can follow it; None leaves that to one.
        trials: Inputs to compare on; empty takes those of `agreement.trials`.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    spatial: dict[str, int]
    multiple: int
    tape: Tape | None = None
    trials: tuple[dict[str, Tensor], ...] = ()


def graphs_of(spec: BundleSpec, models: Sequence[HypoxNet]) -> tuple[Graph, ...]:
    """Every graph of a bundle: `network` and `outcome`, or `covariates` for a model without images.

    Args:
        spec: The bundle.
        models: Its members, in evaluation mode on the CPU.
    """
    if spec.model.backbone.backbone == NO_BACKBONE:
        inputs = example_of_covariates(spec, EXAMPLE_PATIENTS)
        return (Graph("covariates", CovariateGraph(spec, models).eval(), inputs, ("incidence",), {}, 1),)
    network = CaseGraph(spec, models).eval()
    multiple = box_multiple(models[0])
    inputs = example_inputs(spec, [multiple * n for n in EXAMPLE_BLOCKS], patients=EXAMPLE_PATIENTS)
    with torch.no_grad():
        outputs = network(**inputs)
    spatial = {"image": 2, "tumour": 2, "pred": 2, "logits": 3}
    first = Graph("network", network, inputs, tuple(outputs), spatial, multiple)
    if network.outcome is None:
        return (first,)
    pooled = {name: outputs[name] for name in ("pooled_sum", "pooled_weight")}
    plain = torch.sigmoid(outputs["logits"] * temperature_of(spec))
    volumes = network.outcome.volumes_ml(plain, inputs["tumour"], inputs["tumour_known"])
    known = {name: tensor for name, tensor in inputs.items() if name.startswith("covariates")}
    inside = pooled | dict(zip(("tumour_ml", "region_ml"), volumes, strict=True)) | known
    return first, Graph("outcome", network.outcome, inside, ("incidence",), {}, 1)


def box_multiple(model: HypoxNet) -> int:
    """Voxels of which the sides of a box must be multiples."""
    return int(getattr(model.backbone, "multiple", 1))


def example_inputs(
    spec: BundleSpec, sizes: Sequence[int], *, patients: int = 1, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Inputs of `CaseGraph` that look like patients: noise, a tumour in the middle, every second channel now and then
    absent, covariates of the mean patient and near it.

    Args:
        spec: The bundle.
        sizes: Voxels along D, H, W.
        patients: B.
        generator: Of the noise; a fixed one when None.
    """
    generator = generator or torch.Generator().manual_seed(0)
    channels = spec.model.channels
    presence = torch.ones(patients, channels)
    if channels > 1:
        presence[1::2, 1::2] = 0.0
    image = torch.randn(patients, channels, *sizes, generator=generator) * presence[:, :, None, None, None]
    tumour = torch.zeros(patients, 1, *sizes)
    d, h, w = (slice(n // 4, n - n // 4) for n in sizes)
    tumour[:, :, d, h, w] = 1.0
    return {
        "image": image,
        "presence": presence,
        "tumour": tumour,
        "tumour_known": torch.ones(patients),
        **example_of_covariates(spec, patients, generator=generator),
    }


def example_of_covariates(
    spec: BundleSpec, patients: int, *, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Standardised covariates near those of the mean patient; empty for a bundle without any."""
    columns = spec.model.covariates
    if not columns or not spec.causes:
        return {}
    generator = generator or torch.Generator().manual_seed(0)
    values = torch.randn(patients, columns, generator=generator)
    return {"covariates": values, "covariates_known": torch.ones(patients, columns)}
