"""Compartment models of PET: what becomes of a tracer in tissue, as amplitudes and rates of exponentials.

Axis legend: P parameters, N voxels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hypoxnet.maps.compartments import CompartmentModel, LinearColumns
from hypoxnet.maps.fitting import Parameter

K1 = Parameter("k1", "ml/ml/min", 0.0, 2.0, 0.3)
K2 = Parameter("k2", "1/min", 0.0, 3.0, 0.3)
K3 = Parameter("k3", "1/min", 0.0, 1.0, 0.01)
K4 = Parameter("k4", "1/min", 0.0, 1.0, 0.01)
K5 = Parameter("k5", "1/min", 0.0, 1.0, 0.005)
VB = Parameter("vb", "1", 0.0, 0.3, 0.05)
# Rates closer than this share of their sum are told apart by it: a double root has no partial fractions.
APART = 1e-4


class PetModel(CompartmentModel):
    """A model of what becomes of a tracer."""

    @staticmethod
    def macro(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Constants of the steady state that follow from the rates: Ki and V0 where the model traps, else VT."""
        return {}


class OneTissue(PetModel):
    """dC/dt = K1 Cp - k2 C; the scanner sees (1 - Vb) C + Vb Cb.

    Source:
        Innis et al. 2007, J Cereb Blood Flow Metab 27:1533 (names).
    """

    unknowns = (K1, K2, VB)
    exponentials = 1

    def kinetics(self, values: Tensor) -> Tensor:
        """Amplitude (1 - Vb) K1, rate k2, blood Vb."""
        k1, k2, vb = values
        return torch.stack([(1 - vb) * k1, k2, vb])

    def linear_start(self, columns: LinearColumns) -> Tensor:
        """C = -k2 int C + Vb Cp + (K1 + Vb k2) int Cp."""
        minus_k2, vb, joint = columns.solve(columns.signal_once, columns.input, columns.input_once)
        return torch.stack([joint + vb * minus_k2, -minus_k2, vb])

    @staticmethod
    def macro(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """VT."""
        return {"vt": values["k1"] / values["k2"]}


class TwoTissueIrreversible(PetModel):
    """Free tracer that is trapped at a rate k3: Ki = K1 k3 / (k2 + k3).

    Source:
        Phelps et al. 1979, Ann Neurol 6:371; for FMISO Bruehlmeier et al. 2004, J Nucl Med 45:1851.
    """

    unknowns = (K1, K2, K3, VB)
    exponentials = 2

    def kinetics(self, values: Tensor) -> Tensor:
        """K1 / (k2 + k3) (k3 + k2 exp(-(k2 + k3) t))."""
        k1, k2, k3, vb = values
        leave = (k2 + k3).clamp(min=1e-8)
        tissue = (1 - vb) * k1 / leave
        return torch.stack([tissue * k3, tissue * k2, torch.zeros_like(k1), leave, vb])

    def linear_start(self, columns: LinearColumns) -> Tensor:
        """C = -(k2 + k3) int C + Vb Cp + (K1 + Vb (k2 + k3)) int Cp + K1 k3 int int Cp."""
        minus_leave, vb, joint, trapped = columns.solve(
            columns.signal_once, columns.input, columns.input_once, columns.input_twice
        )
        k1 = joint + vb * minus_leave
        k3 = trapped / k1
        return torch.stack([k1, -minus_leave - k3, k3, vb])

    @staticmethod
    def macro(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Ki and V0."""
        k1, k2, k3 = (values[name] for name in ("k1", "k2", "k3"))
        return {"ki": k1 * k3 / (k2 + k3), "v0": k1 * k2 / (k2 + k3) ** 2}


class TwoTissueReversible(PetModel):
    """As the irreversible model, with release at a rate k4."""

    unknowns = (K1, K2, K3, K4, VB)
    exponentials = 2

    def kinetics(self, values: Tensor) -> Tensor:
        """Two rates, the roots of r^2 - (k2 + k3 + k4) r + k2 k4."""
        k1, k2, k3, k4, vb = values
        fast, slow = _roots(k2 + k3 + k4, k2 * k4)
        tissue = (1 - vb) * k1 / (fast - slow)
        return torch.stack([tissue * (fast - k3 - k4), tissue * (k3 + k4 - slow), fast, slow, vb])

    def linear_start(self, columns: LinearColumns) -> Tensor:
        """Five sums; k2, k3 and k4 from sum and product of the roots."""
        minus_sum, minus_product, vb, once, twice = columns.solve(
            columns.signal_once, columns.signal_twice, columns.input, columns.input_once, columns.input_twice
        )
        k1 = once + vb * minus_sum
        stay = (twice + vb * minus_product) / k1
        k2 = -minus_sum - stay
        k4 = -minus_product / k2
        start = torch.stack([k1, k2, stay - k4, k4, vb])
        return torch.where((k1 > 0) & (k2 > 0) & (k4 > 0) & (stay > k4), start, float("nan"))

    @staticmethod
    def macro(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """VT."""
        return {"vt": values["k1"] / values["k2"] * (1 + values["k3"] / values["k4"])}


class ThreeTissueIrreversible(PetModel):
    """Free tracer, in exchange with a second pool (k3, k4), from which it is trapped (k5).

    Source:
        McGowan et al. 2018, EJNMMI Res 8:88: an irreversible model with three tissues described FMISO in lung tumours
        best; the chain written here is the usual arrangement of such a model.
    """

    unknowns = (K1, K2, K3, K4, K5, VB)
    exponentials = 3

    def kinetics(self, values: Tensor) -> Tensor:
        """All tissue together: what has come in, less what has left through k2."""
        k1, k2, k3, k4, k5, vb = values
        fast, slow = _roots(k2 + k3 + k4 + k5, k2 * k4 + k2 * k5 + k3 * k5)
        slow = slow.clamp(min=1e-9)
        share = (k2 + k3 - slow) / (fast - slow)
        left_fast, left_slow = k2 * share / fast, k2 * (1 - share) / slow
        tissue = (1 - vb) * k1
        kept = tissue * (1 - left_fast - left_slow)
        return torch.stack([kept, tissue * left_fast, tissue * left_slow, torch.zeros_like(k1), fast, slow, vb])

    def linear_start(self, columns: LinearColumns) -> Tensor:
        """The irreversible two-tissue solution, its k3 split into a quick exchange and a slow trapping."""
        minus_leave, vb, joint, trapped = columns.solve(
            columns.signal_once, columns.input, columns.input_once, columns.input_twice
        )
        k1 = joint + vb * minus_leave
        k3 = trapped / k1
        return torch.stack([k1, -minus_leave - k3, 2 * k3, k3, k3, vb])

    @staticmethod
    def macro(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Ki."""
        k1, k2, k3, k4, k5 = (values[name] for name in ("k1", "k2", "k3", "k4", "k5"))
        return {"ki": k1 * k3 * k5 / (k2 * k4 + k2 * k5 + k3 * k5)}


class Casciari(PetModel):
    """FMISO that is reduced in hypoxic cells to a bound product and to one that diffuses away.

    The share of bound product, the rate at which the other leaves the cell, and the extracellular share of the tissue
    are known; blood flow, reduction rate Ka and the share of blood are fitted.

    Source:
        Casciari, Graham and Rasey 1995, Med Phys 22:1127, as written out in the documentation of p2t_fet (Turku PET
        Centre), whose example gives the constants.
    """

    unknowns = (
        Parameter("flow", "ml/ml/min", 0.01, 2.0, 0.2),
        Parameter("ka", "1/min", 0.0, 0.2, 0.02),
        Parameter("bound_share", "1", 0.36, 0.36, 0.36),
        Parameter("kb", "1/min", 0.013, 0.013, 0.013),
        Parameter("extracellular", "1", 0.5, 0.5, 0.5),
        VB,
    )
    exponentials = 4

    def kinetics(self, values: Tensor) -> Tensor:
        """Free tracer, bound product, diffusible product inside and outside the cells."""
        flow, ka, bound, kb, outside, vb = values
        inside = 1 - outside
        leave, wash = flow + inside * ka, flow / outside
        # Rates are moved apart where they enter the exponentials too: then a double root is a nearby pair of roots.
        kb = leave + _apart(kb - leave)
        wash = leave + _apart(wash - leave)
        wash = kb + _apart(wash - kb)
        to_kb, to_wash, kb_wash = kb - leave, wash - leave, wash - kb
        product = bound * ka * flow / leave
        loose = (1 - bound) * ka * flow
        released = outside * (inside / outside) * kb * loose
        kept = inside * product
        at_leave = flow - inside * product + inside * loose / to_kb + released / (to_kb * to_wash)
        at_kb = -inside * loose / to_kb - released / (to_kb * kb_wash)
        at_wash = released / (to_wash * kb_wash)
        return torch.stack([kept, at_leave, at_kb, at_wash, torch.zeros_like(flow), leave, kb, wash, vb])

    def linear_start(self, columns: LinearColumns) -> Tensor:
        """Flow and trapping of the irreversible two-tissue solution."""
        minus_leave, vb, joint, trapped = columns.solve(
            columns.signal_once, columns.input, columns.input_once, columns.input_twice
        )
        flow = joint + vb * minus_leave
        nothing = torch.full_like(flow, math.nan)
        return torch.stack([flow, 4 * trapped / flow, nothing, nothing, nothing, vb])


def _roots(total: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """Larger and smaller root of r^2 - total r + product; the smaller one without cancellation."""
    root = torch.sqrt((total**2 - 4 * product).clamp(min=0) + (APART * total) ** 2 + 1e-16)
    return 0.5 * (total + root), 2 * product / (total + root)


def _apart(difference: Tensor) -> Tensor:
    return torch.where(difference.abs() < APART, torch.where(difference < 0, -APART, APART), difference)


PET_MODELS: dict[str, type[PetModel]] = {
    "1t": OneTissue,
    "2t-irreversible": TwoTissueIrreversible,
    "2t-reversible": TwoTissueReversible,
    "3t-irreversible": ThreeTissueIrreversible,
    "casciari": Casciari,
}
