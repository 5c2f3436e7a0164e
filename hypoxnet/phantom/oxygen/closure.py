"""The closure: what the fine model says of a voxel whose vessels lie 2 R apart and hold p_v.

A voxel of millimetres holds hundreds of capillaries. Its mean pO2 obeys

    G (p_v - p) = M p / (p + K)

with coefficients G and K that depend on R and p_v. They are chosen so that p and the mean consumption are those of the
fine model, exactly, at every point of a table; Q nodes of equal weight tell how pO2 is distributed around its mean.
Between the points the logarithms of G and K, and the nodes over their mean, are bilinear in log R and log p_v: so they
can be differentiated, and nodes keep a mean of exactly 1. Beyond the table its edge is used.

Axis legend: A radii, B pressures, Q nodes; ... any axes of voxels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from hypoxnet.errors import ConfigError
from hypoxnet.files import write_json
from hypoxnet.phantom.oxygen.fine import FineState, Piece, place_capillaries, solve_fine
from hypoxnet.phantom.parameters.base import digest
from hypoxnet.phantom.parameters.oxygen import Oxygen, Vessels

RADII_UM = (16.0, 20.0, 25.0, 32.0, 40.0, 50.0, 63.0, 80.0, 100.0, 126.0, 160.0, 200.0)
PRESSURES_MMHG = (5.0, 10.0, 20.0, 28.0, 40.0, 75.0, 150.0, 300.0)
SHIPPED = "tables/closure.json"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything that a closure depends on.

    Args:
        oxygen: Of its parameters, all but pressures and the cycle count.
        disorder: Of the vessels, as in `Vessels`.
        radius_um: R that are wanted; those that fit a piece of tissue are within 1 %.
        vessel_mmhg: p_v, rising.
        placements: Random placements of the capillaries that are averaged.
        nodes: Q.
        seed: Of the placements.

    Raises:
        ConfigError: R leaves no room between capillaries, or a list is too short or not rising.
    """

    diffusion_um2_per_s: float
    consumption_mmhg_per_s: float
    half_mmhg: float
    capillary_radius_um: float
    disorder: float
    radius_um: tuple[float, ...] = RADII_UM
    vessel_mmhg: tuple[float, ...] = PRESSURES_MMHG
    placements: int = 6
    nodes: int = 12
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("radius_um", "vessel_mmhg"):
            values = getattr(self, name)
            if len(values) < 2 or any(b <= a for a, b in pairwise(values)):
                raise ConfigError(f"{name}={values} of the oxygen closure must be two rising numbers or more")
        if self.radius_um[0] < 3.0 * self.capillary_radius_um:
            raise ConfigError(
                f"radius_um={self.radius_um[0]:g} of the oxygen closure is below three times capillary_radius_um="
                f"{self.capillary_radius_um:g}; vessels so near leave no tissue between them, begin further up"
            )

    @classmethod
    def of(cls, oxygen: Oxygen, vessels: Vessels) -> Calibration:
        """The calibration that parameters of the object ask for."""
        return cls(
            diffusion_um2_per_s=oxygen.diffusion_um2_per_s,
            consumption_mmhg_per_s=oxygen.consumption_mmhg_per_s,
            half_mmhg=oxygen.half_mmhg,
            capillary_radius_um=oxygen.capillary_radius_um,
            disorder=vessels.disorder,
        )

    @property
    def oxygen(self) -> Oxygen:
        """Diffusion and consumption."""
        return Oxygen(
            diffusion_um2_per_s=self.diffusion_um2_per_s,
            consumption_mmhg_per_s=self.consumption_mmhg_per_s,
            half_mmhg=self.half_mmhg,
            capillary_radius_um=self.capillary_radius_um,
        )


@dataclass(frozen=True, slots=True)
class Coefficients:
    """The closure of some voxels.

    Args:
        supply_per_s: ..., G.
        half_mmhg: ..., K of the voxel, larger than that of tissue because pO2 varies inside.
        nodes: ... Q, nodes of local pO2 over their mean.
    """

    supply_per_s: Tensor
    half_mmhg: Tensor
    nodes: Tensor


