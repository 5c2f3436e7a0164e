"""Planned dose and surviving clonogens, against worked numbers, closed forms and conservation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from hypoxnet.errors import ConfigError
from hypoxnet.geometry import Grid
from hypoxnet.phantom.parameters.base import described
from hypoxnet.phantom.parameters.treatment import FollowUp, Treatment
from hypoxnet.phantom.treatment import (
    control_probability,
    course_shares,
    eqd2_gy,
    log_survival,
    oxygen_modification,
    planned_dose,
    repopulation,
    surviving_clonogens,
    viable_share,
)
from hypoxnet.phantom.words import Anatomy, Oxygenation, Tissue

# Without repopulation and with every cell alive, as the worked numbers have it; one oxygenation for the whole course.
PLAIN = {"repopulation_start_days": 1000.0, "viable_half_mmhg": 0.0, "oxygenation_weeks": (0.0,)}
OXIC = 1e9


def block(voxels: int, *, voxel_ml: float = 1.0, tumour: slice = slice(None)) -> Anatomy:
    """A row of voxels, some of them tumour."""
    side = (voxel_ml * 1000.0) ** (1 / 3)
    grid = Grid.from_affine((voxels, 1, 1), np.diag([side, side, side, 1.0]))
    primary = torch.zeros(voxels, 1, 1, dtype=torch.bool)
    primary[tumour] = True
    tissue = torch.full((voxels, 1, 1), int(Tissue.MUSCLE), dtype=torch.uint8)
    nowhere = torch.zeros_like(primary)
    return Anatomy(
        grid, tissue, primary, nowhere.to(torch.uint8), nowhere, nowhere, torch.zeros(voxels, 1, 1), "larynx"
    )


def uniform(po2: float, anatomy: Anatomy, nodes: int = 4) -> Oxygenation:
    """The same pO2 everywhere."""
    mean = torch.full(anatomy.primary.shape, po2)
    return Oxygenation(mean, mean.expand(nodes, *mean.shape))


def survivors_of(
    po2: float, gy: float, *, ml: float = 1.0, per_ml: float = 1e7, alpha: float = 0.3, **changes
) -> float:
    """Expected survivors of a uniform tumour."""
    anatomy = block(1, voxel_ml=ml)
    dose = torch.full((1, 1, 1), gy)
    treatment = Treatment(**{**PLAIN, **changes})
    oxygen = [uniform(po2, anatomy)] * len(treatment.oxygenation_weeks)
    left = surviving_clonogens(
        oxygen, torch.ones(1, 1, 1), dose, anatomy, treatment, alpha_per_gy=alpha, clonogens_per_ml=per_ml
    )
    return float(left.sum())


def test_oxygen_enhancement_has_the_worked_numbers():
    po2 = torch.tensor([0.0, 0.5, 1.0, 2.5, 3.0, 5.0, 10.0, 20.0, 40.0, 60.0], dtype=torch.float64)
    expected = [1.0, 1.2857, 1.5, 1.9091, 2.0, 2.25, 2.5385, 2.7391, 2.8605, 2.9048]
    assert (3.0 * oxygen_modification(po2, Treatment())).tolist() == pytest.approx(expected, abs=5e-5)


def test_dose_of_seventy_gray_kills_twenty_five_logs():
    killed = log_survival(torch.tensor([OXIC]), torch.tensor([70.0]), Treatment(), alpha_per_gy=0.3)
    assert float(killed) == pytest.approx(-25.2, abs=1e-4)


@pytest.mark.parametrize(("ml", "control"), [(1.0, 0.99989), (10.0, 0.99886), (30.0, 0.99659)])
def test_oxic_control_falls_with_volume_as_computed(ml, control):
    assert math.exp(-survivors_of(OXIC, 70.0, ml=ml)) == pytest.approx(control, abs=5e-6)


@pytest.mark.parametrize(
    ("po2", "at_70", "at_77", "tolerance"),
    [(1.0, 0.0, 2e-12, 1e-12), (2.5, 0.057, 0.590, 5e-4), (5.0, 0.873, 0.983, 5e-4), (10.0, 0.9906, 0.9991, 5e-5)],
)
def test_boost_raises_the_control_of_a_hypoxic_millilitre_as_computed(po2, at_70, at_77, tolerance):
    assert math.exp(-survivors_of(po2, 70.0)) == pytest.approx(at_70, abs=tolerance)
    assert math.exp(-survivors_of(po2, 77.0)) == pytest.approx(at_77, abs=tolerance)


@pytest.mark.parametrize(("cells", "d50"), [(1e7, 48.29), (1e8, 54.22)])
def test_half_of_the_tumours_are_controlled_at_the_computed_dose(cells, d50):
    assert math.exp(-survivors_of(OXIC, d50, per_ml=cells)) == pytest.approx(0.5, abs=2e-3)


def test_dose_of_110_gray_at_2_5_mmhg_does_what_70_does_in_full_oxygen():
    assert survivors_of(2.5, 110.0) == pytest.approx(survivors_of(OXIC, 70.0), rel=1e-3)


@pytest.mark.parametrize(("gy", "equivalent"), [(70.0, 70.0), (77.0, 78.28), (80.5, 82.51)])
def test_equivalent_dose_in_two_gray_fractions(gy, equivalent):
    assert eqd2_gy(gy, Treatment()) == pytest.approx(equivalent, abs=0.005)


def test_repopulation_multiplies_the_survivors():
    growing = survivors_of(OXIC, 70.0, repopulation_start_days=28.0, repopulation_doubling_days=3.0)
    assert growing / survivors_of(OXIC, 70.0) == pytest.approx(2.0 ** (18.0 / 3.0), rel=1e-6)
    assert repopulation(Treatment(fractions_per_week=6)) < repopulation(Treatment())


def test_sensitiser_spares_the_oxic_and_reaches_the_anoxic():
    assert survivors_of(OXIC, 70.0, sensitiser_ratio=1.3) == pytest.approx(survivors_of(OXIC, 70.0), rel=1e-6)
    # In anoxia dose counts 1/3 without and 1.3/3 with it.
    assert survivors_of(0.0, 70.0, sensitiser_ratio=1.3) == pytest.approx(
        survivors_of(OXIC, 70.0 * 1.3 / 3.0), rel=1e-3
    )
    assert survivors_of(1.0, 70.0, sensitiser_ratio=1.3) < survivors_of(1.0, 70.0)


def test_survivors_are_summed_over_nodes_not_doses_averaged():
    anatomy = block(1)
    nodes = torch.tensor([1.0, 40.0])[:, None, None, None]
    left = surviving_clonogens(
        [Oxygenation(nodes.mean(dim=0), nodes)],
        torch.ones(1, 1, 1),
        torch.full((1, 1, 1), 70.0),
        anatomy,
        Treatment(**PLAIN),
        alpha_per_gy=0.3,
        clonogens_per_ml=1e7,
    )
    assert float(left) == pytest.approx(0.5 * (survivors_of(1.0, 70.0) + survivors_of(40.0, 70.0)), rel=1e-5)
    assert float(left) > 1e3 * survivors_of(20.5, 70.0)


def test_each_oxygenation_governs_its_share_of_the_fractions():
    anatomy = block(1)
    treatment = Treatment(**{**PLAIN, "oxygenation_weeks": (0.0, 2.0, 5.0)})
    pressures = (1.0, 5.0, 30.0)
    left = surviving_clonogens(
        [uniform(p, anatomy) for p in pressures],
        torch.ones(1, 1, 1),
        torch.full((1, 1, 1), 70.0),
        anatomy,
        treatment,
        alpha_per_gy=0.3,
        clonogens_per_ml=1e7,
    )
    fraction = [math.log(survivors_of(p, 70.0) / 1e7) / 35 for p in pressures]
    days = [7 * (n // 5) + n % 5 for n in range(35)]
    expected = sum(float(np.interp(day / 7.0, (0.0, 2.0, 5.0), fraction)) for day in days)
    assert math.log(float(left) / 1e7) == pytest.approx(expected, rel=1e-5)


@given(
    weeks=st.lists(st.floats(0.0, 9.0), min_size=1, max_size=5, unique_by=lambda w: round(w, 1)),
    per_week=st.integers(1, 7),
    fractions=st.integers(1, 45),
)
def test_shares_of_the_course_add_up_to_one(weeks, per_week, fractions):
    treatment = Treatment(oxygenation_weeks=tuple(sorted(weeks)), fractions_per_week=per_week, fractions=fractions)
    shares = course_shares(treatment)
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) >= 0.0


def test_clonogens_live_only_where_cells_do():
    anatomy = block(4, voxel_ml=0.5, tumour=slice(1, 4))
    viable = torch.tensor([1.0, 1.0, 0.25, 0.0])[:, None, None]
    treatment = Treatment(**{**PLAIN, "viable_half_mmhg": 1.2})
    nodes = torch.tensor([0.0, 1.2])[:, None, None, None].expand(2, 4, 1, 1)
    left = surviving_clonogens(
        [Oxygenation(nodes.mean(dim=0), nodes)],
        viable,
        torch.zeros(4, 1, 1),
        anatomy,
        treatment,
        alpha_per_gy=0.3,
        clonogens_per_ml=1e7,
    )
    # Half a millilitre each; half of the nodes are dead, half of the cells of the other half.
    assert left[:, 0, 0].tolist() == pytest.approx([0.0, 1.25e6, 0.3125e6, 0.0])
    assert float(viable_share(torch.tensor(0.0), Treatment())) == 0.0


def test_number_of_survivors_does_not_depend_on_the_grid():
    coarse, fine = block(1, voxel_ml=8.0), block(64, voxel_ml=0.125)
    totals = []
    for anatomy in (coarse, fine):
        shape = anatomy.primary.shape
        left = surviving_clonogens(
            [uniform(4.0, anatomy)] * 3,
            torch.ones(shape),
            torch.full(shape, 70.0),
            anatomy,
            Treatment(),
            alpha_per_gy=0.3,
            clonogens_per_ml=1e7,
        )
        assert left.dtype == torch.float64
        totals.append(float(left.sum()))
        assert control_probability(left) == pytest.approx(math.exp(-totals[-1]))
    assert totals[0] == pytest.approx(totals[1], rel=1e-6)


@given(po2=st.floats(0.0, 60.0), gy=st.floats(40.0, 80.0), more=st.floats(0.1, 10.0))
@settings(max_examples=50)
def test_more_dose_or_more_oxygen_never_leaves_more_survivors(po2, gy, more):
    here = survivors_of(po2, gy)
    assert survivors_of(po2, gy + more) < here
    assert survivors_of(po2 + more, gy) <= here


# A slab of vessels far from a spherical tumour, in a cube of muscle with a rim outside the patient.
@pytest.fixture(scope="module")
def head() -> Anatomy:
    n, spacing = 40, 3.0
    axis = (torch.arange(n) - (n - 1) / 2) * spacing
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    tissue = torch.full((n, n, n), int(Tissue.MUSCLE), dtype=torch.uint8)
    tissue[x.abs() > 54.0] = Tissue.OUTSIDE
    tissue[(y + 45.0).abs() < 3.0] = Tissue.VEIN
    primary = (x**2 + y**2 + z**2).sqrt() <= 14.0
    nodes = ((x - 30.0) ** 2 + y**2 + z**2).sqrt() <= 7.0
    grid = Grid.from_affine((n, n, n), np.diag([spacing] * 3 + [1.0]))
    nowhere = torch.zeros_like(primary)
    return Anatomy(grid, tissue, primary, nodes.to(torch.uint8), nowhere, nowhere, torch.zeros(n, n, n), "larynx")


def radius_mm(head: Anatomy) -> torch.Tensor:
    axis = (torch.arange(40) - 19.5) * 3.0
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (x**2 + y**2 + z**2).sqrt()


def test_means_over_targets_are_the_prescriptions(head):
    boost = radius_mm(head) <= 8.0
    plain = planned_dose(head, Treatment(), None)
    boosted = planned_dose(head, Treatment(), boost)
    assert float(plain[head.tumour].mean()) == pytest.approx(70.0, abs=1e-3)
    assert float(boosted[boost].mean()) == pytest.approx(77.0, abs=1e-3)
    assert bool((boosted >= plain).all())
    assert bool((plain[head.tissue == Tissue.OUTSIDE] == 0).all())
    assert torch.equal(planned_dose(head, Treatment(), torch.zeros_like(boost)), plain)


def test_targets_receive_between_95_and_107_per_cent(head):
    boosted = planned_dose(head, Treatment(), radius_mm(head) <= 9.0)
    plain = planned_dose(head, Treatment(), None)
    inside = plain[head.tumour]
    assert float(inside.min()) > 0.95 * 70.0
    assert float(plain.max()) < 1.07 * 70.0
    assert float(boosted.max()) < 1.07 * 77.0
    # The vein is far from the tumour: the elective neck alone.
    vein = (head.tissue == Tissue.VEIN)[8:-8, :, 8:-8]
    assert float(plain[8:-8, :, 8:-8][vein].mean()) == pytest.approx(56.0, rel=0.05)


def test_fall_off_of_a_plane_is_the_error_function():
    n = 60
    shape = (n, 8, 8)
    grid = Grid.from_affine(shape, np.diag([2.0, 2.0, 2.0, 1.0]))
    primary = torch.zeros(shape, dtype=torch.bool)
    primary[:20] = True
    tissue = torch.full(shape, int(Tissue.MUSCLE), dtype=torch.uint8)
    nowhere = torch.zeros_like(primary)
    anatomy = Anatomy(grid, tissue, primary, nowhere.to(torch.uint8), nowhere, nowhere, torch.zeros(shape), "larynx")
    treatment = Treatment(elective_gy=0.0, target_margin_mm=10.0)
    dose = planned_dose(anatomy, treatment, None)[:, 4, 4].double().numpy()
    # Aperture: 10 mm and 1.645 sigma beyond the last voxel at 38 mm, to the nearest voxel face.
    edge = 39.0 + 2.0 * math.floor((10.0 + 1.6449 * 8.0) / 2.0)
    expected = 70.0 * ndtr((edge - 2.0 * np.arange(n)) / 8.0)
    assert dose == pytest.approx(expected, abs=0.15)
    at_margin = np.interp(48.0, 2.0 * np.arange(n), dose)
    assert at_margin >= 0.94 * 70.0


def test_real_plan_is_kept_and_boosted(head):
    plan = torch.full(head.primary.shape, 68.0)
    real = Anatomy(
        head.grid,
        head.tissue,
        head.primary,
        head.nodes,
        head.muscle_reference,
        head.blood_reference,
        head.depth_mm,
        head.subsite,
        dose_gy=plan,
    )
    assert torch.equal(planned_dose(real, Treatment(), None), plan)
    boost = radius_mm(head) <= 6.0
    assert float(planned_dose(real, Treatment(), boost)[boost].mean()) == pytest.approx(77.0, abs=1e-3)


def test_nothing_to_prescribe_to_is_refused():
    with pytest.raises(ConfigError, match="0 voxels of tumour"):
        planned_dose(block(3, tumour=slice(0, 0)), Treatment(), None)


def test_wrong_number_of_oxygenations_is_refused():
    anatomy = block(1)
    with pytest.raises(ConfigError, match="2 oxygenations are given, oxygenation_weeks"):
        surviving_clonogens(
            [uniform(5.0, anatomy)] * 2,
            torch.ones(1, 1, 1),
            torch.full((1, 1, 1), 70.0),
            anatomy,
            Treatment(),
            alpha_per_gy=0.3,
            clonogens_per_ml=1e7,
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dose_gy": 0.0}, "dose_gy=0 "),
        ({"fractions": 0}, "fractions=0 "),
        ({"oer_half_mmhg": -1.0}, "oer_half_mmhg=-1 "),
        ({"sensitiser_ratio": 2.9, "oer_max": 2.5}, "sensitiser_ratio=2.9"),
        ({"dose_gy": 80.0}, "dose_gy=80"),
        ({"oxygenation_weeks": (0.0, 5.0, 2.0)}, "oxygenation_weeks"),
        ({"oxygenation_weeks": ()}, "oxygenation_weeks"),
        ({"alpha_beta_gy": float("nan")}, "alpha_beta_gy=nan"),
    ],
)
def test_bad_treatment_is_refused_by_name(changes, said):
    with pytest.raises(ConfigError, match=said):
        Treatment(**changes)


@pytest.mark.parametrize("parameters", [Treatment(), FollowUp()])
def test_every_number_has_unit_meaning_and_source(parameters):
    for one in described(parameters):
        assert one.unit
        assert one.meaning
        assert len(one.source) > 5
