"""Steady state of oxygen between vessels that supply it and tissue that consumes it, on a regular grid.

    D lap p + g (p_v - p) - M p / (p + K) = 0

No oxygen passes the border of the volume, nor that of the tissue. Diffusion is the seven-point stencil (second order).
Newton's method: the left side is a convex function of p, and minus its derivative is an M-matrix, so each step from a
state lies at or below the solution and the next ones climb to it; a state cut off at 0 stays below it. So positivity
costs nothing and no line search is needed. Each step is solved by conjugate gradients, preconditioned by the diagonal,
only as well as the step deserves.

Axis legend: D H W voxels; inside the solver volumes are flat, and a link joins voxels `stride` apart.

Source:
    Eisenstat and Walker 1996, SIAM J Sci Comput 17:16, choice 2 of the forcing term.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from hypoxnet.errors import ConfigError

CLOSED, PERIODIC = "closed", "periodic"
NEWTON_STEPS = 60
GRADIENT_STEPS = 2000
# A step that is solved to less than this would waste Newton's fast convergence; to more, its own work.
LOOSEST = 0.1
# Steps are solved in float32, the balance in the precision of its tensors: fast, and as exact as the tensors allow.
TIGHTEST = 1e-3
# Where tissue consumes next to nothing, residuals are relative to this share of what its vessels could give.
LEAST_SCALE = 1e-3


@dataclass(frozen=True, slots=True)
class Balance:
    """What is to be in balance. Tensors are D H W or one number; `supply_per_s` is always D H W and sets the precision.

    Args:
        spacing_um: Voxel size along each axis.
        diffusion_um2_per_s: D.
        supply_per_s: g, exchange with vessels.
        vessel_mmhg: p_v.
        consumption_mmhg_per_s: M, largest consumption.
        half_mmhg: K, pO2 of half of it.
        inside: D H W, bool, where there is tissue; everywhere by default.
        fixed_mmhg: D H W, pO2 where it is given, nan where it is to be found.
        border: `closed`, or `periodic` where the volume is one cell of a lattice.

    Raises:
        ConfigError: A value is not finite, negative, or leaves the solution undetermined; the sentence names it.
    """

    spacing_um: Sequence[float]
    diffusion_um2_per_s: float
    supply_per_s: Tensor
    vessel_mmhg: Tensor
    consumption_mmhg_per_s: Tensor
    half_mmhg: Tensor
    inside: Tensor | None = None
    fixed_mmhg: Tensor | None = None
    border: str = CLOSED

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_regions(self)


@dataclass(frozen=True, slots=True)
class Steady:
    """A steady state, and how exactly it is one.

    Args:
        po2: D H W, mmHg; 0 outside the tissue.
        relative: Norm of what the balance leaves over that of consumption; where tissue consumes next to nothing, over
            a thousandth of what its vessels could give.
        absolute: Largest imbalance of a voxel, mmHg/s.
        newton: Steps of Newton's method.
        gradients: Steps of conjugate gradients, all together.
    """

    po2: Tensor
    relative: float
    absolute: float
    newton: int
    gradients: int


def local_balance(supply: Tensor, vessel_mmhg: Tensor, consumption: Tensor, half_mmhg: Tensor) -> Tensor:
    """pO2 without diffusion between voxels: the root of g (p_v - p) = M p / (p + K) that is not negative, mmHg.

    Args:
        supply: g, 1/s, positive.
        vessel_mmhg: p_v.
        consumption: M, mmHg/s.
        half_mmhg: K, positive.

    Example:
        >>> one = torch.ones(1)
        >>> p = local_balance(one, 40.0 * one, 15.0 * one, 2.0 * one)
        >>> bool(torch.isclose(40.0 - p, 15.0 * p / (p + 2.0)))
        True
    """
    b = half_mmhg + consumption / supply - vessel_mmhg
    root = torch.sqrt(b * b + 4.0 * vessel_mmhg * half_mmhg)
    # The form without cancellation, whichever sign b has.
    return torch.where(b > 0, 2.0 * vessel_mmhg * half_mmhg / (b.abs() + root), 0.5 * (root - b))


def solve(balance: Balance, *, tolerance: float = 1e-4, start: Tensor | None = None) -> Steady:
    """The steady state.

    In float32 the relative residual reaches 3e-7 where voxels are millimetres wide; where they are 10 um, 1e-5 with
    vessels at 40 mmHg and barely 1e-4 with vessels at 300 mmHg: large pressures then differ by their last digits.

    Args:
        balance: What is to be in balance.
        tolerance: Relative residual that is small enough.
        start: D H W, pO2 to start from; without it, the balance of each voxel alone.

    Raises:
        ConfigError: The residual did not fall to `tolerance`; says both.
    """
    system = _System(balance)
    po2 = system.start(start)
    before, forcing, gradients = float("inf"), LOOSEST, 0
    for newton in range(NEWTON_STEPS + 1):
        left, norm, scale = system.residual(po2)
        if norm <= tolerance * scale or not math.isfinite(norm):
            break
        if newton:
            forcing = min(LOOSEST, max(0.9 * (norm / before) ** 2, 0.5 * tolerance * scale / norm, TIGHTEST))
        step, count = system.newton_step(po2, left, forcing)
        po2 = (po2 + step).clamp_(min=0.0)
        before, gradients = norm, gradients + count
    relative = norm / scale if scale else norm
    if not relative <= tolerance:
        raise ConfigError(
            f"the oxygen of the phantom left a relative residual of {relative:.2g} after {newton} steps, asked for is "
            f"tolerance={tolerance:g}; raise the tolerance or compute in float64"
        )
    return Steady(po2.reshape(balance.supply_per_s.shape), relative, float(left.abs().max()), newton, gradients)


@dataclass(frozen=True, slots=True)
class _Link:
    """All links along one axis: neighbours `stride` apart, or the two faces of the volume that meet when it repeats."""

    conductance: Tensor
    stride: int
    face: tuple[int, tuple[int, ...]] | None = None

    def ends(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the values at both ends of every link."""
        if self.face is None:
            return flat[: -self.stride], flat[self.stride :]
        axis, shape = self.face
        whole = flat.view(shape)
        return whole.select(axis, -1), whole.select(axis, 0)

    def scaled(self, by: Tensor) -> _Link:
        """With each conductance times the product of a quantity at both ends."""
        low, high = self.ends(by)
        return _Link((self.conductance * low * high).float(), self.stride, self.face)


