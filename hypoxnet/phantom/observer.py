"""An ideal observer of hypoxia PET: what can be known of the hypoxic volume from the image, and no more.

The observer knows everything but this patient's tumour: anatomy, scanner, tracer, every parameter of the object, the
tissue around the tumour, the blood and the pressure in the vessels. Of the tumour it knows how vessels are distributed
over patients and places (`make_vasculature`), so that the posterior of the vessels given the image is defined,

    p(z | y)  ~  exp(-|z|^2 / 2  -  |W (y - H(z))|^2 / 2),

z the standard normal numbers behind distances of vessels, flow, cycling and the patient's traits; H the chain from
vessels to image, through which gradients run; W what makes the noise white. Chains of Hamiltonian Monte Carlo begin
at draws of the prior with noise so large that the image says little, which then falls to that of the image: uptake
falls again where tissue dies, so an image has several explanations, and a chain that began cold would stay with the
nearest. States after that are draws of the posterior, and the region is the one with the largest Dice expected over
them. No reader of the same image, a network neither, can on average beat the exact posterior.

Axis legend: S states, D H W voxels of the object, V voxels of the tumour.

Source:
    Beskos et al. 2011, Stoch Proc Appl 121:2201 (the prior's part of the motion is a rotation, exact). Dembczynski et
    al. 2011, NIPS, 1404 (the region).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hypoxnet.errors import ConfigError
from hypoxnet.geometry import Grid
from hypoxnet.phantom.fields import FWHM_PER_SIGMA, smooth
from hypoxnet.phantom.oxygen.voxel import local_oxygenation
from hypoxnet.phantom.parameters.oxygen import HYPOXIC_MMHG
from hypoxnet.phantom.parameters.pet import PetScanner
from hypoxnet.phantom.parameters.tracer import Tracer
from hypoxnet.phantom.pet import acquire_pet, noise_sd
from hypoxnet.phantom.streams import normal
from hypoxnet.phantom.subject import LIVING, Subject
from hypoxnet.phantom.tracer import Kinetics, kinetics, late_suv, static_frame
from hypoxnet.phantom.vasculature import viable_share
from hypoxnet.phantom.words import Anatomy, Oxygenation, Tissue, Vasculature

Misfit = Callable[[Tensor], Tensor]

# Traits of a patient: flow, partition, trapping; then the level of the primary and of each node.
TRAITS = 3
# Modes of a field with less than this share of the variance of its largest are left out: they move log R by 0.001.
LEAST_VARIANCE = 1e-5
# Frequencies of noise that the reconstruction's filter has taken out hold no information and are not divided by.
LEAST_POWER = 1e-3
# The first noise, in units of that of the scanner; it has fallen to that of the image after `COLD` of the moves.
HOTTEST, COLD = 10.0, 0.6
# A chain whose explanation is then less likely than another's by exp(-this) got stuck and begins again at another's.
REFUTED = 100.0
# Steps are adapted until here, and only states after it are kept, every fourth: neighbours say the same.
SETTLED, APART = 0.7, 4
# Moves between two estimates of what the image says of each number.
PROBE_EVERY = 5
# First and longest step, radians, and the share of accepted moves that it is adapted to.
STEP, LONGEST, ACCEPTED = 0.3, 1.0, 0.75
FEWEST_MOVES = 10


@dataclass(frozen=True, slots=True)
class Settings:
    """How hard the observer works.

    Args:
        chains: Independent of one another.
        moves: Of each chain.
        leaps: Gradients of each move.

    Raises:
        ConfigError: There is no chain or leap, or there are too few moves to cool down.
    """

    chains: int = 8
    moves: int = 100
    leaps: int = 8

    def __post_init__(self) -> None:
        if self.chains < 1 or self.leaps < 1 or self.moves < FEWEST_MOVES:
            raise ConfigError(
                f"chains={self.chains}, moves={self.moves}, leaps={self.leaps} of the ideal observer must be at least "
                f"1, {FEWEST_MOVES} and 1"
            )


class TumourImage:
    """The chain from standard normal numbers to the image of one patient's tumour.

    The numbers are those of the modes of three fields (distance of vessels, flow, loss at the trough of a cycle) in the
    box around the tumour, with the covariance of `gaussian_field`, and the traits.

    Args:
        subject: The patient; of the tumour, only the outline is used.
        surroundings: D H W, true uptake, of which that outside the tumour is used, g/ml.
        tracer: As this patient clears it.
        scanner: With the counts of the tracer.
        target: Grid of the image.
    """

    def __init__(
        self, subject: Subject, surroundings: Tensor, tracer: Tracer, scanner: PetScanner, target: Grid
    ) -> None:
        self.subject, self.tracer, self.scanner, self.target = subject, tracer, scanner, target
        anatomy, vessels, spacings = subject.anatomy, subject.chosen.vessels, subject.anatomy.grid.spacing_mm
        self.shape = anatomy.tissue.shape
        self.inside = anatomy.tumour.reshape(-1).nonzero()[:, 0]
        self.lesion = anatomy.nodes.reshape(-1)[self.inside].long()
        self.depth = anatomy.depth_mm.reshape(-1)[self.inside].float()
        self.fixed = torch.where(anatomy.tumour, 0.0, surroundings)
        where = anatomy.tumour.nonzero()
        first, last = where.amin(dim=0), where.amax(dim=0)
        i, j, k = (where - first).unbind(1)
        extent = (last - first + 1).tolist()
        self.in_box = (i * extent[1] + j) * extent[2] + k
        self.modes = [
            [
                _modes(n, length / math.sqrt(2.0) / spacing, slice(low, low + wide))
                for n, spacing, low, wide in zip(self.shape, spacings, first.tolist(), extent, strict=True)
            ]
            for length in (vessels.texture_mm, vessels.texture_mm, vessels.acute_mm)
        ]
        self.sizes = [math.prod(axis.shape[1] for axis in modes) for modes in self.modes]
        self.traits = TRAITS + 1 + int(anatomy.nodes.max())
        self.unknowns = sum(self.sizes) + self.traits

    def vessels(self, z: Tensor) -> Vasculature:
        """Vessels of the tumour's voxels, S V 1, as `make_vasculature` would make them of these numbers."""
        vessels = self.subject.chosen.vessels
        parts = torch.split(z[:, : -self.traits], self.sizes, dim=1)
        texture, flow_texture, acute_texture = (
            _field(part, modes).flatten(1)[:, self.in_box] for part, modes in zip(parts, self.modes, strict=True)
        )
        traits = z[:, -self.traits :]
        primary, own = traits[:, TRAITS : TRAITS + 1], traits[:, TRAITS + 1 :]
        shared = vessels.node_correlation
        levels = torch.cat([primary, shared * primary + math.sqrt(1.0 - shared**2) * own], dim=1)[:, self.lesion]
        depth = vessels.core_growth * (1.0 - torch.exp(-self.depth / vessels.rim_mm))
        logarithm = vessels.tumour_spread * levels + depth + vessels.texture * texture
        radius = (vessels.tumour_um * torch.exp(logarithm)).clamp(vessels.least_um, vessels.most_um)
        viable = viable_share(radius, vessels)
        wider = radius / vessels.tumour_um
        scatter = torch.exp(vessels.flow_spread * traits[:, :1] + vessels.flow_texture * flow_texture)
        flow = vessels.tumour_flow * wider ** (-2.0 * vessels.flow_power) * scatter * viable
        acute = vessels.acute_share * wider**vessels.acute_power * torch.exp(vessels.acute_spread * acute_texture)
        acute = acute.clamp(max=vessels.acute_most)
        radius, flow, viable, acute = (values.unsqueeze(-1) for values in (radius, flow, viable, acute))
        return Vasculature(radius, flow, viable, acute, torch.zeros_like(radius))

    def oxygen(self, vessels: Vasculature) -> Oxygenation:
        """Oxygen of the tumour's voxels, S V 1; their exchange with neighbours is left out."""
        return local_oxygenation(
            vessels.radius_um,
            oxygen=self.subject.chosen.oxygen,
            closure=self.subject.closure,
            vessel_mmhg=self.subject.vessel_mmhg,
            acute=vessels.acute,
        )

    def image(self, z: Tensor) -> Tensor:
        """The image without noise, S D H W on `target`, g/ml."""
        vessels = self.vessels(z)
        rates = kinetics(self.oxygen(vessels), vessels, self._all_tumour(vessels.radius_um), self.tracer)
        partition, trapping = (z[:, -self.traits + n, None, None] for n in (1, 2))
        rates = Kinetics(
            rates.k1,
            rates.k2 * torch.exp(-self.tracer.partition_spread * partition),
            rates.k3 * torch.exp(self.tracer.k3_spread * trapping),
            rates.vb,
        )
        suv = self.fixed.reshape(1, -1).expand(len(z), -1)
        suv = suv.index_copy(1, self.inside, late_suv(rates, self.tracer).squeeze(-1).float())
        return acquire_pet(suv.reshape(len(z), *self.shape), self.subject.anatomy.grid, self.scanner, self.target, None)

    def _all_tumour(self, like: Tensor) -> Anatomy:
        """Voxels that are tumour and nothing else."""
        tissue = torch.full(like.shape, int(Tissue.TUMOUR), dtype=torch.uint8)
        none = torch.zeros(like.shape, dtype=torch.bool)
        return Anatomy(self.subject.anatomy.grid, tissue, ~none, none.byte(), none, none, like.detach(), "")


