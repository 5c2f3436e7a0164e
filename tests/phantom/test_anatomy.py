import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from hypoxnet.errors import ConfigError
from hypoxnet.geometry import Grid
from hypoxnet.phantom.anatomy import ct_hu, make_anatomy
from hypoxnet.phantom.fields import averaged, centred_grid
from hypoxnet.phantom.neck import draw_build, frame_of, median_build, normal_tissue
from hypoxnet.phantom.parameters.anatomy import SUBSITES, CtNumbers, Neck
from hypoxnet.phantom.tumours import BOTH_SIDES_MM
from hypoxnet.phantom.words import Tissue

SMALL, MIDDLE, LARGE = ((72.0, 3.0), (96.0, 3.0), (144.0, 3.0))
HARD = (Tissue.BONE, Tissue.AIRWAY, Tissue.ARTERY, Tissue.VEIN, Tissue.CORD, Tissue.OUTSIDE)


def cube(extent, spacing):
    return centred_grid((extent,) * 3, (spacing,) * 3)


def make(size, subsite, seed, *, neck=None, hpv=False):
    generator = np.random.default_rng([seed, SUBSITES.index(subsite)])
    return make_anatomy(neck or Neck(), cube(*size), hpv=hpv, subsite=subsite, generator=generator)


def ml(anatomy, mask):
    return float(mask.sum()) * anatomy.grid.voxel_ml


def points_mm(anatomy, mask):
    matrix = anatomy.grid.matrix
    return np.argwhere(mask.numpy()) @ matrix[:3, :3].T + matrix[:3, 3]


def with_volume(primary_ml, node_ml=None):
    return Neck(
        primary_median_ml=(primary_ml,) * 4,
        primary_spread=(0.0,) * 4,
        node_median_ml=node_ml or 4.5,
        node_spread=0.0,
    )


@pytest.fixture(scope="module")
def median():
    """The median neck at 1 mm, without anything drawn."""
    neck, grid = Neck(), cube(160.0, 1.0)
    frame = frame_of(grid, (0.0, -5.0, 0.0), 1.0)
    return frame, normal_tissue(frame, neck, median_build(neck)), neck


def section_mm2(frame, normal, level, *codes):
    """Area of tissues in the axial plane nearest to a level, right and left of the midline."""
    plane = normal.tissue[:, :, int(np.argmin(np.abs(frame.z - level)))]
    there = torch.isin(plane, torch.tensor(codes, dtype=torch.uint8)).sum(dim=1)
    return float(there[frame.x.ravel() > 0].sum()), float(there[frame.x.ravel() < 0].sum())


@pytest.mark.parametrize(
    ("codes", "level", "expected"),
    [
        ((Tissue.CORD,), 5.0, math.pi / 4 * 14.0 * 8.7),
        ((Tissue.AIRWAY,), -33.0, math.pi / 4 * 1.0963 * 11.3 * 19.155),
        ((Tissue.AIRWAY,), -60.0, math.pi / 4 * 16.5 * 17.2),
        ((Tissue.ARTERY,), -45.0, 2 * math.pi / 4 * 6.3**2),
    ],
)
def test_sections_are_those_of_the_sources(median, codes, level, expected):
    frame, normal, _ = median
    assert sum(section_mm2(frame, normal, level, *codes)) == pytest.approx(expected, rel=0.05)


def test_girth_of_the_neck_is_that_of_the_source(median):
    frame, normal, neck = median
    inside = tuple(t for t in Tissue if t != Tissue.OUTSIDE)
    radius = math.sqrt(sum(section_mm2(frame, normal, -38.0, *inside)) / math.pi)
    assert 2 * math.pi * radius == pytest.approx(neck.circumference_mm, rel=0.02)


def test_right_jugular_vein_is_larger_as_published(median):
    frame, normal, neck = median
    right, left = section_mm2(frame, normal, -10.0, Tissue.VEIN)
    assert right == pytest.approx(neck.jugular_area_mm2, rel=0.05)
    assert left == pytest.approx(0.82 * right, rel=0.05)


def test_glands_have_the_volumes_of_the_sources(median):
    frame, normal, neck = median
    gland = (normal.tissue == Tissue.GLAND) & (frame.x > 0)
    lower = gland & (torch.from_numpy(frame.z) < 32) & (frame.y > 12)
    upper = gland & ~lower
    # Jaw, vessels and skin take a little of them.
    assert 0.9 * neck.submandibular_ml < float(lower.sum()) / 1000 <= neck.submandibular_ml + 0.1
    assert 0.85 * neck.parotid_ml < float(upper.sum()) / 1000 <= neck.parotid_ml + 0.1