def _links(balance: Balance, inside: Tensor) -> list[_Link]:
    """Links between voxels of tissue, D / h^2 each."""
    like, shape = balance.supply_per_s, balance.supply_per_s.shape
    links, stride = [], 1
    for axis in (2, 1, 0):
        conductance = float(balance.diffusion_um2_per_s) / float(balance.spacing_um[axis]) ** 2
        if shape[axis] > 1:
            joined = torch.zeros(shape, dtype=like.dtype, device=like.device)
            low, high = inside.narrow(axis, 0, shape[axis] - 1), inside.narrow(axis, 1, shape[axis] - 1)
            joined.narrow(axis, 0, shape[axis] - 1).copy_((low & high) * conductance)
            links.append(_Link(joined.reshape(-1)[:-stride], stride))
            if balance.border == PERIODIC:
                meet = inside.select(axis, -1) & inside.select(axis, 0)
                links.append(_Link(meet.to(like) * conductance, 0, (axis, tuple(shape))))
        stride *= shape[axis]
    return links


class _System:
    """The balance on flat tensors, with the conductance of every link between two voxels of tissue."""

    def __init__(self, balance: Balance) -> None:
        like = balance.supply_per_s
        inside, fixed = _inside(balance), _fixed(balance)
        self.mask = (inside & ~fixed).reshape(-1).to(like.dtype)
        self.given = _volume(balance.fixed_mmhg, like).where(fixed, 0.0).reshape(-1) if fixed.any() else None
        self.links = _links(balance, inside)
        self.free_links = self.links if self.given is None else [link.scaled(self.mask) for link in self.links]
        self.supply = like.reshape(-1) * self.mask
        self.vessel = _volume(balance.vessel_mmhg, like).reshape(-1)
        self.consumption = _volume(balance.consumption_mmhg_per_s, like).reshape(-1) * self.mask
        self.half = _volume(balance.half_mmhg, like).reshape(-1)
        self.least_scale = LEAST_SCALE * float((self.supply * self.vessel).norm())
        self.diagonal = self.supply + (1.0 - self.mask)
        for link in self.links:
            low, high = link.ends(self.diagonal)
            low += link.conductance
            high += link.conductance

    def start(self, given: Tensor | None) -> Tensor:
        """pO2 to start from, flat: as given, or the balance of each voxel alone."""
        if given is None:
            local = local_balance(self.supply.clamp(min=1e-12), self.vessel, self.consumption, self.half)
            given = torch.where(self.supply > 0, local, 0.0)
        po2 = given.reshape(-1).to(self.supply).clamp(min=0.0) * self.mask
        return po2 if self.given is None else po2 + self.given

    def residual(self, po2: Tensor) -> tuple[Tensor, float, float]:
        """What supply and diffusion leave over consumption, mmHg/s, its norm, and the norm of consumption."""
        consumed = self.consumption * po2 / (po2 + self.half)
        left = self.supply * (self.vessel - po2) - consumed
        for link in self.links:
            low, high = link.ends(po2)
            # Differences of neighbours first: in float32 a sum of seven large terms would leave their rounding.
            flux = (high - low).mul_(link.conductance)
            low, high = link.ends(left)
            low += flux
            high -= flux
        left *= self.mask
        return left, float(left.norm()), max(float(consumed.norm()), self.least_scale)

    def newton_step(self, po2: Tensor, left: Tensor, forcing: float) -> tuple[Tensor, int]:
        """A step of Newton's method and what it cost: conjugate gradients on the system scaled to a diagonal of 1."""
        slope = self.consumption * self.half / (po2 + self.half) ** 2
        root = (self.diagonal + slope).rsqrt_()
        links = [link.scaled(root) for link in self.free_links]
        rest = (left * root).float()
        solution, direction = torch.zeros_like(rest), rest.clone()
        square = float(torch.dot(rest, rest))
        goal, count = forcing**2 * square, 0
        while square > goal and count < GRADIENT_STEPS:
            image = direction.clone()
            for link in links:
                (to_low, to_high), (low, high) = link.ends(image), link.ends(direction)
                to_low.addcmul_(link.conductance, high, value=-1.0)
                to_high.addcmul_(link.conductance, low, value=-1.0)
            length = square / float(torch.dot(direction, image))
            solution.add_(direction, alpha=length)
            rest.add_(image, alpha=-length)
            previous, square = square, float(torch.dot(rest, rest))
            direction.mul_(square / previous).add_(rest)
            count += 1
        return solution.to(root) * root, count


