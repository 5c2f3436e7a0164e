"""From oxygen and vessels to uptake: an irreversible two-tissue model in every voxel, solved in closed form.

    dC1/dt = K1 Cb - (k2 + k3) C1,   dC2/dt = k3 C1,   SUV = (1 - Vb) (C1 + C2) + Vb Cb

The input is a sum of exponentials, so response and its mean over a frame are too: nothing is stepped through time.

Axis legend: D H W voxels of the object, F frames, Q nodes of the distribution of pO2 inside a voxel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hypoxnet.maps.input_functions import InputFunction
from hypoxnet.maps.pet_kinetics import Frames
from hypoxnet.phantom.parameters.tracer import Tracer
from hypoxnet.phantom.words import Anatomy, Oxygenation, Tissue, Vasculature

# Rates nearer than this share have no partial fractions; in double precision 1e-5 leaves six digits of a double pole.
APART = 1e-5
# 1/min: what does not leave in the life of the nuclide does not leave; keeps the quotients finite.
SLOWEST = 1e-8


@dataclass(frozen=True, slots=True)
class Kinetics:
    """Rate constants of every voxel.

    Args:
        k1: D H W, uptake, ml/ml/min.
        k2: D H W, washout, 1/min.
        k3: D H W, trapping, 1/min.
        vb: D H W, share of blood, 0 to 1; 1 in great vessels.
    """

    k1: Tensor
    k2: Tensor
    k3: Tensor
    vb: Tensor

    @property
    def ki(self) -> Tensor:
        """Influx K1 k3 / (k2 + k3), D H W, ml/ml/min; 0 where nothing enters."""
        return self.k1 * self.k3 / (self.k2 + self.k3).clamp(min=SLOWEST)


def binding(po2: Tensor, tracer: Tracer) -> Tensor:
    """Trapping at a point as a share of k3max: falls with oxygen, and cells without oxygen are dead.

    Args:
        po2: Local pO2, mmHg, any shape.
        tracer: Gives both half-maxima.

    Source:
        Warren and Partridge 2016, Phys Med Biol 61:8596.

    Example:
        >>> from hypoxnet.phantom.parameters.tracer import FMISO
        >>> [round(float(share), 3) for share in binding(torch.tensor([0.0, 1.3, 40.0]), FMISO)]
        [0.0, 0.27, 0.033]
    """
    return tracer.half_binding_mmhg / (tracer.half_binding_mmhg + po2) * viability(po2, tracer)


def viability(po2: Tensor, tracer: Tracer) -> Tensor:
    """Share of cells alive at a pO2, p / (p + P_viable); arguments and source as of `binding`."""
    return po2 / (po2 + tracer.half_viability_mmhg)


def extraction(flow: Tensor, permeability: Tensor) -> Tensor:
    """Share of the tracer that a pass takes up, 1 - exp(-PS / F); 1 where nothing flows.

    Args:
        flow: F, ml/ml/min.
        permeability: PS, ml/ml/min, same shape.

    Source:
        Crone 1963, Acta Physiol Scand 58:292.
    """
    return -torch.expm1(-permeability / flow.clamp(min=1e-6))


def patient_tracer(tracer: Tracer, generator: np.random.Generator) -> Tracer:
    """The tracer as one patient clears it: `blood_suv` is drawn, log-normal with `blood_spread`."""
    return replace(tracer, blood_suv=tracer.blood_suv * math.exp(tracer.blood_spread * generator.standard_normal()))


def kinetics(
    oxygenation: Oxygenation,
    vasculature: Vasculature,
    anatomy: Anatomy,
    tracer: Tracer,
    generator: np.random.Generator | None = None,
) -> Kinetics:
    """Rate constants from vessels, oxygen and tissue.

    K1 = F (1 - exp(-PS / F)) with PS as the number of vessels, 1 / R^2; k2 = K1 over the partition of the tissue. In
    tumour k3 = viable (k3max <binding> + k3_oxic <viability>), < > the mean over the pO2 inside the voxel; the
    partition falls to that of necrosis with `viable`, and Vb grows with the number of vessels. Other tissues have a
    partition, k3 and Vb of their own; the great vessels are all blood, and air takes up nothing.

    Args:
        oxygenation: pO2 and its distribution, Q D H W.
        vasculature: Vessels; the flow is that of the whole voxel, so it is low where much is necrotic.
        anatomy: Tissues.
        tracer: Parameters.
        generator: Draws the patient's partition and trapping, two numbers; None draws nothing.

    Returns:
        Rate constants, D H W.
    """
    drawn = np.zeros(2) if generator is None else generator.standard_normal(2)
    trapping = math.exp(tracer.k3_spread * drawn[1])
    partition, k3, vb = _normal(anatomy, tracer)
    vessels = (tracer.reference_um / vasculature.radius_um) ** 2
    flow = vasculature.flow / 100.0
    k1 = torch.where(partition > 0, flow * extraction(flow, tracer.permeability * vessels), 0.0)
    tumour = anatomy.is_a(Tissue.TUMOUR, Tissue.NODE)
    viable = vasculature.viable[tumour]
    inside = Oxygenation(oxygenation.po2[tumour], oxygenation.nodes[:, tumour])
    trapped = tracer.k3max_per_min * inside.mean_of(lambda p: binding(p, tracer))
    if tracer.k3_oxic_per_min > 0:
        trapped = trapped + tracer.k3_oxic_per_min * inside.mean_of(lambda p: viability(p, tracer))
    k3[tumour] = trapping * viable * trapped
    of_patient = math.exp(tracer.partition_spread * drawn[0])
    partition[tumour] *= of_patient * (viable + tracer.necrotic_partition * (1.0 - viable))
    vb[tumour] = (tracer.vb * vessels[tumour]).clamp(max=tracer.vb_high)
    return Kinetics(k1, k1 / partition.clamp(min=1e-3), k3, vb)


def _normal(anatomy: Anatomy, tracer: Tracer) -> list[Tensor]:
    """Partition, k3 and Vb of every voxel, for now as if all tumour lived and trapped nothing."""
    table = torch.zeros(len(Tissue), 3)
    for row in tracer.normal:
        table[Tissue[row.name.upper()]] = torch.tensor([row.partition, row.k3_per_min, row.vb])
    table[[Tissue.ARTERY, Tissue.VEIN], 2] = 1.0
    table[[Tissue.TUMOUR, Tissue.NODE], 0] = tracer.partition
    code = anatomy.tissue.long()
    return [column[code] for column in table.to(code.device).unbind(1)]


def static_frame(tracer: Tracer, uptake_min: float | None = None) -> Frames:
    """The static frame of a tracer, as one frame of a series.

    Args:
        tracer: Gives its duration.
        uptake_min: Begin, minutes after injection; that of the tracer's protocol when None.
    """
    begin = torch.tensor([tracer.uptake_min if uptake_min is None else uptake_min], dtype=torch.float64)
    return Frames(begin, begin + tracer.frame_min)


def late_suv(kinetics: Kinetics, tracer: Tracer, *, uptake_min: float | None = None) -> Tensor:
    """Mean SUV over the static frame, before the scanner.

    Args:
        kinetics: Rate constants.
        tracer: Input and protocol.
        uptake_min: Begin of the frame; that of the tracer's protocol when None.

    Returns:
        D H W, g/ml.
    """
    return dynamic_suv(kinetics, tracer, static_frame(tracer, uptake_min))[0]


def dynamic_suv(kinetics: Kinetics, tracer: Tracer, frames: Frames) -> Tensor:
    """Mean SUV over each frame, before the scanner; values at single times where the frames have no ends.

    Args:
        kinetics: Rate constants.
        tracer: Gives the input.
        frames: In minutes after injection.

    Returns:
        F D H W, g/ml.
    """
    scale = _scale(tracer)
    # float64: partial fractions near a double pole cancel half the digits.
    leave = _apart((kinetics.k2 + kinetics.k3).double().clamp(min=SLOWEST), tracer)
    trapped = kinetics.k3.double().clamp(max=leave) / leave
    enter = scale * (1.0 - kinetics.vb.double()) * kinetics.k1
    ends = frames.starts_min if frames.ends_min is None else frames.ends_min
    out = kinetics.k1.new_empty(len(ends), *kinetics.k1.shape)
    for n, (begin, end) in enumerate(zip(frames.starts_min.tolist(), ends.tolist(), strict=True)):
        free = _convolved(leave, tracer, begin, end)
        tissue = torch.lerp(free, torch.full_like(free, _integral(tracer, begin, end)), trapped)
        out[n] = enter * tissue + scale * _blood(tracer, begin, end) * kinetics.vb
    return out


def input_function(tracer: Tracer, *, until_min: float = 300.0) -> InputFunction:
    """The blood of a tracer at times that `hypoxnet.maps.pet_kinetics` reads, SUV; plasma equals blood.

    Args:
        tracer: Parameters.
        until_min: Last time, minutes.
    """
    pieces = [torch.arange(0.0, 1.0, 0.02), torch.arange(1.0, 3.0, 0.05), torch.arange(3.0, 15.0, 0.25)]
    times = torch.cat([*pieces, torch.arange(15.0, until_min, 2.0), torch.tensor([until_min])]).double()
    times = torch.unique(times[times <= until_min])
    scale = _scale(tracer)
    curve = torch.tensor([scale * _blood(tracer, t, t) for t in times.tolist()], dtype=torch.float64)
    return InputFunction(times, curve, curve, f"phantom ({tracer.name})")


def _terms(tracer: Tracer) -> tuple[tuple[float, float], ...]:
    """Amplitudes and rates of the input's exponentials; the first goes with the bolus, so that it begins at 0."""
    return (
        (-tracer.fast - tracer.slow, tracer.bolus_rate_per_min),
        (tracer.fast, tracer.fast_rate_per_min),
        (tracer.slow, tracer.slow_rate_per_min),
    )


