import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit, least_squares

from hypoxnet.errors import MapError
from hypoxnet.maps import blocks
from hypoxnet.maps.compartments import CompartmentModel, Timing
from hypoxnet.maps.dce import (
    DELAY,
    ExtendedTofts,
    PatlakDce,
    Tofts,
    TwoCompartmentExchange,
    TwoCompartmentUptake,
)
from hypoxnet.maps.derivatives import forward_jacobian
from hypoxnet.maps.diffusion import IntravoxelIncoherentMotion, MonoExponential, PseudoDiffusion
from hypoxnet.maps.fitting import FitOptions, Parameter, Status, fit
from hypoxnet.maps.input_functions import feng, from_blood, parker, timing
from hypoxnet.maps.inversion import InversionRecovery, LookLocker
from hypoxnet.maps.optical import PhosphorescenceDecay
from hypoxnet.maps.pet_models import (
    Casciari,
    OneTissue,
    ThreeTissueIrreversible,
    TwoTissueIrreversible,
    TwoTissueReversible,
)
from hypoxnet.maps.r2star import DecayWithFloor
from hypoxnet.maps.relaxometry import SpoiledFlips
from hypoxnet.maps.small_matrices import inverse_diagonal, solve

NOTHING = torch.empty(0, 1, dtype=torch.float64)
B_VALUES = torch.tensor([0.0, 200.0, 400.0, 800.0, 1200.0], dtype=torch.float64)
IVIM_B = torch.tensor([0.0, 10, 20, 40, 80, 120, 200, 400, 600, 800, 1000], dtype=torch.float64)


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def decays(adc, s0) -> torch.Tensor:
    """T x N samples of a decay of one exponential."""
    adc, s0 = torch.as_tensor(adc, dtype=torch.float64), torch.as_tensor(s0, dtype=torch.float64)
    return s0 * torch.exp(-1e-3 * B_VALUES[:, None] * adc)


def dce_timing() -> tuple[Timing, torch.Tensor]:
    times = torch.arange(0, 5, 0.1, dtype=torch.float64)
    grid, plasma, _ = timing(times, None, from_blood(times, parker(times - 0.3)))
    return grid, plasma


def pet_timing(*, frames: bool = True) -> tuple[Timing, torch.Tensor, torch.Tensor]:
    ends = torch.cumsum(double(*[0.5] * 8, *[2] * 8, *[5] * 8), 0)
    starts = torch.cat([double(0.0), ends[:-1]])
    dense = torch.unique(torch.cat([torch.linspace(0, 3, 61, dtype=torch.float64), torch.arange(3, 61).double()]))
    given = from_blood(dense, feng(dense), haematocrit=0.0)
    return timing(starts if frames else ends, ends if frames else None, given, longest_step_min=0.5)


def dce(kind: type[CompartmentModel], *, delay: bool = False) -> CompartmentModel:
    grid, plasma = dce_timing()
    if delay:
        fine = torch.linspace(0, 4.9, 491, dtype=torch.float64)
        given = from_blood(fine, parker(fine - 0.3))
        grid, plasma, _ = timing(grid.starts, None, given)
    return kind(grid, plasma, delay=DELAY if delay else None)


def pet(kind: type[CompartmentModel], *, frames: bool) -> CompartmentModel:
    grid, plasma, blood = pet_timing(frames=frames)
    return kind(grid, plasma, blood=0.8 * blood)