def _volume(value: Tensor | None, like: Tensor) -> Tensor:
    assert value is not None
    return value.to(like).expand(like.shape)


def _inside(balance: Balance) -> Tensor:
    if balance.inside is not None:
        return balance.inside
    return torch.ones(balance.supply_per_s.shape, dtype=torch.bool, device=balance.supply_per_s.device)


def _fixed(balance: Balance) -> Tensor:
    if balance.fixed_mmhg is None:
        return torch.zeros_like(_inside(balance))
    return torch.isfinite(balance.fixed_mmhg) & _inside(balance)


def _check_numbers(balance: Balance) -> None:
    sizes = {f"spacing_um[{axis}]": float(um) for axis, um in enumerate(balance.spacing_um)}
    for name, size in {"diffusion_um2_per_s": float(balance.diffusion_um2_per_s), **sizes}.items():
        if not (math.isfinite(size) and size > 0):
            raise ConfigError(f"{name}={size:g} of the oxygen balance must be a finite number above 0")
    for name in ("supply_per_s", "vessel_mmhg", "consumption_mmhg_per_s", "half_mmhg"):
        least, most = (float(end) for end in torch.aminmax(getattr(balance, name)))
        if not (math.isfinite(least) and math.isfinite(most)):
            raise ConfigError(f"{name} of the oxygen balance is not finite in every voxel; give a number for each")
        if least < 0 or (least == 0 and name == "half_mmhg"):
            kind = "above 0" if name == "half_mmhg" else "at least 0"
            raise ConfigError(f"{name} of the oxygen balance falls to {least:g}, it must be {kind} in every voxel")
    if balance.border not in (CLOSED, PERIODIC):
        raise ConfigError(
            f"border={balance.border!r} of the oxygen balance is not known; choose {CLOSED} or {PERIODIC}"
        )


def _check_regions(balance: Balance) -> None:
    """Refuse connected tissue without any supply: nothing would decide its oxygen."""
    inside = _inside(balance)
    supplied = (balance.supply_per_s > 0) | _fixed(balance)
    if bool((supplied | ~inside).all()):
        return
    regions, count = ndimage.label(inside.cpu().numpy())
    names = _same_across_border(regions, count) if balance.border == PERIODIC else np.arange(count + 1)
    fed = np.zeros(count + 1, dtype=bool)
    fed[names[regions[(supplied & inside).cpu().numpy()]]] = True
    starved = ~fed[names[regions]] & (regions > 0)
    if starved.any():
        i, j, k = (int(n) for n in np.argwhere(starved)[0])
        raise ConfigError(
            f"supply_per_s of the oxygen balance is 0 in the whole of a connected region of {int(starved.sum())} "
            f"voxels round ({i}, {j}, {k}); give it vessels, a fixed pO2, or take it out of `inside`"
        )


def _same_across_border(regions: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """For each region, the number of the set of regions that meet when the volume repeats."""
    faces = [(regions.take(-1, axis), regions.take(0, axis)) for axis in range(3)]
    one = np.concatenate([np.where(b > 0, a, 0).ravel() for a, b in faces])
    other = np.concatenate([np.where(a > 0, b, 0).ravel() for a, b in faces])
    graph = coo_array((np.ones(one.size), (one, other)), shape=(count + 1, count + 1))
    return np.asarray(connected_components(graph, directed=False)[1])