@dataclass(frozen=True, slots=True)
class Closure:
    """The table, and what it was made for.

    Args:
        calibration: Its parameters.
        radius_um: A, R of the pieces of tissue.
        vessel_mmhg: B, p_v.
        supply_per_s: A B, G.
        half_mmhg: A B, K.
        nodes: A B Q, nodes over their mean.
        spread_mmhg: A B, SD of mean pO2 between placements in a piece of tissue of about 0.8 mm.
    """

    calibration: Calibration
    radius_um: Tensor
    vessel_mmhg: Tensor
    supply_per_s: Tensor
    half_mmhg: Tensor
    nodes: Tensor
    spread_mmhg: Tensor

    def at(self, radius_um: Tensor, vessel_mmhg: Tensor) -> Coefficients:
        """Coefficients of voxels; differentiable in both arguments.

        Args:
            radius_um: ..., R.
            vessel_mmhg: ..., or one number, p_v.
        """
        flat = radius_um.reshape(-1)
        row, down = _located(flat, self.radius_um)
        column, along = _located(vessel_mmhg.expand(radius_um.shape).reshape(-1), self.vessel_mmhg)
        columns = self.vessel_mmhg.numel()
        logs = torch.stack([self.supply_per_s.log(), self.half_mmhg.log()], dim=-1)
        table = torch.cat([logs, self.nodes], dim=-1).reshape(-1, 2 + self.nodes.shape[-1]).to(flat)
        first = row * columns + column
        # `embedding` copies rows several times faster than indexing does, and differentiates as well.
        read = F.embedding(first, table) * ((1.0 - down) * (1.0 - along))[:, None]
        read = read.addcmul_(F.embedding(first + 1, table), ((1.0 - down) * along)[:, None])
        read = read.addcmul_(F.embedding(first + columns, table), (down * (1.0 - along))[:, None])
        read = read.addcmul_(F.embedding(first + columns + 1, table), (down * along)[:, None])
        supply, half = (read[:, n].exp().reshape(radius_um.shape) for n in (0, 1))
        return Coefficients(supply, half, read[:, 2:].reshape(*radius_um.shape, -1))


