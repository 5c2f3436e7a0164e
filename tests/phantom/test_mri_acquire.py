"""A scanner keeps what it must keep, adds the noise it says, and displaces by what it returns."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mri_object import made, neck
from scipy.special import erfc, ive

from hypoxnet.phantom.fields import centred_grid
from hypoxnet.phantom.mri.acquire import (
    NOISE,
    acquire,
    acquire_mr,
    as_seen,
    mr_grid,
    mr_session,
    noise_sd,
    rician,
    susceptibility_per_s,
)
from hypoxnet.phantom.mri.sequences import multi_echo, t1_weighted
from hypoxnet.phantom.parameters.mri import MrProtocol, MrScanner
from hypoxnet.phantom.words import Anatomy, RawSeries, Tissue

STRAIGHT = replace(MrScanner().without_imperfections(), obliquity_deg=0.0, off_centre_mm=0.0)


def rng(seed=0):
    return np.random.default_rng(seed)


def ball(side=24, spacing_mm=3.0, radius_mm=15.0):
    """A smooth ball in the middle of its grid, and its anatomy of soft tissue."""
    grid = centred_grid((side * spacing_mm,) * 3, (spacing_mm,) * 3)
    axis = (torch.arange(side) - (side - 1) / 2) * spacing_mm
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    distance = (x**2 + y**2 + z**2).sqrt()
    tissue = torch.full((side,) * 3, int(Tissue.SOFT), dtype=torch.uint8)
    none = torch.zeros_like(tissue)
    anatomy = Anatomy(grid, tissue, none.bool(), none, none.bool(), none.bool(), none.float(), "larynx")
    return anatomy, torch.sigmoid((radius_mm - distance) / 2.0)


def centre_mm(volume, grid):
    """Centre of mass, RAS+ mm."""
    axes = [torch.arange(n, dtype=torch.float64) for n in volume.shape]
    index = torch.stack([*torch.meshgrid(*axes, indexing="ij"), torch.ones(volume.shape, dtype=torch.float64)], -1)
    places = index @ torch.from_numpy(grid.matrix).T
    weight = volume.double()[..., None]
    return ((places * weight).sum((0, 1, 2)) / weight.sum())[:3].numpy()


@pytest.mark.parametrize("snr", [0.0, 0.5, 1.0, 2.0, 5.0, 20.0])
def test_magnitude_has_the_mean_and_variance_of_rice(snr):
    sd, count = 3.0, 400_000
    seen = rician(torch.full((count,), snr * sd), sd, rng()).double()
    half = snr**2 / 4
    # The Laguerre polynomial of Rice's mean, with scaled Bessel functions: they do not overflow.
    mean = sd * math.sqrt(math.pi / 2) * ((1 + 2 * half) * ive(0, half) + 2 * half * ive(1, half))
    variance = 2 * sd**2 + (snr * sd) ** 2 - mean**2
    assert float(seen.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / count))
    assert float(seen.var()) == pytest.approx(variance, rel=0.012)


def test_the_noise_is_what_the_snr_says_and_what_the_sidecar_says():
    anatomy = neck()
    session = mr_session(anatomy, replace(STRAIGHT, snr_weighted=25.0), rng())
    series = t1_weighted(made(anatomy), MrProtocol())
    clean = acquire_mr(series, session, None).signal[0]
    seen = acquire_mr(series, session, rng(1))
    air = clean < 1e-6
    sd = float(seen.signal[0][air].mean()) / math.sqrt(math.pi / 2)
    assert sd == pytest.approx(seen.sidecar[NOISE], rel=0.03)
    patient = clean > 0.05 * clean.max()
    assert float(clean[patient].mean()) / seen.sidecar[NOISE] == pytest.approx(25.0, rel=1e-4)
    assert noise_sd(torch.zeros(4, 4, 4), 25.0) == 0.0


def test_without_a_generator_nothing_is_random():
    anatomy = neck()
    session = mr_session(anatomy, MrScanner(), rng())
    series = multi_echo(made(anatomy), MrProtocol())
    one, other = (acquire(series, session, None) for _ in range(2))
    assert torch.equal(one.series.signal, other.series.signal)
    assert one.series.sidecar[NOISE] == 0.0
    assert one.gain == 1.0
    assert not one.moved_mm.any()


def test_the_same_stream_repeats_a_scan_and_another_one_makes_another():
    anatomy = neck()
    series = t1_weighted(made(anatomy), MrProtocol())
    seen = [acquire_mr(series, mr_session(anatomy, MrScanner(), rng(s)), rng(s)) for s in (1, 1, 2)]
    assert torch.equal(seen[0].signal, seen[1].signal)
    assert not torch.equal(seen[0].signal, seen[2].signal)


@settings(max_examples=15, deadline=None)
@given(voxel=st.tuples(st.floats(2, 6), st.floats(2, 6), st.floats(2, 6)), seed=st.integers(0, 50))
def test_averaging_over_voxels_conserves_the_signal(voxel, seed):
    anatomy, signal = ball()
    scanner = replace(STRAIGHT, voxel_mm=voxel, obliquity_deg=3.0, off_centre_mm=1.0, field_of_view_share=1.0)
    session = mr_session(anatomy, scanner, rng(seed))
    seen = acquire_mr(RawSeries("T1W", signal[None], {}), session, None).signal[0]
    assert float(seen.sum()) * session.grid.voxel_ml == pytest.approx(
        float(signal.sum()) * anatomy.grid.voxel_ml, rel=0.01
    )


def test_a_straight_field_is_seen_as_it_is():
    anatomy, _ = ball()
    side = 24
    axis = torch.arange(side, dtype=torch.float32) * 3.0
    ramp = 100 + axis[:, None, None] + 2 * axis[None, :, None] - axis[None, None, :] + torch.zeros(side, side, side)
    session = mr_session(anatomy, replace(STRAIGHT, voxel_mm=(6.0, 6.0, 6.0)), rng())
    seen = acquire_mr(RawSeries("T1W", ramp[None], {}), session, None).signal[0]
    where = np.linalg.inv(anatomy.grid.matrix) @ session.grid.matrix
    i, j, k = np.meshgrid(*[np.arange(n) for n in session.grid.shape], indexing="ij")
    a, b, c = (where[row, 0] * i + where[row, 1] * j + where[row, 2] * k + where[row, 3] for row in range(3))
    expected = torch.from_numpy(100 + 3 * a + 6 * b - 3 * c)
    inner = (slice(2, -2),) * 3
    assert torch.allclose(seen[inner].double(), expected[inner], atol=2e-3)


def test_a_voxel_of_two_tissues_holds_the_mean_of_their_signals():
    anatomy, _ = ball()
    session = mr_session(anatomy, replace(STRAIGHT, voxel_mm=(6.0, 3.0, 3.0), field_of_view_share=1.0), rng())
    stripes = torch.zeros(24, 24, 24)
    stripes[::2] = 1.0
    seen = acquire_mr(RawSeries("T1W", stripes[None], {}), session, None).signal[0]
    assert torch.allclose(seen[2:-2], torch.tensor(0.5), atol=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_the_patient_lies_where_the_returned_misregistration_says(seed):
    anatomy, signal = ball()
    scanner = replace(STRAIGHT, misregistration_mm=1.0, obliquity_deg=4.0, off_centre_mm=1.0, field_of_view_share=1.0)
    session = mr_session(anatomy, scanner, rng(seed))
    seen = acquire_mr(RawSeries("T1W", signal[None], {}), session, None).signal[0]
    shift = np.array(session.misregistration_mm)
    assert centre_mm(seen, session.grid) == pytest.approx(shift, abs=0.02)
    assert 0 < np.linalg.norm(shift) <= scanner.largest_misregistration_mm + 1e-9


def test_volumes_move_by_what_is_returned_and_the_first_does_not():
    anatomy, signal = ball()
    scanner = replace(STRAIGHT, motion_mm=1.0, motion_deg=2.0, snr_weighted=1e9, field_of_view_share=1.0)
    session = mr_session(anatomy, scanner, rng())
    seen = acquire(RawSeries("T1W", signal.expand(5, 24, 24, 24), {}), session, rng(3))
    assert not seen.moved_mm[0].any()
    assert np.abs(seen.moved_mm[1:]).max() > 0.5
    for volume, moved in zip(seen.series.signal, seen.moved_mm, strict=True):
        assert centre_mm(volume, session.grid) == pytest.approx(moved, abs=0.02)


def test_the_grid_is_planned_round_the_centre_of_the_object():
    anatomy, _ = ball()
    straight = mr_grid(anatomy.grid, STRAIGHT, (2.0, 3.0, 4.0), rng())
    assert straight.spacing_mm == pytest.approx((2.0, 3.0, 4.0))
    assert straight.shape == (35, 23, 17)
    assert straight.corners_mm().mean(0) == pytest.approx(np.zeros(3), abs=1e-9)
    oblique = [mr_grid(anatomy.grid, MrScanner(), (2.0, 2.0, 3.0), rng(s)) for s in range(60)]
    angles = [math.degrees(math.acos(min(1.0, g.matrix[2, 2] / 3.0))) for g in oblique]
    assert 2.0 < np.sqrt(np.mean(np.square(angles)) / 2) < 4.0
    off = np.array([g.corners_mm().mean(0) for g in oblique])
    assert off.std(0) == pytest.approx(np.full(3, 2.0), rel=0.35)


def test_coils_have_mean_one_inside_the_patient_and_are_slow():
    anatomy = neck()
    session = mr_session(anatomy, MrScanner(), rng(4))
    body = anatomy.body
    for field in (session.receive, session.transmit):
        assert float(field[body].mean()) == pytest.approx(1.0, abs=1e-5)
        step = torch.diff(field, dim=0).abs().max() / field.std()
        assert float(step) < 0.6
    assert session.receive.std() > session.transmit.std() > 0
    still = mr_session(anatomy, STRAIGHT, rng(4))
    assert torch.equal(still.receive, torch.ones_like(still.receive))
    assert torch.equal(still.susceptibility, torch.zeros_like(still.susceptibility))


def test_air_adds_its_whole_rate_at_a_flat_border_and_less_with_distance():
    grid = centred_grid((160.0, 8.0, 8.0), (2.0, 2.0, 2.0))
    tissue = torch.full((80, 4, 4), int(Tissue.SOFT), dtype=torch.uint8)
    tissue[:40] = int(Tissue.AIRWAY)
    none = torch.zeros_like(tissue)
    anatomy = Anatomy(grid, tissue, none.bool(), none, none.bool(), none.bool(), none.float(), "larynx")
    scanner = MrScanner()
    added = susceptibility_per_s(anatomy, scanner)[:, 2, 2].numpy()
    whole = scanner.air_r2prime_per_s_t * scanner.field_t
    assert (added[39] + added[40]) / 2 == pytest.approx(whole, rel=1e-4)
    distance = np.array([2.0 * n + 1.0 for n in range(8)])
    expected = whole * erfc(distance / (math.sqrt(2) * scanner.susceptibility_mm))
    assert added[40:48] == pytest.approx(expected, abs=0.01 * whole)


def test_r2star_beside_the_airway_is_unreliable_and_elsewhere_it_is_not():
    anatomy = neck()
    session = mr_session(anatomy, MrScanner(), rng())
    p = made(anatomy)
    added = as_seen(p, session).r2star - p.r2star
    beside = torch.nn.functional.max_pool3d(anatomy.is_a(Tissue.AIRWAY).float()[None], 3, 1, 1)[0].bool()
    beside &= anatomy.body
    far = anatomy.is_a(Tissue.MUSCLE)
    assert float(added[beside].median()) > 15.0
    assert float(added[far].median()) < 2.0