def test_neck_is_a_mirror_image_of_itself_but_for_the_veins(median):
    _, normal, _ = median
    vein = normal.tissue == Tissue.VEIN
    other = normal.tissue.masked_fill(vein | vein.flip(0), 0)
    assert torch.equal(other, other.flip(0))


def test_distance_to_the_wall_is_the_radius_on_the_axis_of_an_artery(median):
    frame, normal, neck = median
    plane = int(np.argmin(np.abs(frame.z + 45.0)))
    artery = normal.tissue[:, :, plane] == Tissue.ARTERY
    deepest = float(normal.lumen_mm[:, :, plane][artery].max())
    assert neck.common_carotid_mm / 2 - 0.8 < deepest <= neck.common_carotid_mm / 2
    assert bool((normal.lumen_mm[:, :, plane][artery] > 0).all())


def test_order_of_structures_from_back_to_front_and_from_below_upwards():
    anatomy = make(LARGE, "oropharynx", 3, neck=with_volume(2.0))
    mean = {t: points_mm(anatomy, anatomy.is_a(t)).mean(axis=0) for t in Tissue}
    assert mean[Tissue.CORD][1] < mean[Tissue.VEIN][1] < mean[Tissue.AIRWAY][1]
    assert mean[Tissue.GLAND][2] > mean[Tissue.AIRWAY][2]
    # The vein lies lateral to the artery.
    lateral = [np.abs(points_mm(anatomy, anatomy.is_a(t))[:, 0]).mean() for t in (Tissue.ARTERY, Tissue.VEIN)]
    assert lateral[0] < lateral[1]


def test_builds_spread_as_the_parameters_say():
    neck, generator = Neck(), np.random.default_rng(5)
    builds = [draw_build(neck, generator) for _ in range(4000)]
    log_size = np.log([b.size for b in builds])
    # Draws beyond 2.5 standard deviations are set to that, which takes 1 % of the spread.
    assert log_size.std() == pytest.approx(neck.size_spread, rel=0.05)
    assert np.median([b.jugular[1] / b.jugular[0] for b in builds]) == pytest.approx(neck.jugular_left, rel=0.03)


@pytest.mark.parametrize("subsite", SUBSITES)
@pytest.mark.parametrize(("size", "wanted"), [(MIDDLE, 5.0), (LARGE, 25.0), (LARGE, 0.6)])
def test_volume_drawn_is_reached_to_one_percent_or_one_voxel(subsite, size, wanted):
    for seed in range(3):
        anatomy = make(size, subsite, seed, neck=with_volume(wanted, 2.0))
        voxel = anatomy.grid.voxel_ml
        assert ml(anatomy, anatomy.primary) == pytest.approx(wanted, abs=max(0.01 * wanted, voxel))
        for number in range(1, int(anatomy.nodes.max()) + 1):
            assert ml(anatomy, anatomy.nodes == number) == pytest.approx(2.0, abs=max(0.02, voxel))


def test_a_small_cube_cuts_a_large_tumour_to_its_share():
    anatomy = make(SMALL, "oropharynx", 2, neck=with_volume(100.0))
    share = Neck().largest_share * anatomy.primary.numel() * anatomy.grid.voxel_ml
    assert 0.5 * share < ml(anatomy, anatomy.primary) <= share + anatomy.grid.voxel_ml
    rim = math.ceil(Neck().margin_mm / 3.0)
    middle = torch.zeros_like(anatomy.primary)
    middle[rim:-rim, rim:-rim, rim:-rim] = True
    assert not bool((anatomy.tumour & ~middle).any())


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_every_tumour_is_one_piece_and_apart_from_the_others(size):
    for seed in range(6):
        anatomy = make(size, "oropharynx", seed, hpv=True)
        masks = [anatomy.primary, *(anatomy.nodes == n for n in range(1, int(anatomy.nodes.max()) + 1))]
        assert all(bool(mask.any()) and ndimage.label(mask.numpy())[1] == 1 for mask in masks)
        assert ndimage.label(anatomy.tumour.numpy(), structure=np.ones((3, 3, 3)))[1] == len(masks)
        assert torch.equal(anatomy.is_a(Tissue.TUMOUR), anatomy.primary)
        assert torch.equal(anatomy.is_a(Tissue.NODE), anatomy.nodes > 0)
        assert not bool((anatomy.primary & (anatomy.nodes > 0)).any())