def _decline(rate: float, begin: float, end: float) -> float:
    """Mean of exp(-rate t) over a frame, its value where the frame has no duration."""
    x = rate * (end - begin)
    return math.exp(-rate * begin) * (-math.expm1(-x) / x if x > 0 else 1.0)


def _ramp(rate: float, begin: float, end: float) -> float:
    """Mean of t exp(-rate t) over a frame."""
    if end == begin:
        return begin * math.exp(-rate * begin)
    left, right = math.exp(-rate * begin), math.exp(-rate * end)
    return ((begin + 1.0 / rate) * left - (end + 1.0 / rate) * right) / (rate * (end - begin))


def _blood(tracer: Tracer, begin: float, end: float) -> float:
    """Mean of the input over a frame, before scaling."""
    phases = sum(amplitude * _decline(rate, begin, end) for amplitude, rate in _terms(tracer))
    return tracer.bolus * _ramp(tracer.bolus_rate_per_min, begin, end) + phases


def _scale(tracer: Tracer) -> float:
    """Makes the mean of blood over the protocol's static frame `blood_suv`."""
    return tracer.blood_suv / _blood(tracer, tracer.uptake_min, tracer.uptake_min + tracer.frame_min)


def _integral(tracer: Tracer, begin: float, end: float) -> float:
    """Mean over a frame of the input's integral from 0: the convolution with a constant, rate 0."""
    return float(_solved(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64), tracer, begin, end))


