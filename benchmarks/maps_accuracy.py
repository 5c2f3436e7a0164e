"""Accuracy of the maps beside the Cramer-Rao bound, the least scatter that any unbiased estimate can have.

    python benchmarks/maps_accuracy.py                         a few minutes on two cores
    python benchmarks/maps_accuracy.py --plot figures          one figure per model besides
    python benchmarks/maps_accuracy.py --model 2cxm ivim --voxels 1000

Each model is simulated over a range of one parameter, the others at values typical of head and neck tumours, with
Gaussian noise of a size typical of the technique; `noise` in the output says which. The fit runs in float32. The bound
is the inverse Fisher information, from the analytic Jacobian in float64; fixed parameters have no part in it. Closed
forms are held against the bound of the model whose signal they read.

Prints JSON. For every parameter at every point: the bound, the bias and the standard deviation of the estimates in
units of the bound, and the efficiency, bound^2 / mean square error: 1 is the best an unbiased estimate can be. Points
where a parameter lies within three bounds of one of its limits are marked `attainable: false` and not counted: there
the limit itself informs the estimate, and the bound does not hold. So are points of magnitude recoveries with a sample
within three standard deviations of its zero, where the magnitude has no derivative. `least_efficiency` is the least of
the others; the sampling error of each efficiency is `efficiency_se`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypoxnet.maps.compartments import Timing
from hypoxnet.maps.dce import DCE_MODELS
from hypoxnet.maps.diffusion import IntravoxelIncoherentMotion, MonoExponential, adc_log_linear
from hypoxnet.maps.fitting import FitResult, Parameter, SignalModel, Status, fit
from hypoxnet.maps.input_functions import HAEMATOCRIT, InputFunction, feng, from_blood, parker
from hypoxnet.maps.inversion import InversionRecovery, LookLocker
from hypoxnet.maps.optical import PhosphorescenceDecay
from hypoxnet.maps.pet_kinetics import Frames, build_model, frame_weights
from hypoxnet.maps.r2star import DecayWithFloor, r2star_log_linear
from hypoxnet.maps.relaxometry import SpoiledFlips, t1_from_flips

NEAR_A_LIMIT = 3.0
F18_HALF_LIFE_MIN = 109.77
ECHOES_S = torch.arange(1, 13, dtype=torch.float64) * 0.0046
B_VALUES = torch.tensor([0.0, 200.0, 400.0, 800.0], dtype=torch.float64)
IVIM_B_VALUES = torch.tensor([0.0, 10, 20, 40, 80, 120, 200, 400, 600, 800], dtype=torch.float64)
FLIPS_DEG, TR_S = torch.tensor([2.0, 5.0, 12.0], dtype=torch.float64), 0.005
INVERSIONS_S = torch.tensor([0.05, 0.15, 0.4, 0.8, 1.6, 3.2], dtype=torch.float64)
MOLLI_S = torch.tensor([0.1, 0.18, 0.26, 1.1, 1.18, 2.1, 3.1, 4.1], dtype=torch.float64)
DECAY_US = torch.linspace(0, 400, 40, dtype=torch.float64)

ClosedForm = Callable[[Tensor], FitResult]


@dataclass(frozen=True, slots=True)
class Study:
    """A model, what is varied, and the noise.

    Args:
        model: Makes the signals, and is fitted unless `closed_form` is given.
        truth: Typical values, by parameter.
        varied: The parameter that is varied.
        values: Its values.
        noise_sd: T, or one value for all samples; in the unit of the signal.
        noise: Where that size comes from.
        closed_form: The map in the place of the fit.
        known: Values that the model takes as given, one each.
    """

    model: SignalModel
    truth: dict[str, float]
    varied: str
    values: tuple[float, ...]
    noise_sd: Tensor
    noise: str
    closed_form: ClosedForm | None = None
    known: tuple[float, ...] = ()

    @property
    def free(self) -> list[int]:
        """Places of the parameters that are fitted."""
        return [i for i, parameter in enumerate(self.model.parameters) if not parameter.is_fixed]

    def points(self) -> Tensor:
        """Parameters P x points, float64."""
        rows = [[{**self.truth, self.varied: value}[p.name] for value in self.values] for p in self.model.parameters]
        return torch.tensor(rows, dtype=torch.float64)

    def given(self, count: int) -> Tensor:
        """Known values E x count."""
        return torch.tensor(self.known, dtype=torch.float64)[:, None].expand(-1, count)


def main() -> None:
    """Run the studies, and print."""
    arguments = parse_arguments()
    results = {}
    for name, make in STUDIES.items():
        if arguments.model and name not in arguments.model:
            continue
        study = make()
        results[name] = report(study, arguments.voxels, arguments.seed)
        if arguments.plot:
            arguments.plot.mkdir(parents=True, exist_ok=True)
            plot(name, study, results[name], arguments.plot / f"{name}.png")
    least = {name: result["least_efficiency"] for name, result in results.items()}
    settings = {"voxels_per_point": arguments.voxels, "precision": "float32", "torch": torch.__version__}
    settings["efficiency_se"] = round(math.sqrt(2 / arguments.voxels), 4)
    print(json.dumps({"settings": settings, "least_efficiency": least, "models": results}, indent=1))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, default=5_000, help="noisy voxels at each point")
    parser.add_argument("--model", nargs="+", choices=tuple(STUDIES), help="these only")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="where to write a figure of each model")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


# Bound and estimates.


def report(study: Study, voxels: int, seed: int) -> dict[str, Any]:
    """All points of a study, and the least efficiency of those that count."""
    truth, bound = study.points(), bounds(study)
    found, status = estimates(study, voxels, seed)
    attainable = is_attainable(study, truth, bound)
    parameters = {}
    for row, place in enumerate(study.free):
        parameter = study.model.parameters[place]
        parameters[parameter.name] = compare(parameter, truth[place], bound[row], found[row])
    counted = [
        (efficiency, f"{name} at {study.varied} {value:g}")
        for name, numbers in parameters.items()
        for efficiency, value, counts in zip(numbers["efficiency"], study.values, attainable.tolist(), strict=True)
        if counts and efficiency is not None
    ]
    least = min(counted, default=(None, None))
    return {
        "varied": study.varied,
        "values": list(study.values),
        "others": {name: value for name, value in study.truth.items() if name != study.varied},
        "noise": study.noise,
        "attainable": attainable.tolist(),
        "least_efficiency": least[0],
        "least_at": least[1],
        "no_answer": [round(float(share), 5) for share in (status == int(Status.FAILED)).double().mean(1)],
        "at_bound": [round(float(share), 5) for share in (status == int(Status.AT_BOUND)).double().mean(1)],
        "parameters": parameters,
    }


def bounds(study: Study) -> Tensor:
    """Cramer-Rao bound of the free parameters x points, as standard deviations."""
    truth = study.points()
    jacobian = study.model.evaluate(truth, study.given(truth.shape[1]))[1][study.free] / study.noise_sd[:, None]
    # Scaled to columns of length 1: amplitudes and rates differ by many powers of ten.
    scale = jacobian.square().sum(1, keepdim=True).sqrt()
    information = torch.einsum("ptn,qtn->npq", jacobian / scale, jacobian / scale)
    return torch.linalg.inv(information).diagonal(dim1=1, dim2=2).T.sqrt() / scale[:, 0]


def is_attainable(study: Study, truth: Tensor, bound: Tensor) -> Tensor:
    """Points at which every free parameter is further than three bounds from its limits, and no magnitude near 0."""
    free = [study.model.parameters[i] for i in study.free]
    low = torch.tensor([p.low for p in free], dtype=torch.float64)[:, None]
    high = torch.tensor([p.high for p in free], dtype=torch.float64)[:, None]
    room = torch.minimum(truth[study.free] - low, high - truth[study.free])
    inside = (room > NEAR_A_LIMIT * bound).all(0)
    if not getattr(study.model, "magnitude", False):
        return inside
    clean = study.model.evaluate(truth, study.given(truth.shape[1]))[0]
    return inside & (clean > NEAR_A_LIMIT * study.noise_sd[:, None]).all(0)


def estimates(study: Study, voxels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Free parameters x points x voxels, fitted in float32, and the status of each voxel."""
    truth = study.points()
    points = truth.shape[1]
    clean = study.model.evaluate(truth, study.given(points))[0]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(clean), points, voxels, generator=generator, dtype=torch.float64)
    signal = clean[:, :, None] + study.noise_sd[:, None, None] * noise
    # A magnitude has no sign: what noise drives below 0 is seen above it.
    signal = (signal.abs() if getattr(study.model, "magnitude", False) else signal).float()
    if study.closed_form is not None:
        result = study.closed_form(signal)
    else:
        known = study.given(points)[:, :, None].expand(-1, -1, voxels).float() if study.known else None
        weights = (study.noise_sd.square().mean() / study.noise_sd.square()).float()
        result = fit(study.model, signal, known=known, weights=weights)
    names = [study.model.parameters[i].name for i in study.free]
    return torch.stack([result.values[name].double() for name in names]), result.status