@pytest.mark.parametrize("subsite", SUBSITES)
def test_a_large_tumour_leaves_bone_airway_vessels_and_cord_as_they_are(subsite):
    for seed in range(2):
        small, large = (make(LARGE, subsite, seed, neck=with_volume(v, 12.0)) for v in (0.5, 70.0))
        assert ml(large, large.primary) > 60.0
        for tissue in HARD:
            assert torch.equal(small.is_a(tissue), large.is_a(tissue))


def test_a_tumour_follows_its_neighbours_and_is_no_ball():
    smooth, lobed = (
        make(LARGE, "oropharynx", 1, neck=replace(with_volume(20.0), lobes=lobes, axes_spread=0.0))
        for lobes in (0.0, 0.2)
    )
    surfaces = [int((ndimage.binary_dilation(a.primary.numpy()) & ~a.primary.numpy()).sum()) for a in (smooth, lobed)]
    assert surfaces[1] > surfaces[0]


def test_references_exist_in_every_small_cube_and_keep_their_distance():
    for seed in range(25):
        for subsite in SUBSITES:
            anatomy = make(SMALL, subsite, seed, hpv=seed % 2 == 0)
            assert 0.5 < ml(anatomy, anatomy.muscle_reference) < 6.0
            assert ml(anatomy, anatomy.blood_reference) > 0.2
            tumour = cKDTree(points_mm(anatomy, anatomy.tumour))
            assert tumour.query(points_mm(anatomy, anatomy.muscle_reference))[0].min() >= 10.0 - 1e-9
            assert bool(anatomy.is_a(Tissue.MUSCLE)[anatomy.muscle_reference].all())
            assert bool(anatomy.is_a(Tissue.ARTERY, Tissue.VEIN)[anatomy.blood_reference].all())


@pytest.mark.parametrize("size", [MIDDLE, LARGE])
def test_references_have_their_size_in_larger_cubes_and_survive_the_voxels_of_pet(size):
    for seed in range(3):
        anatomy = make(size, "hypopharynx", seed)
        assert 3.0 < ml(anatomy, anatomy.muscle_reference) < 6.0
        coarse = cube(size[0], 4.0)
        for mask in (anatomy.muscle_reference, anatomy.blood_reference):
            assert int((averaged(mask, anatomy.grid, coarse) >= 0.5).sum()) > 5


def test_reference_blood_keeps_its_distance_from_the_wall():
    anatomy = make((84.0, 1.5), "larynx", 4, neck=replace(Neck(), blood_erosion_mm=2.0))
    vessel = anatomy.is_a(Tissue.ARTERY, Tissue.VEIN).numpy()
    # At 2 mm from the wall, the neighbours in the axial plane, 1.5 mm away, are inside too.
    cross = np.array([[[0], [1], [0]], [[1], [1], [1]], [[0], [1], [0]]])
    blood = anatomy.blood_reference.numpy()
    assert blood.sum() > 100
    assert ndimage.binary_erosion(vessel, structure=cross, border_value=1)[blood].all()


@pytest.mark.parametrize("size", [(72.0, 2.25), MIDDLE, LARGE, (192.0, 4.0)])
@pytest.mark.parametrize("subsite", SUBSITES)
def test_every_cube_holds_airway_spine_vessels_and_tumour(size, subsite):
    anatomy = make(size, subsite, 8)
    for tissue in (Tissue.AIRWAY, Tissue.BONE, Tissue.ARTERY, Tissue.VEIN, Tissue.MUSCLE, Tissue.SOFT, Tissue.TUMOUR):
        assert bool(anatomy.is_a(tissue).any())
    # Only a cube wider than the neck has air round it on every seed.
    assert size[0] < BOTH_SIDES_MM or bool(anatomy.is_a(Tissue.OUTSIDE).any())


@pytest.mark.parametrize("subsite", SUBSITES)
def test_primary_touches_the_place_it_is_named_after(subsite):
    for seed in range(4):
        anatomy = make(LARGE, subsite, seed, neck=with_volume(8.0))
        air = cKDTree(points_mm(anatomy, anatomy.is_a(Tissue.AIRWAY)))
        nearest = air.query(points_mm(anatomy, anatomy.primary))[0].min()
        # An oral tumour lies in the tongue, off the pharynx.
        assert nearest <= (20.0 if subsite == "oral cavity" else 6.0)