def _located(value: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The interval of a logarithmic axis that holds each value, and the place in it, 0 to 1."""
    axis = points.to(value).log()
    position = value.clamp(min=float(points[0]), max=float(points[-1])).log()
    index = torch.bucketize(position.detach(), axis[1:-1], right=True)
    return index, (position - axis[index]) / (axis[index + 1] - axis[index])


def closure_for(oxygen: Oxygen, vessels: Vessels, *, folder: Path | None = None, progress: bool = False) -> Closure:
    """The closure of these parameters: the one that comes along, one made before, or one made now (minutes).

    Args:
        oxygen: Diffusion and consumption.
        vessels: Their disorder.
        folder: Where closures are kept; without it, one that is made now is not kept.
        progress: Show a bar while one is made.

    Example:
        >>> closure_for(Oxygen(), Vessels()).nodes.shape
        torch.Size([12, 8, 12])
    """
    calibration = Calibration.of(oxygen, vessels)
    if shipped().calibration == calibration:
        return shipped()
    kept = None if folder is None else folder / f"closure-{digest(calibration)}.json"
    if kept is not None and kept.exists():
        return from_json(json.loads(kept.read_text(encoding="utf-8")))
    made = calibrate(calibration, progress=progress)
    if kept is not None:
        write_json(kept, to_json(made))
    return made


@lru_cache(maxsize=1)
def shipped() -> Closure:
    """The closure of the default parameters, which comes along with the program."""
    path = resources.files("hypoxnet.phantom").joinpath(SHIPPED)
    return from_json(json.loads(path.read_text(encoding="utf-8")))


def calibrate(calibration: Calibration, *, progress: bool = False) -> Closure:
    """Make the table by solving the fine model at each of its points.

    Args:
        calibration: Parameters and points.
        progress: Show a bar.
    """
    oxygen = calibration.oxygen
    pieces = [Piece.near(radius, oxygen) for radius in calibration.radius_um]
    rows = [
        _row(calibration, piece, number)
        for number, piece in enumerate(track(pieces, description="closure of oxygen", disable=not progress))
    ]
    supply, half, nodes, spread = (torch.from_numpy(np.stack(part)).float() for part in zip(*rows, strict=True))
    return Closure(
        calibration=calibration,
        radius_um=torch.tensor([piece.radius_um for piece in pieces]),
        vessel_mmhg=torch.tensor(calibration.vessel_mmhg),
        supply_per_s=supply,
        half_mmhg=half,
        nodes=nodes,
        spread_mmhg=spread,
    )


def _row(calibration: Calibration, piece: Piece, number: int) -> tuple[NDArray[np.float64], ...]:
    """G, K, nodes and spread at every pressure, for one R."""
    states = [
        fine_states(
            piece,
            calibration,
            vessel_mmhg=calibration.vessel_mmhg,
            generator=np.random.default_rng([calibration.seed, number, placement]),
        )
        for placement in range(calibration.placements)
    ]
    points = [
        coefficients_of([one[column] for one in states], vessel_mmhg=pressure, calibration=calibration)
        for column, pressure in enumerate(calibration.vessel_mmhg)
    ]
    return tuple(np.stack([np.asarray(point[part]) for point in points]) for part in range(4))


def fine_states(
    piece: Piece, calibration: Calibration, *, vessel_mmhg: Sequence[float], generator: np.random.Generator
) -> list[FineState]:
    """One placement of capillaries, solved at each pressure.

    Args:
        piece: Measures of the tissue.
        calibration: Parameters.
        vessel_mmhg: Pressures, in any order.
        generator: Source of randomness.

    Returns:
        In the order of the pressures.
    """
    capillaries = place_capillaries(piece, disorder=calibration.disorder, generator=generator)
    states: dict[float, FineState] = {}
    start: Tensor | None = None
    before = 1.0
    for pressure in sorted(vessel_mmhg, reverse=True):
        # The solution of the pressure before, scaled, saves a third of the work.
        scaled = None if start is None else start * (pressure / before)
        state = solve_fine(capillaries, calibration.oxygen, vessel_mmhg=pressure, voxel_um=piece.voxel_um, start=scaled)
        states[pressure] = state
        start, before = state.steady.po2, pressure
    return [states[pressure] for pressure in vessel_mmhg]


def coefficients_of(
    states: Sequence[FineState], *, vessel_mmhg: float, calibration: Calibration
) -> tuple[float, float, NDArray[np.float64], float]:
    """G, K, nodes over their mean, and SD of the mean, of placements taken together.

    Args:
        states: Of the placements, all at `vessel_mmhg`.
        vessel_mmhg: p_v.
        calibration: M and the number of nodes.
    """
    means = [state.mean_mmhg for state in states]
    mean = float(np.mean(means))
    consumption = float(np.mean([state.consumption_mmhg_per_s for state in states]))
    supply = consumption / (vessel_mmhg - mean)
    half = mean * (calibration.consumption_mmhg_per_s / consumption - 1.0)
    nodes = equal_shares(
        np.concatenate([state.po2.numpy() for state in states]),
        top=vessel_mmhg,
        top_weight=sum(state.around for state in states),
        count=calibration.nodes,
    )
    return supply, half, nodes / nodes.mean(), float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def equal_shares(values: NDArray[np.float64], *, top: float, top_weight: float, count: int) -> NDArray[np.float64]:
    """Means of equal shares of a distribution, from the lowest to the highest; their mean is that of all.

    Args:
        values: Of weight 1 each.
        top: A value that none exceeds.
        top_weight: Its weight.
        count: Number of shares.

    Example:
        >>> equal_shares(np.array([3.0, 1.0, 2.0]), top=4.0, top_weight=1.0, count=2)
        array([1.5, 3.5])
    """
    ordered = np.append(np.sort(values), top)
    weight = np.append(np.ones(values.size), top_weight)
    reached = np.concatenate([[0.0], np.cumsum(weight)])
    content = np.concatenate([[0.0], np.cumsum(weight * ordered)])
    edges = np.linspace(0.0, reached[-1], count + 1)
    return np.asarray(np.diff(np.interp(edges, reached, content)) * count / reached[-1])


def to_json(closure: Closure) -> dict[str, Any]:
    """A closure as plain values."""
    tables = ("radius_um", "vessel_mmhg", "supply_per_s", "half_mmhg", "nodes", "spread_mmhg")
    numbers = {name: _rounded(getattr(closure, name).double().tolist()) for name in tables}
    return {"digest": digest(closure.calibration), "calibration": asdict(closure.calibration), **numbers}


def _rounded(values: Any) -> Any:
    return [_rounded(v) for v in values] if isinstance(values, list) else float(f"{values:.7g}")


def from_json(content: dict[str, Any]) -> Closure:
    """A closure from plain values.

    Raises:
        ConfigError: Its digest is not that of its parameters.
    """
    # JSON makes lists of tuples.
    stated: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content["calibration"].items()}
    calibration = Calibration(**stated)
    if digest(calibration) != content["digest"]:
        raise ConfigError(
            f"the oxygen closure with digest {content['digest']} belongs to other parameters than it states "
            f"({digest(calibration)}); make it again with benchmarks/phantom_closure.py"
        )
    tables = {k: torch.tensor(v) for k, v in content.items() if k not in ("digest", "calibration")}
    # Rounding in the file must not move the mean of the nodes off 1.
    tables["nodes"] = tables["nodes"] / tables["nodes"].mean(dim=-1, keepdim=True)
    return Closure(calibration=calibration, **tables)