def _modes(length: int, sigma_voxels: float, rows: slice) -> Tensor:
    """What each mode of one axis of `gaussian_field` adds to some of its voxels, voxels x modes."""
    points = torch.eye(length, dtype=torch.float64).reshape(length, 1, 1, length)
    smoothing = smooth(points, (0.0, 0.0, sigma_voxels), edge="wrap").reshape(length, length)
    some = smoothing[rows] / smoothing[0].norm()
    variance, vectors = torch.linalg.eigh(some @ some.T)
    kept = variance > LEAST_VARIANCE * variance.max()
    modes: Tensor = (vectors[:, kept] * variance[kept].sqrt()).float()
    return modes


def _field(z: Tensor, modes: list[Tensor]) -> Tensor:
    """A field in the box around the tumour, S and its three axes."""
    field = z.reshape(len(z), *(axis.shape[1] for axis in modes))
    for n, axis in enumerate(modes, start=1):
        field = torch.matmul(field.movedim(n, -1), axis.T).movedim(-1, n)
    return field


class Whitening:
    """Residuals in units of the noise, with its correlation taken out.

    Args:
        image: D H W, an image without or with noise, for the variance.
        scanner: With the counts of the tracer.
        target: Grid of the image.
        tracer: Gives the frame.
        scale: Factor on the noise; a small one stands for no noise.
    """

    def __init__(self, image: Tensor, scanner: PetScanner, target: Grid, tracer: Tracer, scale: float = 1.0) -> None:
        self.scale = scale
        self.sd = scale * noise_sd(image[None], target, scanner, static_frame(tracer))[0].clamp(min=1e-6)
        sigma = [scanner.correlation_mm / FWHM_PER_SIGMA / math.sqrt(2.0) / s for s in target.spacing_mm]
        point = torch.zeros(target.shape)
        point[0, 0, 0] = 1.0
        kernel = smooth(point, sigma, edge="wrap")
        # The noise is the kernel on white noise, divided by its root of the sum of squares.
        transfer = torch.fft.fftn(kernel).abs() / kernel.norm()
        power = transfer**2
        gain = transfer / (power + LEAST_POWER * power.max())
        self.gain = gain[..., : target.shape[2] // 2 + 1]
        self.frequencies = float(((gain * transfer) ** 2).sum())

    def __call__(self, residual: Tensor) -> Tensor:
        """Whitened residuals, S D H W; of noise alone, the sum of squares is `frequencies`."""
        spectrum = torch.fft.rfftn(residual / self.sd, dim=(-3, -2, -1))
        white: Tensor = torch.fft.irfftn(spectrum * self.gain, s=self.sd.shape, dim=(-3, -2, -1))
        return white


@dataclass(frozen=True, slots=True)
class Observed:
    """What the observer says.

    Args:
        samples: S D H W, bool, draws of the hypoxic volume from the posterior.
        misfit: Mean square of the whitened residual: 1 where the image is explained, near 0 where it has no noise.
    """

    samples: Tensor
    misfit: float


def observe(
    chain: TumourImage, image: Tensor, whitening: Whitening, generator: np.random.Generator, settings: Settings
) -> Observed:
    """Infer a patient's hypoxic volume from an image, D H W on `chain.target`, g/ml; the rest as of `posterior`."""
    z = posterior(chain.image, chain.unknowns, image, whitening=whitening, generator=generator, settings=settings)
    with torch.no_grad():
        vessels = chain.vessels(z)
        hypoxic = (chain.oxygen(vessels).po2 < HYPOXIC_MMHG) & (vessels.viable >= LIVING)
        misfit = float((whitening(image - chain.image(z)) ** 2).sum()) / len(z) / whitening.frequencies
    drawn = torch.zeros(len(z), math.prod(chain.shape), dtype=torch.bool)
    drawn[:, chain.inside] = hypoxic.squeeze(-1)
    return Observed(drawn.reshape(-1, *chain.shape), misfit)


def posterior(
    image_of: Callable[[Tensor], Tensor],
    unknowns: int,
    image: Tensor,
    *,
    whitening: Whitening,
    generator: np.random.Generator,
    settings: Settings,
) -> Tensor:
    """Draws of standard normal numbers given an image, S by `unknowns`.

    Args:
        image_of: From S by `unknowns` to S D H W, differentiable.
        unknowns: How many numbers.
        image: D H W.
        whitening: Of its noise.
        generator: Source of randomness.
        settings: Chains and moves.
    """

    def misfit(z: Tensor) -> Tensor:
        return 0.5 * (whitening(image - image_of(z)) ** 2).sum(dim=(-3, -2, -1))

    state = _State.at(misfit, normal(generator, settings.chains, unknowns))
    information = _information(image_of, state.z, whitening, generator)
    step, kept = STEP, []
    for move in range(settings.moves):
        done = move / settings.moves
        if 0 < done < SETTLED and move % PROBE_EVERY == 0:
            information = 0.5 * (information + _information(image_of, state.z, whitening, generator))
        weight = (whitening.scale / HOTTEST) ** (2.0 * max(0.0, 1.0 - done / COLD))
        # A number that the image says much of moves in small steps. Lengths vary: equal ones may come full circle.
        angle = step * generator.uniform(0.7, 1.1) / torch.sqrt(1.0 + weight * information)
        state, accepted = state.moved(misfit, weight, angle, settings.leaps, generator)
        if done < SETTLED:
            state = state.unstuck(generator) if done >= COLD else state
            step = min(LONGEST, step * math.exp(0.5 * (accepted - ACCEPTED)))
        elif (settings.moves - 1 - move) % APART == 0:
            kept.append(state.z)
    return torch.cat(kept)


def _information(
    image_of: Callable[[Tensor], Tensor], z: Tensor, whitening: Whitening, generator: np.random.Generator
) -> Tensor:
    """What the image says of each number: the diagonal of Fisher's information, by random probes, `unknowns`."""
    z = z.detach().requires_grad_(True)
    seen = whitening(image_of(z))
    (gradient,) = torch.autograd.grad((seen * normal(generator, *seen.shape)).sum(), z)
    return (gradient**2).mean(dim=0)


@dataclass(frozen=True, slots=True)
class _State:
    """Places of the chains, with the misfit and its gradient there."""

    z: Tensor
    misfit: Tensor
    gradient: Tensor

    @classmethod
    def at(cls, misfit: Misfit, z: Tensor) -> _State:
        z = z.detach().requires_grad_(True)
        value = misfit(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
        return cls(z.detach(), value.detach(), gradient)

    def energy(self, weight: float, velocity: Tensor) -> Tensor:
        """Minus the logarithm of the density; in double precision, as differences of large numbers decide."""
        motion = (self.z.double() ** 2).sum(dim=1) + (velocity.double() ** 2).sum(dim=1)
        return weight * self.misfit.double() + 0.5 * motion

    def moved(
        self, misfit: Misfit, weight: float, angle: Tensor, leaps: int, generator: np.random.Generator
    ) -> tuple[_State, float]:
        """One move of every chain, and the mean probability of accepting it.

        Without the image, places and velocities turn in circles, each number by `angle` at a leap; the image pushes
        before and after each turn. Both leave volumes as they are, and go back where the velocity is turned round.
        """
        velocity = normal(generator, *self.z.shape)
        state, before = self, self.energy(weight, velocity)
        cosine, sine, push = torch.cos(angle), torch.sin(angle), 0.5 * weight * angle
        for _ in range(leaps):
            velocity = velocity - push * state.gradient
            place, velocity = cosine * state.z + sine * velocity, cosine * velocity - sine * state.z
            state = _State.at(misfit, place)
            velocity = velocity - push * state.gradient
        # A move that flew apart has no energy and is refused.
        chance = torch.nan_to_num((before - state.energy(weight, velocity)).clamp(max=0.0).exp())
        stays = torch.from_numpy(generator.random(len(self.z))) >= chance
        place, gradient = (
            torch.where(stays[:, None], old, new) for old, new in ((self.z, state.z), (self.gradient, state.gradient))
        )
        return _State(place, torch.where(stays, self.misfit, state.misfit), gradient), float(chance.mean())

    def unstuck(self, generator: np.random.Generator) -> _State:
        """Chains that the image refutes, at places of others."""
        likely = self.misfit <= self.misfit.min() + REFUTED
        other = torch.from_numpy(generator.choice(likely.nonzero()[:, 0].numpy(), len(likely)))
        taken = torch.where(likely, torch.arange(len(likely)), other)
        return _State(self.z[taken], self.misfit[taken], self.gradient[taken])


def most_expected_dice(samples: Tensor) -> Tensor:
    """The region of the largest expected Dice, which is 1 where region and truth are both empty.

    The expectation is the mean over the samples. For every size n, a voxel adds the mean of 2 / (n + volume) over the
    samples that hold it; the best n voxels are those that add most. Exact, whatever the dependence between voxels.

    Args:
        samples: S D H W, bool, draws of the truth.

    Example:
        >>> draws = torch.tensor([[[[1, 1, 0]]], [[[1, 0, 0]]], [[[1, 1, 0]]]], dtype=torch.bool)
        >>> most_expected_dice(draws).int().tolist()
        [[[1, 1, 0]]]
    """
    drawn = samples.flatten(1)
    candidates = drawn.any(dim=0).nonzero()[:, 0]
    held = drawn[:, candidates].float()
    volumes = held.sum(dim=1)
    best, chosen = float((volumes == 0).float().mean()), candidates[:0]
    for count in range(1, len(candidates) + 1):
        adds = (2.0 / (count + volumes)) @ held / len(held)
        top = adds.topk(count)
        if float(top.values.sum()) > best:
            best, chosen = float(top.values.sum()), candidates[top.indices]
    region = torch.zeros(drawn.shape[1], dtype=torch.bool, device=drawn.device)
    region[chosen] = True
    return region.reshape(samples.shape[1:])