def test_both_sides_are_equally_often_ill():
    right = [points_mm(a, a.primary)[:, 0].mean() > 0 for a in (make((72.0, 4.0), "hypopharynx", s) for s in range(60))]
    # In a small cube the tumour is not in the middle, the midline is on the other side of it.
    assert 18 <= sum(right) <= 42


def test_depth_covers_primary_and_nodes():
    anatomy = make(LARGE, "oropharynx", 2, hpv=True)
    assert int(anatomy.nodes.max()) >= 1
    assert torch.equal(anatomy.depth_mm > 0, anatomy.tumour)


def test_same_stream_gives_the_same_anatomy_and_another_seed_another():
    one, same, other = (make(SMALL, "larynx", seed) for seed in (1, 1, 2))
    for name in ("tissue", "nodes", "depth_mm", "muscle_reference", "blood_reference"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    assert not torch.equal(one.tissue, other.tissue)


def test_ct_numbers_are_those_of_the_tissues():
    anatomy = make(LARGE, "oropharynx", 6)
    numbers = CtNumbers()
    hounsfield = ct_hu(anatomy, np.random.default_rng(0))
    expected = {
        Tissue.FAT: numbers.fat_hu,
        Tissue.MUSCLE: numbers.muscle_hu,
        Tissue.BONE: numbers.bone_hu,
        Tissue.AIRWAY: numbers.air_hu,
        Tissue.TUMOUR: numbers.tumour_hu,
    }
    for tissue, mean in expected.items():
        inside = hounsfield[anatomy.is_a(tissue)]
        assert float(inside.mean()) == pytest.approx(mean, abs=0.05 * abs(mean) + 3.0)
    assert float(hounsfield[anatomy.is_a(Tissue.FAT)].std()) == pytest.approx(numbers.fat_sd_hu, rel=0.1)
    assert hounsfield.dtype == torch.float32
    assert float(hounsfield.min()) >= -1024.0
    assert float(hounsfield.max()) <= 3071.0


def test_unknown_subsites_and_unfit_grids_are_refused_by_name():
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match=r"nose.*oropharynx, hypopharynx, larynx, oral cavity"):
        make_anatomy(Neck(), cube(*SMALL), hpv=False, subsite="nose", generator=rng)
    with pytest.raises(ConfigError, match=r"48 x 48 x 48 mm.*extent_mm"):
        make_anatomy(Neck(), cube(48.0, 3.0), hpv=False, subsite="larynx", generator=rng)
    flipped = centred_grid((96.0,) * 3, (3.0,) * 3, flipped=True)
    with pytest.raises(ConfigError, match="RAS"):
        make_anatomy(Neck(), flipped, hpv=False, subsite="larynx", generator=rng)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"volume_correlation": 1.5}, "volume_correlation=1.5"),
        ({"circumference_mm": 100.0}, "circumference_mm=100"),
        ({"lobes": float("nan")}, "lobes"),
        ({"primary_median_ml": (1.0, 2.0)}, "primary_median_ml.*2 values for 4"),
        ({"disc_mm": 8.0, "vertebra_pitch_mm": 14.0}, "disc_mm=8.*vertebra_pitch_mm=14"),
        ({"internal_carotid_mm": 8.0}, "internal_carotid_mm=8.*carotid_bulb_mm=7.6"),
    ],
)
def test_impossible_parameters_are_refused_by_name(bad, named):
    with pytest.raises(ConfigError, match=named):
        Neck(**bad)


def test_a_ct_number_out_of_range_is_refused_by_name():
    with pytest.raises(ConfigError, match="fat_hu=20"):
        CtNumbers(fat_hu=20.0)


def test_the_grid_of_an_anatomy_is_the_one_that_was_asked_for():
    grid = cube(*MIDDLE)
    anatomy = make_anatomy(Neck(), grid, hpv=True, subsite="oropharynx", generator=np.random.default_rng(3))
    assert isinstance(anatomy.grid, Grid)
    assert anatomy.grid.same_as(grid)
    assert anatomy.tissue.dtype == anatomy.nodes.dtype == torch.uint8
    for tensor in (anatomy.tissue, anatomy.primary, anatomy.nodes, anatomy.muscle_reference, anatomy.depth_mm):
        assert tuple(tensor.shape) == grid.shape