def _convolved(leave: Tensor, tracer: Tracer, begin: float, end: float) -> Tensor:
    """Mean over a frame of the input convolved with exp(-leave t), D H W, float64."""
    own = torch.exp(-leave * begin)
    if end > begin:
        own = own * -torch.expm1(-leave * (end - begin)) / (leave * (end - begin))
    return _solved(leave, own, tracer, begin, end)


def _solved(leave: Tensor, own: Tensor, tracer: Tracer, begin: float, end: float) -> Tensor:
    """Sum over the input's terms; `own` is the mean of exp(-leave t).

    exp(-rt) * exp(-kt) = (exp(-rt) - exp(-kt)) / (k - r);
    t exp(-rt) * exp(-kt) = t exp(-rt) / (k - r) - (exp(-rt) - exp(-kt)) / (k - r)^2.
    """
    out = torch.zeros_like(leave)
    for amplitude, rate in _terms(tracer):
        out += (amplitude / (leave - rate)) * (_decline(rate, begin, end) - own)
    rate = tracer.bolus_rate_per_min
    apart = leave - rate
    once = _ramp(rate, begin, end) / apart
    return out + tracer.bolus * (once - (_decline(rate, begin, end) - own) / apart**2)


def _apart(leave: Tensor, tracer: Tracer) -> Tensor:
    """Rates moved off those of the input, by a hundred-thousandth."""
    for _, rate in _terms(tracer):
        leave = torch.where((leave - rate).abs() < APART * rate, rate * (1.0 + APART), leave)
    return leave