DCE_VALUES = {
    Tofts: (0.25, 0.3),
    ExtendedTofts: (0.25, 0.3, 0.05),
    PatlakDce: (0.1, 0.04),
    TwoCompartmentExchange: (60.0, 0.2, 0.3, 0.05),
    TwoCompartmentUptake: (60.0, 0.05, 0.05),
}
PET_VALUES = {
    OneTissue: (0.3, 0.5, 0.05),
    TwoTissueIrreversible: (0.3, 0.5, 0.005, 0.05),
    TwoTissueReversible: (0.3, 0.5, 0.05, 0.02, 0.05),
    ThreeTissueIrreversible: (0.3, 0.5, 0.05, 0.04, 0.01, 0.05),
    Casciari: (0.2, 0.02, 0.36, 0.013, 0.5, 0.05),
}
ODD_TIMES = (0.08, 0.31, 0.93, 2.7)
CASES = {
    **{f"{k.__name__}": (lambda k=k: dce(k), v, ()) for k, v in DCE_VALUES.items()},
    **{f"{k.__name__} with delay": (lambda k=k: dce(k, delay=True), (*v, 0.033), ()) for k, v in DCE_VALUES.items()},
    **{f"{k.__name__}": (lambda k=k: pet(k, frames=False), v, ()) for k, v in PET_VALUES.items()},
    **{f"{k.__name__} in frames": (lambda k=k: pet(k, frames=True), v, ()) for k, v in PET_VALUES.items()},
    "SpoiledFlips": (lambda: SpoiledFlips(double(2, 5, 12), tr_s=0.005), (1.1, 900.0), (0.93,)),
    "InversionRecovery": (lambda: InversionRecovery(double(*ODD_TIMES), magnitude=False), (1.2, 3.0), ()),
    "InversionRecovery of magnitudes": (
        lambda: InversionRecovery(double(*ODD_TIMES), magnitude=True, efficiency=0.95),
        (1.2, 3.0),
        (),
    ),
    "LookLocker": (lambda: LookLocker(double(*ODD_TIMES), magnitude=False), (1.05, 1.0, 1.9), ()),
    "LookLocker of magnitudes": (lambda: LookLocker(double(*ODD_TIMES), magnitude=True), (1.05, 1.0, 1.9), ()),
    "DecayWithFloor": (lambda: DecayWithFloor(double(0.005, 0.01, 0.02, 0.04)), (50.0, 900.0, 70.0), ()),
    "MonoExponential": (lambda: MonoExponential(B_VALUES), (1.2, 700.0), ()),
    "IntravoxelIncoherentMotion": (lambda: IntravoxelIncoherentMotion(IVIM_B), (0.82, 0.15, 20.0, 500.0), ()),
    "PseudoDiffusion": (lambda: PseudoDiffusion(IVIM_B), (20.0,), (0.82, 0.15, 500.0)),
    "PhosphorescenceDecay": (lambda: PhosphorescenceDecay(double(10, 40, 160, 640)), (900.0, 200.0, 30.0), ()),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_analytic_jacobian_agrees_with_central_differences(case):
    build, at, given = CASES[case]
    model = build()
    known = double(*given)[:, None]
    values = double(*at)[:, None]
    signal, jacobian = model.evaluate(values, known)
    assert signal.shape == (model.samples, 1)
    assert jacobian.shape == (len(model.parameters), model.samples, 1)
    count = len(at)
    steps = 1e-5 * values.abs().clamp(min=1e-3)
    # One voxel below and one above for each parameter, all in one call.
    moved = values + torch.cat([-torch.diag(steps[:, 0]), torch.diag(steps[:, 0])], 1)
    beside = model.evaluate(moved, known.expand(-1, 2 * count))[0]
    wanted = (beside[:, count:] - beside[:, :count]) / (2 * steps[:, 0])
    for row, parameter in enumerate(model.parameters):
        scale = float(wanted[:, row].abs().max())
        assert scale > 0, parameter.name
        apart = float((jacobian[row, :, 0] - wanted[:, row]).abs().max())
        assert apart < 2e-6 * scale, f"{parameter.name}: {apart:.2g} of {scale:.2g}"


@pytest.mark.parametrize(
    "case", [name for name in CASES if not name.startswith(("Patlak", "Spoiled")) and "delay" not in name], ids=str
)
def test_analytic_jacobian_agrees_with_automatic_differentiation(case):
    build, at, given = CASES[case]
    model = build()
    if isinstance(model, CompartmentModel):
        # The convolution writes in place; its own derivative is tested beside it, here it is the chain to the rates.
        value, jacobian = model.kinetics_jacobian(double(*at)[:, None])
        wanted = torch.func.jacfwd(lambda p: model.kinetics(p[:, None])[:, 0])(double(*at))
    else:
        known = double(*given)[:, None]
        value, jacobian = model.evaluate(double(*at)[:, None], known)
        wanted = torch.func.jacfwd(lambda p: model.evaluate(p[:, None], known)[0][:, 0])(double(*at))
    assert torch.isfinite(value).all()
    assert torch.allclose(jacobian[:, :, 0].T, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_exponential_without_noise_is_recovered(dtype, relative):
    adc, s0 = torch.meshgrid(torch.linspace(0.3, 3, 10), torch.logspace(0, 4, 5), indexing="ij")
    signal = decays(adc.reshape(-1), s0.reshape(-1)).to(dtype).reshape(5, 10, 5)
    found = fit(MonoExponential(B_VALUES), signal)
    assert bool((found.status == Status.CONVERGED).all())
    assert found.values["adc"].dtype == dtype
    assert torch.allclose(found.values["adc"], adc.to(dtype), rtol=relative)
    assert torch.allclose(found.values["s0"], s0.to(dtype), rtol=relative)
    assert bool((found.r2 > 1 - 1e-6).all())


def test_fit_leaves_its_input_alone():
    signal = decays([1.0, 2.0], 100.0)
    before = signal.clone()
    fit(MonoExponential(B_VALUES), signal)
    assert torch.equal(signal, before)


class Bounded(MonoExponential):
    """A decay with bounds of the test's choice."""

    def __init__(self, *parameters: Parameter) -> None:
        super().__init__(B_VALUES)
        self.parameters = parameters


def test_bounds_hold_and_the_status_says_so():
    adc, s0 = MonoExponential.parameters
    found = fit(Bounded(adc.between(0.5, 2.0), s0), decays([0.2, 1.0, 3.0], 100.0))
    assert found.values["adc"].tolist() == pytest.approx([0.5, 1.0, 2.0], rel=1e-6)
    assert found.status.tolist() == [Status.AT_BOUND, Status.CONVERGED, Status.AT_BOUND]
    assert torch.isnan(found.errors["adc"]).tolist() == [True, False, True]
    assert torch.isfinite(found.errors["s0"]).all()


def test_at_a_bound_the_other_parameters_are_the_best_that_remain():
    adc, s0 = MonoExponential.parameters
    signal = decays([3.0], 100.0)
    found = fit(Bounded(adc.between(0.5, 2.0), s0), signal)
    unit = decays([2.0], 1.0)
    assert float(found.values["s0"]) == pytest.approx(float((unit * signal).sum() / (unit * unit).sum()), rel=1e-6)


def test_fixed_parameter_stays_fixed_and_counts_as_known():
    adc, s0 = MonoExponential.parameters
    torch.manual_seed(1)
    signal = decays([1.0, 1.5], 100.0) + torch.randn(5, 2, dtype=torch.float64)
    found = fit(Bounded(adc.fixed_at(1.25), s0), signal)
    assert torch.equal(found.values["adc"], double(1.25, 1.25))
    assert found.status.tolist() == [Status.CONVERGED, Status.CONVERGED]
    unit = decays([1.25, 1.25], 1.0)
    s0_best = (unit * signal).sum(0) / (unit * unit).sum(0)
    assert torch.allclose(found.values["s0"], s0_best, rtol=1e-6)
    left = ((signal - s0_best * unit) ** 2).sum(0) / 4
    assert torch.allclose(found.residual, left.sqrt(), rtol=1e-9)
    assert torch.allclose(found.errors["s0"], (left / (unit * unit).sum(0)).sqrt(), rtol=1e-9)


def test_voxels_without_a_fit_are_nan_and_say_why():
    signal = decays([1.0] * 5, 100.0).reshape(5, 5, 1)
    signal[2, 1] = math.nan
    signal[:, 2] = 0
    signal[1, 3] = math.inf
    mask = torch.tensor([True, True, True, True, False])[:, None]
    found = fit(MonoExponential(B_VALUES), signal, mask=mask)
    wanted = [Status.CONVERGED, Status.NO_SIGNAL, Status.NO_SIGNAL, Status.NO_SIGNAL, Status.OUTSIDE]
    assert found.status[:, 0].tolist() == wanted
    for each in (*found.values.values(), *found.errors.values(), found.residual, found.r2):
        assert torch.isfinite(each[:, 0]).tolist() == [True, False, False, False, False]
    assert found.counts() == {"converged": 1, "at_bound": 0, "no_signal": 3, "failed": 0}


def test_voxel_whose_known_value_is_nan_has_no_fit():
    model = SpoiledFlips(double(2, 5, 12), tr_s=0.005)
    b1 = double(1.0, math.nan)[None]
    signal = model.evaluate(double(1.0, 1000.0)[:, None].expand(2, 2), torch.ones(1, 2).double())[0]
    assert fit(model, signal, known=b1).status.tolist() == [Status.CONVERGED, Status.NO_SIGNAL]


def test_empty_mask_gives_an_empty_map():
    found = fit(MonoExponential(B_VALUES), decays([1.0, 2.0], 100.0), mask=torch.zeros(2, dtype=torch.bool))
    assert found.status.tolist() == [Status.OUTSIDE, Status.OUTSIDE]
    assert torch.isnan(found.values["adc"]).all()


def test_fit_that_runs_out_of_iterations_has_failed():
    torch.manual_seed(0)
    model = IntravoxelIncoherentMotion(IVIM_B)
    values = double(0.8, 0.2, 12.0, 100.0)[:, None].expand(4, 20)
    signal = model.evaluate(values, NOTHING)[0] + 3 * torch.randn(11, 20, dtype=torch.float64)
    found = fit(model, signal, options=FitOptions(iterations=1))
    failed = found.status == Status.FAILED
    assert bool(failed.any())
    assert torch.isnan(found.values["d"][failed]).all()


def test_sample_without_weight_does_not_matter():
    signal = decays([0.7, 1.4], 100.0)
    signal[2] *= 3
    weights = double(1, 1, 1e-12, 1, 1)
    found = fit(MonoExponential(B_VALUES), signal, weights=weights)
    assert found.values["adc"].tolist() == pytest.approx([0.7, 1.4], rel=1e-6)
    assert abs(float(fit(MonoExponential(B_VALUES), signal).values["adc"][0]) - 0.7) > 0.05


def test_scaling_all_weights_changes_parameters_and_errors_by_nothing():
    torch.manual_seed(2)
    signal = decays(torch.linspace(0.5, 2, 30), 100.0) + torch.randn(5, 30, dtype=torch.float64)
    weights = double(1, 2, 3, 2, 1)
    one, thousand = (fit(MonoExponential(B_VALUES), signal, weights=weights * scale) for scale in (1.0, 1000.0))
    for name in ("adc", "s0"):
        assert torch.allclose(one.values[name], thousand.values[name], rtol=1e-7)
        assert torch.allclose(one.errors[name], thousand.errors[name], rtol=1e-6)


def noisy_tofts(count: int, sd: float = 0.02, *, seed: int = 0) -> tuple[ExtendedTofts, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    model = dce(ExtendedTofts)
    share = torch.rand(3, count, dtype=torch.float64, generator=generator)
    truth = double(0.1, 0.15, 0.02)[:, None] + share * double(0.5, 0.4, 0.08)[:, None]
    clean = model.evaluate(truth, NOTHING)[0]
    return model, truth, clean + sd * torch.randn(clean.shape, dtype=torch.float64, generator=generator)


def test_result_does_not_depend_on_the_size_of_blocks_or_the_number_of_threads(monkeypatch):
    model, _, signal = noisy_tofts(1000)
    found = {"whole": fit(model, signal)}
    monkeypatch.setattr(blocks, "CPU_BLOCK_BYTES", 1)
    found["two threads"] = fit(model, signal)
    monkeypatch.setattr("hypoxnet.maps.fitting.cpu_workers", lambda: 1)
    monkeypatch.setattr(blocks, "cpu_workers", lambda: 1)
    seen = []
    found["one thread"] = fit(model, signal, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(256, 1000), (512, 1000), (768, 1000), (1000, 1000)]
    for other in ("two threads", "one thread"):
        assert torch.equal(found[other].status, found["whole"].status)
        for name in ("ktrans", "ve", "vp"):
            assert torch.allclose(found[other].values[name], found["whole"].values[name], rtol=1e-6, atol=1e-9)


def test_threads_of_a_fit_leave_the_number_of_threads_of_torch_alone(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(blocks, "CPU_BLOCK_BYTES", 1)
    fit(MonoExponential(B_VALUES), decays(torch.linspace(0.5, 2, 600), 100.0))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before
    assert torch.get_num_threads() == before


def test_fault_in_a_block_reaches_the_caller(monkeypatch):
    class Broken(MonoExponential):
        def evaluate(self, values, known):
            raise MapError("the model is broken")

    monkeypatch.setattr(blocks, "CPU_BLOCK_BYTES", 1)
    with pytest.raises(MapError, match="broken"):
        fit(Broken(B_VALUES), decays(torch.linspace(0.5, 2, 600), 100.0))


def scipy_fit(model, signal: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and standard errors of one voxel by the bounded solver of scipy."""
    low = np.array([p.low for p in model.parameters])
    high = np.array([p.high for p in model.parameters])

    @lru_cache
    def evaluated(p: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        curve, rows = model.evaluate(double(*p)[:, None], NOTHING)
        return curve[:, 0].numpy(), rows[:, :, 0].numpy().T

    def predicted(p: np.ndarray) -> np.ndarray:
        return evaluated(tuple(p))[0]

    def jacobian(p: np.ndarray) -> np.ndarray:
        return evaluated(tuple(p))[1]

    found = least_squares(
        lambda p: predicted(p) - signal,
        start,
        jacobian,
        bounds=(low, high),
        x_scale=np.maximum(np.abs(start), 1e-3),
        xtol=1e-9,
        ftol=1e-12,
        gtol=1e-9,
    )
    _, covariance = curve_fit(
        lambda _, *p: predicted(np.array(p)),
        np.arange(len(signal)),
        signal,
        found.x,
        jac=lambda _, *p: jacobian(np.array(p)),
    )
    return found.x, np.sqrt(np.diag(covariance))


def test_extended_tofts_agrees_with_scipy_on_noisy_voxels():
    model, truth, signal = noisy_tofts(20)
    assert_agrees_with_scipy(model, truth, signal)


def test_two_tissues_agree_with_scipy_on_noisy_voxels():
    generator = torch.Generator().manual_seed(3)
    model = pet(TwoTissueIrreversible, frames=True)
    share = torch.rand(4, 20, dtype=torch.float64, generator=generator)
    truth = double(0.2, 0.3, 0.01, 0.05)[:, None] + share * double(0.3, 0.4, 0.04, 0.05)[:, None]
    clean = model.evaluate(truth, NOTHING)[0]
    assert_agrees_with_scipy(
        model, truth, clean + 0.1 * torch.randn(clean.shape, dtype=torch.float64, generator=generator)
    )


def assert_agrees_with_scipy(model, truth: torch.Tensor, signal: torch.Tensor) -> None:
    found = fit(model, signal)
    names = [p.name for p in model.parameters]
    assert bool((found.status == Status.CONVERGED).all())
    for voxel in range(signal.shape[1]):
        wanted, errors = scipy_fit(model, signal[:, voxel].numpy(), truth[:, voxel].numpy())
        assert [float(found.values[n][voxel]) for n in names] == pytest.approx(wanted, rel=1e-4)
        assert [float(found.errors[n][voxel]) for n in names] == pytest.approx(errors, rel=1e-2)


def test_single_precision_gives_the_parameters_of_double_precision():
    model, _, signal = noisy_tofts(200)
    double_found, single_found = fit(model, signal), fit(model, signal.float())
    for name in ("ktrans", "ve", "vp"):
        error = double_found.errors[name]
        apart = (single_found.values[name].double() - double_found.values[name]).abs()
        inside = torch.isfinite(error)
        assert float((apart / error)[inside].max()) < 0.05


def test_standard_errors_cover_the_truth_as_often_as_they_should():
    generator = torch.Generator().manual_seed(5)
    model = dce(ExtendedTofts)
    truth = double(0.25, 0.3, 0.05)
    clean = model.evaluate(truth[:, None].expand(3, 500), NOTHING)[0]
    found = fit(model, clean + 0.02 * torch.randn(clean.shape, dtype=torch.float64, generator=generator))
    for name, value in zip(("ktrans", "ve", "vp"), truth.tolist(), strict=True):
        covered = ((found.values[name] - value).abs() < 1.96 * found.errors[name]).double().mean()
        assert 0.92 <= float(covered) <= 0.98, name


def test_residual_is_the_noise_that_was_added():
    model, _, signal = noisy_tofts(500, sd=0.03, seed=6)
    assert float(fit(model, signal).residual.square().mean().sqrt()) == pytest.approx(0.03, rel=0.02)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"signal": torch.ones(4, 6)}, "series has 4 volumes, its timing names 5 samples; give one volume per sample"),
        ({"signal": torch.ones(5)}, "series has 1 volumes, its timing names 5"),
        ({"signal": torch.ones(5, 6, dtype=torch.int16)}, r"holds torch\.int16, a fit needs float32 or float64"),
        ({"mask": torch.ones(7, dtype=torch.bool)}, "mask has 7 voxels, the series 6; resample the mask"),
        ({"known": torch.ones(1, 2, 3)}, "known map has 2 x 3 voxels, the series 6; resample"),
        ({"weights": torch.ones(3)}, "3 weights for 5 samples; give one per sample"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(given, sentence):
    whole = {"signal": torch.ones(5, 6), **given}
    with pytest.raises(MapError, match=sentence):
        fit(MonoExponential(B_VALUES), whole.pop("signal"), **whole)


def test_parameter_that_starts_outside_its_bounds_is_refused():
    with pytest.raises(MapError, match=r"vb starts at 0\.5, its bounds are 0 to 0\.3"):
        Parameter("vb", "1", 0.0, 0.3, 0.5)


def test_input_that_does_not_fit_its_grid_is_refused():
    grid, plasma = dce_timing()
    with pytest.raises(MapError, match="input has 49 values, its time grid 50"):
        Tofts(grid, plasma[1:])


def test_delay_on_frames_is_refused():
    grid, plasma, _ = pet_timing()
    with pytest.raises(MapError, match="needs sampling times, frames were given; shift the input"):
        Tofts(grid, plasma, delay=DELAY)


def test_small_systems_are_solved_as_by_lapack():
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 4, 6):
        root = torch.randn(50, size, size, dtype=torch.float64, generator=generator)
        matrix = root @ root.mT + 0.1 * torch.eye(size, dtype=torch.float64)
        scale = torch.logspace(-4, 4, size, dtype=torch.float64) if size > 1 else torch.ones(1).double()
        matrix = matrix * scale[:, None] * scale
        right = torch.randn(50, size, dtype=torch.float64, generator=generator)
        ours = matrix.permute(1, 2, 0)
        assert torch.allclose(solve(ours, right.T).T, torch.linalg.solve(matrix, right), rtol=1e-8)
        wanted = torch.diagonal(torch.linalg.inv(matrix), dim1=1, dim2=2)
        assert torch.allclose(inverse_diagonal(ours).T, wanted, rtol=1e-8)


def test_forward_jacobian_keeps_voxels_apart():
    values = double(1.0, 2.0, 3.0, 4.0).reshape(2, 2)
    _, jacobian = forward_jacobian(lambda p: torch.stack([p[0] ** 2, p[0] * p[1], torch.sin(p[1])]), values)
    a, b = values
    assert torch.equal(jacobian[0], torch.stack([2 * a, b, torch.zeros(2).double()]))
    assert torch.equal(jacobian[1], torch.stack([torch.zeros(2).double(), a, torch.cos(b)]))


def test_models_without_written_derivatives_fit_several_blocks_at_once(monkeypatch):
    minutes = torch.arange(0, 3, 3 / 60, dtype=torch.float64)
    model = TwoCompartmentUptake(Timing(minutes, minutes), parker(minutes - 0.2) / 0.58)
    truth = torch.tensor([[40.0], [0.1], [0.08]], dtype=torch.float64).repeat(1, 3000)
    signal = model.evaluate(truth, torch.empty(0, 3000))[0]
    monkeypatch.setattr(blocks, "CPU_BLOCK_BYTES", 1)
    monkeypatch.setattr(blocks, "cpu_workers", lambda: 4)
    found = fit(model, signal)
    assert torch.allclose(found.values["fp"], truth[0], rtol=1e-4)
    assert torch.allclose(found.values["ps"], truth[1], rtol=1e-4)
