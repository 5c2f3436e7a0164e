"""An ideal observer of hypoxia PET: what can be known of the hypoxic volume from the image, and no more.

The observer knows everything but this patient's tumour: anatomy, scanner, tracer, every parameter of the object, the
tissue around the tumour and the blood. Of the tumour it knows how vessels are distributed over patients and places
(`make_vasculature`), so that the posterior of the vessels given the image is defined,

    p(z | y)  ~  exp(-|z|^2 / 2  -  |W (y - H(z))|^2 / 2),

z the standard normal numbers behind distances of vessels, flow, cycling and the patient's traits; H the chain from
vessels to image, through which gradients run; W what makes the noise white. Samples come by randomise-then-optimise:
each is the optimum for data and prior that were disturbed as noise and prior would disturb them, exact for a linear
chain. A voxel's probability of being hypoxic is the share of samples that say so, and the region is the one with the
largest expected Dice. No reader of the same image, a network neither, can on average beat the exact posterior.

Axis legend: S samples, D H W voxels of the object, V voxels of the tumour.

Source:
    Bardsley et al. 2014, SIAM J Sci Comput 36:A1895 (randomise-then-optimise).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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

FIELDS = ("vessels", "flow", "acute")
# Traits of a patient: flow, partition, trapping; then the level of the primary and of each node.
TRAITS = 3
# Frequencies of noise that the reconstruction's filter has taken out hold no information and are not divided by.
LEAST_POWER = 1e-3


@dataclass(frozen=True, slots=True)
class Settings:
    """How hard the observer works.

    Args:
        samples: Of the posterior.
        steps: Of the optimisation of each.
        rate: Its step, in standard deviations of the prior.
    """

    samples: int = 8
    steps: int = 150
    rate: float = 0.08


class TumourImage:
    """The chain from standard normal numbers to the image of one patient's tumour.

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
        anatomy = subject.anatomy
        self.shape = anatomy.tissue.shape
        self.inside = anatomy.tumour.reshape(-1).nonzero()[:, 0]
        self.lesion = anatomy.nodes.reshape(-1)[self.inside].long()
        self.depth = anatomy.depth_mm.reshape(-1)[self.inside]
        self.fixed = torch.where(anatomy.tumour, 0.0, surroundings)
        self.traits = TRAITS + 1 + int(anatomy.nodes.max())

    @property
    def unknowns(self) -> int:
        """Standard normal numbers behind one tumour."""
        return len(FIELDS) * math.prod(self.shape) + self.traits

    def vessels(self, z: Tensor) -> Vasculature:
        """Vessels of the tumour's voxels, S V 1, as `make_vasculature` would make them of these numbers."""
        vessels = self.subject.chosen.vessels
        fields = z[:, : -self.traits].reshape(len(z), len(FIELDS), *self.shape)
        texture, flow_texture, acute_texture = (
            self._field(fields[:, n], length).reshape(len(z), -1)[:, self.inside]
            for n, length in enumerate((vessels.texture_mm, vessels.texture_mm, vessels.acute_mm))
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

    def _field(self, noise: Tensor, length_mm: float) -> Tensor:
        """`gaussian_field` of given numbers."""
        sigma = [length_mm / math.sqrt(2.0) / s for s in self.subject.anatomy.grid.spacing_mm]
        point = torch.zeros(1, *self.shape)
        point[0, 0, 0, 0] = 1.0
        power = (smooth(point, sigma, edge="wrap") ** 2).sum().sqrt()
        return smooth(noise, sigma, edge="wrap") / power

    def po2(self, vessels: Vasculature) -> Tensor:
        """Mean pO2 of the tumour's voxels, S V, mmHg; their exchange with neighbours is left out."""
        return self._oxygen(vessels).po2.squeeze(-1)

    def _oxygen(self, vessels: Vasculature) -> Oxygenation:
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
        rates = kinetics(self._oxygen(vessels), vessels, self._all_tumour(vessels.radius_um), self.tracer)
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
        nothing = torch.zeros_like(tissue)
        empty = torch.zeros(like.shape, dtype=torch.bool)
        return Anatomy(self.subject.anatomy.grid, tissue, ~empty, nothing, empty, empty, like.detach(), "")


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
        self.sd = scale * noise_sd(image[None], target, scanner, static_frame(tracer))[0].clamp(min=1e-6)
        sigma = [scanner.correlation_mm / FWHM_PER_SIGMA / math.sqrt(2.0) / s for s in target.spacing_mm]
        point = torch.zeros(target.shape)
        point[0, 0, 0] = 1.0
        kernel = smooth(point, sigma, edge="wrap")
        # The field is the kernel on white noise, divided by its root of the sum of squares.
        self.transfer = (torch.fft.rfftn(kernel) / (kernel**2).sum().sqrt()).abs()

    def __call__(self, residual: Tensor) -> Tensor:
        """Whitened residuals, S D H (W / 2 + 1), complex: half of the spectrum."""
        spectrum = torch.fft.rfftn(residual / self.sd, dim=(-3, -2, -1), norm="ortho")
        power = self.transfer**2
        whitened: Tensor = spectrum * self.transfer / (power + LEAST_POWER * power.max())
        return whitened

    def noise(self, count: int, generator: np.random.Generator) -> Tensor:
        """Draws of the noise, S D H W."""
        white = torch.fft.rfftn(normal(generator, count, *self.sd.shape), dim=(-3, -2, -1), norm="ortho")
        drawn: Tensor = torch.fft.irfftn(white * self.transfer, s=self.sd.shape, dim=(-3, -2, -1), norm="ortho")
        return self.sd * drawn

    def misfit(self, residual: Tensor) -> Tensor:
        """Half the sum of squares of the whitened residual, S."""
        whitened = self(residual)
        twice = torch.full((whitened.shape[-1],), 2.0)
        # The real transform holds every frequency once, but for those that are their own mirror image.
        twice[0] = 1.0
        if self.sd.shape[-1] % 2 == 0:
            twice[-1] = 1.0
        return 0.5 * (whitened.abs() ** 2 * twice).sum(dim=(-3, -2, -1))


@dataclass(frozen=True, slots=True)
class Observed:
    """What the observer says.

    Args:
        samples: S D H W, bool, draws of the hypoxic volume from the posterior.
        misfit: Mean squared whitened residual per voxel of the image; 1 where the chain explains the image.
    """

    samples: Tensor
    misfit: float

    @property
    def probability(self) -> Tensor:
        """D H W, of being hypoxic and living."""
        return self.samples.float().mean(dim=0)


def observe(
    chain: TumourImage, image: Tensor, whitening: Whitening, generator: np.random.Generator, settings: Settings
) -> Observed:
    """Infer a patient's hypoxic volume from an image.

    Args:
        chain: From vessels to image.
        image: D H W on `chain.target`, g/ml.
        whitening: Of its noise.
        generator: Disturbs data and prior of each sample.
        settings: Number of samples and steps.
    """
    centre = normal(generator, settings.samples, chain.unknowns)
    disturbed = image + whitening.noise(settings.samples, generator)
    z = torch.zeros_like(centre, requires_grad=True)
    optimiser = torch.optim.Adam([z], lr=settings.rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps, eta_min=0.05 * settings.rate)
    for _ in range(settings.steps):
        optimiser.zero_grad()
        cost = whitening.misfit(disturbed - chain.image(z)) + 0.5 * ((z - centre) ** 2).sum(dim=1)
        (z.grad,) = torch.autograd.grad(cost.sum(), z)
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        vessels = chain.vessels(z)
        hypoxic = (chain.po2(vessels) < HYPOXIC_MMHG) & (vessels.viable.squeeze(-1) >= LIVING)
        drawn = torch.zeros(len(z), math.prod(chain.shape), dtype=torch.bool)
        drawn[:, chain.inside] = hypoxic
        misfit = float(whitening.misfit(image - chain.image(z)).mean()) * 2.0 / image.numel()
    return Observed(drawn.reshape(-1, *chain.shape), misfit)


def most_expected_dice(samples: Tensor) -> Tensor:
    """The region of the largest expected Dice, which is 1 where region and truth are both empty.

    Candidates are the n most probable voxels for every n, and nothing; the expectation is the mean over the samples, so
    that voxels which are hypoxic together count together.

    Args:
        samples: S D H W, bool, draws of the truth.

    Returns:
        D H W, bool.

    Example:
        >>> draws = torch.tensor([[[[1, 1, 0]]], [[[1, 0, 0]]], [[[1, 1, 0]]]], dtype=torch.bool)
        >>> most_expected_dice(draws).int().tolist()
        [[[1, 1, 0]]]
    """
    drawn = samples.flatten(1).float()
    order = drawn.mean(dim=0).argsort(descending=True, stable=True)
    common = drawn[:, order].cumsum(dim=1)
    volumes = drawn.sum(dim=1, keepdim=True)
    counts = torch.arange(1, drawn.shape[1] + 1, device=drawn.device)
    dice = (2.0 * common / (counts + volumes)).mean(dim=0)
    region = torch.zeros(drawn.shape[1], dtype=torch.bool, device=drawn.device)
    if float(dice.max()) > float((volumes == 0).float().mean()):
        region[order[: int(dice.argmax()) + 1]] = True
    return region.reshape(samples.shape[1:])