def compare(parameter: Parameter, truth: Tensor, bound: Tensor, found: Tensor) -> dict[str, Any]:
    """Numbers of one parameter at each point; None where no voxel has an answer."""
    # Voxels without an answer are left out here and counted in `no_answer`.
    off = found - truth[:, None]
    bias = off.nanmean(1)
    spread = (off - bias[:, None]).square().nanmean(1).sqrt()
    numbers = {
        "truth": truth,
        "bound": bound,
        "bias_over_bound": bias / bound,
        "sd_over_bound": spread / bound,
        "efficiency": bound**2 / off.square().nanmean(1),
    }
    rows = {name: [rounded(value) for value in row.tolist()] for name, row in numbers.items()}
    return {"unit": parameter.unit, **rows}


def rounded(value: float) -> float | None:
    """Four figures."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


# Contrast-enhanced MRI.


def dce(name: str, truth: dict[str, float], varied: str, values: tuple[float, ...], noise_mm: float) -> Study:
    """Five minutes, every 5 s; every 2.5 s for models of flow."""
    step = 2.5 if name.startswith("2c") else 5.0
    at = torch.arange(0, 300, step, dtype=torch.float64) / 60
    plasma = parker(at - 20 / 60) / (1 - HAEMATOCRIT)
    noise = f"{noise_mm:g} mM in each of {len(at)} volumes, {step:g} s apart"
    sd = torch.full_like(at, noise_mm)
    return Study(DCE_MODELS[name](Timing(at, at), plasma), truth, varied, values, sd, noise)


# Dynamic PET.


def pet(name: str, truth: dict[str, float], varied: str, values: tuple[float, ...], noise: float) -> Study:
    """90 min in 42 frames; noise as its counts give it, its size that of a frame of mean weight."""
    widths = torch.tensor([1 / 6] * 12 + [0.5] * 8 + [2.0] * 12 + [6.0] * 10, dtype=torch.float64)
    ends = torch.cumsum(widths, 0)
    frames = Frames((ends - widths).round(decimals=9), ends.round(decimals=9))
    model = build_model(name, frames, tracer_input(float(ends[-1])))
    typical = torch.tensor([truth[p.name] for p in model.parameters], dtype=torch.float64)[:, None]
    curve = model.evaluate(typical, torch.empty(0, 1, dtype=torch.float64))[0][:, 0]
    weights = frame_weights(frames, curve, half_life_min=F18_HALF_LIFE_MIN)
    sd = noise * float(curve.mean()) / weights.sqrt()
    where = "a voxel" if noise > 0.02 else "a region"
    text = f"{100 * noise:g} % of the mean activity in a frame of mean weight ({where}), weights by counts"
    return Study(model, truth, varied, values, sd, text)


def tracer_input(last_min: float) -> InputFunction:
    """A bolus, sampled every 5 s for two minutes and every minute after."""
    times = torch.cat([torch.arange(0, 24) / 12.0, torch.arange(2.0, math.ceil(last_min) + 2)]).double()
    return from_blood(times, feng(times), haematocrit=0.0)


# Relaxometry, diffusion, optical probes.


def magnitudes(
    model: SignalModel, truth: dict[str, float], varied: str, values: tuple[float, ...], noise_share: float
) -> Study:
    """Noise as a share of the largest signal at the typical values."""
    known = (1.0,) if isinstance(model, SpoiledFlips) else ()
    study = Study(model, truth, varied, values, torch.ones(model.samples, dtype=torch.float64), "", known=known)
    typical = torch.tensor([[truth[p.name]] for p in model.parameters], dtype=torch.float64)
    largest = float(model.evaluate(typical, study.given(1))[0].abs().max())
    text = f"{100 * noise_share:g} % of the largest signal, the same in all {model.samples} samples"
    return Study(model, truth, varied, values, noise_share * largest * study.noise_sd, text, known=known)


def closed(study: Study, closed_form: ClosedForm) -> Study:
    """The same signals, read by a closed form."""
    return replace(study, closed_form=closed_form)


def flips() -> Study:
    """Variable flip angles; noise for a signal-to-noise ratio of 100 at the best angle."""
    return magnitudes(SpoiledFlips(FLIPS_DEG, tr_s=TR_S), {"t1": 1.2, "m0": 1e4}, "t1", T1_VALUES, 0.01)


def adc() -> Study:
    """Diffusion with four b-values."""
    values = (0.4, 0.7, 1.0, 1.3, 1.7, 2.2)
    return magnitudes(MonoExponential(B_VALUES), {"adc": 1.1, "s0": 1000.0}, "adc", values, 0.02)


def r2star() -> Study:
    """A single exponential in echo time, written as one in b (1e-3 b x ADC = TE x R2*); named anew."""
    model = MonoExponential(ECHOES_S * 1000)
    model.parameters = (Parameter("r2star", "1/s", 0.0, 2000.0, 40.0), model.parameters[1])
    values = (10.0, 20.0, 30.0, 40.0, 60.0, 80.0, 120.0)
    return magnitudes(model, {"r2star": 40.0, "s0": 1000.0}, "r2star", values, 0.01)


T1_VALUES = (0.5, 0.8, 1.1, 1.4, 1.8, 2.4)
TOFTS = {"ktrans": 0.25, "ve": 0.3}
KTRANS = (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 0.9)
EXCHANGE = {"fp": 40.0, "ps": 0.15, "ve": 0.2, "vp": 0.08}
FLOW = (15.0, 25.0, 40.0, 60.0, 90.0)
TWO_TISSUES = {"k1": 0.3, "k2": 0.5, "k3": 0.02, "k4": 0.02, "vb": 0.05}
TRAPPING = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05)
CASCIARI = {"flow": 0.3, "ka": 0.02, "bound_share": 0.36, "kb": 0.013, "extracellular": 0.5, "vb": 0.05}
THREE_TISSUES = {"k1": 0.3, "k2": 0.5, "k3": 0.1, "k4": 0.1, "k5": 0.02, "vb": 0.05}
IVIM = {"d": 0.9, "f": 0.12, "d_star": 20.0, "s0": 1000.0}

STUDIES: dict[str, Callable[[], Study]] = {
    "tofts": lambda: dce("tofts", TOFTS, "ktrans", KTRANS, 0.02),
    "extended-tofts": lambda: dce("extended-tofts", {**TOFTS, "vp": 0.05}, "ktrans", KTRANS, 0.02),
    "patlak": lambda: dce("patlak", {"ps": 0.05, "vp": 0.05}, "ps", (0.01, 0.02, 0.05, 0.1, 0.2), 0.02),
    "2cxm": lambda: dce("2cxm", EXCHANGE, "fp", FLOW, 0.01),
    "2cum": lambda: dce("2cum", {"fp": 40.0, "ps": 0.1, "vp": 0.08}, "fp", FLOW, 0.01),
    "1t": lambda: pet("1t", {"k1": 0.3, "k2": 0.3, "vb": 0.05}, "k1", (0.05, 0.1, 0.2, 0.3, 0.5, 0.8), 0.03),
    "2t-irreversible": lambda: pet("2t-irreversible", TWO_TISSUES, "k3", TRAPPING, 0.03),
    "2t-reversible": lambda: pet("2t-reversible", TWO_TISSUES, "k3", TRAPPING, 0.01),
    "3t-irreversible": lambda: pet("3t-irreversible", THREE_TISSUES, "k5", TRAPPING, 0.003),
    "casciari": lambda: pet("casciari", CASCIARI, "ka", (0.003, 0.006, 0.01, 0.02, 0.04, 0.08), 0.03),
    "spoiled-flips": flips,
    "t1-linear-flips": lambda: closed(flips(), lambda signal: t1_from_flips(signal, FLIPS_DEG, tr_s=TR_S)),
    "inversion-recovery": lambda: magnitudes(
        InversionRecovery(INVERSIONS_S, magnitude=True), {"t1": 1.2, "m0": 1000.0}, "t1", T1_VALUES, 0.02
    ),
    "look-locker": lambda: magnitudes(
        LookLocker(MOLLI_S, magnitude=True),
        {"t1_apparent": 1.0, "a": 1000.0, "b": 1900.0},
        "t1_apparent",
        T1_VALUES,
        0.02,
    ),
    "r2star-floor": lambda: magnitudes(
        DecayWithFloor(ECHOES_S),
        {"r2star": 60.0, "s0": 1000.0, "floor": 80.0},
        "r2star",
        (30.0, 40.0, 60.0, 80.0, 100.0, 150.0),
        0.01,
    ),
    "r2star-log-linear": lambda: closed(r2star(), lambda signal: r2star_log_linear(signal, ECHOES_S)),
    "adc-nonlinear": adc,
    "adc-log-linear": lambda: closed(adc(), lambda signal: adc_log_linear(signal, B_VALUES)),
    "ivim": lambda: magnitudes(
        IntravoxelIncoherentMotion(IVIM_B_VALUES), IVIM, "f", (0.05, 0.08, 0.12, 0.16, 0.22, 0.3), 0.005
    ),
    "phosphorescence": lambda: magnitudes(
        PhosphorescenceDecay(DECAY_US),
        {"amplitude": 1000.0, "lifetime": 60.0, "offset": 50.0},
        "lifetime",
        (15.0, 25.0, 40.0, 60.0, 90.0, 130.0),
        0.02,
    ),
}


# Figures.


def plot(name: str, study: Study, result: dict[str, Any], path: Path) -> None:
    """Bias with its band of one standard deviation, beside the bound, for each parameter over the range."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parameters = result["parameters"]
    figure, axes = pyplot.subplots(1, len(parameters), figsize=(3.6 * len(parameters), 3.4), squeeze=False)
    unit = next(p.unit for p in study.model.parameters if p.name == study.varied)
    x = torch.tensor(result["values"])
    for axis, (parameter, numbers) in zip(axes[0], parameters.items(), strict=True):
        bound, bias, spread = (
            torch.tensor([math.nan if v is None else v for v in numbers[key]])
            for key in ("bound", "bias_over_bound", "sd_over_bound")
        )
        axis.plot(x, bias * bound, color="tab:blue", label="bias")
        axis.fill_between(x, (bias - spread) * bound, (bias + spread) * bound, alpha=0.25, label="bias ± sd")
        axis.plot(x, bound, "k--", linewidth=1, label="± bound")
        axis.plot(x, -bound, "k--", linewidth=1)
        left_out = ~torch.tensor(result["attainable"])
        axis.plot(x[left_out], (bias * bound)[left_out], "rx", label="not counted" if left_out.any() else None)
        axis.set_xlabel(f"{study.varied} ({unit})")
        axis.set_ylabel(f"error of {parameter} ({numbers['unit']})")
    axes[0][0].legend(fontsize=8)
    figure.suptitle(f"{name}; noise: {result['noise']}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
