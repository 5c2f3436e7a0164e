import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import cKDTree

from hypoxnet.errors import ConfigError
from hypoxnet.geometry import Grid
from hypoxnet.phantom.anatomy import ct_hu, make_anatomy
from hypoxnet.phantom.fields import averaged, centred_grid
from hypoxnet.phantom.neck import GLOTTIS, airway, draw_build, frame_of, jugular, median_build, normal_tissue
from hypoxnet.phantom.open_kbp import read_open_kbp
from hypoxnet.phantom.parameters.anatomy import SUBSITES, CtNumbers, Neck
from hypoxnet.phantom.tumours import (
    BOTH_SIDES_MM,
    Lesion,
    Volumes,
    depth_mm,
    draw_volumes,
    grown,
    node_lesions,
    primary_place,
)
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
@pytest.mark.parametrize("hpv", [False, True])
def test_volumes_are_log_normal_with_the_moments_of_the_parameters(subsite, hpv):
    neck, generator = replace(Neck(), largest_ml=400.0), np.random.default_rng(11)
    log = np.log([draw_volumes(neck, hpv=hpv, subsite=subsite, generator=generator).primary_ml for _ in range(6000)])
    place = SUBSITES.index(subsite)
    median_ml = neck.primary_median_ml[place] * (neck.hpv_primary if hpv else 1.0)
    assert log.mean() == pytest.approx(math.log(median_ml), abs=4 * neck.primary_spread[place] / math.sqrt(6000))
    assert log.std() == pytest.approx(neck.primary_spread[place], rel=0.04)
    standard = (log - log.mean()) / log.std()
    assert abs((standard**3).mean()) < 0.12
    assert (standard**4).mean() == pytest.approx(3.0, abs=0.25)


def test_volumes_of_primary_and_nodes_correlate_as_asked():
    neck, generator = Neck(), np.random.default_rng(13)
    drawn = [draw_volumes(neck, hpv=True, subsite="oropharynx", generator=generator) for _ in range(8000)]
    pairs = np.log([(d.primary_ml, d.nodes_ml[0]) for d in drawn if d.nodes_ml])
    assert np.corrcoef(pairs.T)[0, 1] == pytest.approx(neck.volume_correlation, abs=0.03)
    assert np.exp(np.median(pairs[:, 1])) == pytest.approx(neck.hpv_node_median_ml, rel=0.05)


@pytest.mark.parametrize(("hpv", "mean"), [(False, 1.17), (True, 2.2)])
def test_number_of_nodes_is_poisson_cut_at_three(hpv, mean):
    generator = np.random.default_rng(17)
    count = [
        len(draw_volumes(Neck(), hpv=hpv, subsite="oropharynx", generator=generator).nodes_ml) for _ in range(6000)
    ]
    share = np.bincount(count, minlength=4) / 6000
    poisson = [math.exp(-mean) * mean**k / math.factorial(k) for k in range(3)]
    assert share == pytest.approx([*poisson, 1 - sum(poisson)], abs=0.025)


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
    assert bool((anatomy.tissue == Tissue.OUTSIDE).any()) == (size[0] > BOTH_SIDES_MM) or size[0] < BOTH_SIDES_MM


@pytest.mark.parametrize("subsite", SUBSITES)
def test_primary_touches_the_place_it_is_named_after(subsite):
    for seed in range(4):
        anatomy = make(LARGE, subsite, seed, neck=with_volume(8.0))
        air = cKDTree(points_mm(anatomy, anatomy.is_a(Tissue.AIRWAY)))
        nearest = air.query(points_mm(anatomy, anatomy.primary))[0].min()
        # An oral tumour lies in the tongue, off the pharynx.
        assert nearest <= (20.0 if subsite == "oral cavity" else 6.0)


def test_levels_of_the_primaries_follow_the_anatomy():
    neck, generator = Neck(), np.random.default_rng(19)
    build = median_build(neck)
    place = {
        name: np.array([primary_place(neck, build, subsite=name, side=1, generator=generator) for _ in range(400)])
        for name in SUBSITES
    }
    level = {name: at[:, 2].mean() for name, at in place.items()}
    assert level["larynx"] == pytest.approx(GLOTTIS + 3, abs=1.0)
    assert max(level["larynx"], level["hypopharynx"]) < 0 < level["oropharynx"] < level["oral cavity"]
    # Piriform sinus behind the glottis, oral tongue in front of everything.
    assert place["hypopharynx"][:, 1].mean() < place["larynx"][:, 1].mean() < place["oral cavity"][:, 1].mean()
    in_front = place["oropharynx"][:, 1] > airway(neck, build).at(12.0)[1] + 8.0
    assert in_front.mean() == pytest.approx(neck.base_of_tongue, abs=0.08)


def test_both_sides_are_equally_often_ill():
    right = [points_mm(a, a.primary)[:, 0].mean() > 0 for a in (make((72.0, 4.0), "hypopharynx", s) for s in range(60))]
    # In a small cube the tumour is not in the middle, the midline is on the other side of it.
    assert 18 <= sum(right) <= 42


def test_nodes_lie_beside_the_jugular_vein_of_their_side():
    neck, generator = Neck(), np.random.default_rng(23)
    build = median_build(neck)
    frame = frame_of(cube(*LARGE), (0.0, 0.0, -5.0), 1.0)
    primary, volumes = Lesion((16.0, 8.0, 25.0), 1.0), Volumes(1.0, (1.0,))
    nodes = [node_lesions(volumes, primary, frame, neck, build, generator)[0].place for _ in range(800)]
    for x, y, z in nodes:
        vein = jugular(neck, build, side=1 if x > 0 else -1).at(z)
        assert math.hypot(abs(x) - vein[0], y - vein[1]) < 15.0
    assert np.mean([x < 0 for x, _, _ in nodes]) == pytest.approx(neck.contralateral, abs=0.05)
    assert np.mean([z > 0 for _, _, z in nodes]) == pytest.approx(neck.level_two, abs=0.06)


@pytest.mark.parametrize("spacing", [1.5, 3.0])
def test_depth_in_a_ball_is_the_distance_to_its_surface(spacing):
    axis = np.arange(-15, 16) * spacing
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2)
    inside = radius < 18.0
    depth = depth_mm(inside, (spacing,) * 3).numpy()
    error = (depth[inside] - (18.0 - radius[inside])) / spacing
    assert np.abs(error).max() < 1.0
    # Near the surface it is right on average; in the middle it is 0.3 to 0.4 voxels short, as the docstring says.
    assert error[18.0 - radius[inside] < spacing].mean() == pytest.approx(0.0, abs=0.1)
    assert -0.45 < error[18.0 - radius[inside] > 9.0].mean() < -0.25
    assert (depth[~inside] == 0).all()


def test_depth_behind_a_flat_rim_is_exact_and_without_tumour_zero():
    slab = np.zeros((4, 30, 30), dtype=bool)
    slab[1:] = True
    assert depth_mm(slab, (2.0,) * 3)[:, 15, 15].tolist() == [0.0, 1.0, 3.0, 1.0]
    assert not depth_mm(np.zeros((3, 3, 3), dtype=bool), (1.0,) * 3).any()


def test_depth_covers_primary_and_nodes():
    anatomy = make(LARGE, "oropharynx", 2, hpv=True)
    assert int(anatomy.nodes.max()) >= 1
    assert torch.equal(anatomy.depth_mm > 0, anatomy.tumour)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 0.6), st.integers(1, 300))
def test_growth_reaches_the_wanted_size_in_one_piece_where_it_can(seed, share, wanted):
    generator = np.random.default_rng(seed)
    level = generator.random((7, 8, 9))
    level[generator.random(level.shape) < share] = np.inf
    found = grown(level, wanted)
    pockets, _ = ndimage.label(np.isfinite(level))
    sizes = np.bincount(pockets.ravel())[1:]
    reachable = sizes[pockets[np.unravel_index(np.argmin(level), level.shape)] - 1]
    assert found.sum() == min(wanted, reachable if reachable >= wanted else sizes.max())
    assert ndimage.label(found)[1] == 1
    assert np.isfinite(level[found]).all()


def test_growth_without_room_is_empty():
    assert not grown(np.full((3, 3, 3), np.inf), 5).any()


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


SHAPE = (128, 128, 128)


def write_table(path, index, values=None):
    values = [""] * len(index) if values is None else values
    path.write_text(",data\n" + "".join(f"{i},{v}\n" for i, v in zip(index, values, strict=True)), encoding="utf-8")


@pytest.fixture
def open_kbp(tmp_path):
    """A made-up patient in the format of OpenKBP: a cylinder with airway, cord, jaw, two parotids and two targets."""
    i, j, k = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")

    def ball(ci, cj, ck, radius):
        return (i - ci) ** 2 + (j - cj) ** 2 + (k - ck) ** 2 < radius**2

    def rod(ci, cj, radius):
        return (i - ci) ** 2 + (j - cj) ** 2 < radius**2

    part = (k >= 44) & (k < 88)
    stored = np.where(rod(64, 64, 16) & part, 1050.0, 0.0)
    stored[rod(64, 64, 16) & ~rod(64, 64, 14) & part] = 900.0
    stored[rod(60, 64, 2) & part] = 20.0
    stored[ball(52, 64, 60, 3)] = 1900.0
    structures = {
        "PTV70": ball(63, 56, 64, 6) | ball(64, 74, 66, 3),
        "SpinalCord": rod(70, 64, 1.5) & (k >= 46) & part,
        "LeftParotid": ball(64, 77, 54, 3),
        "RightParotid": ball(64, 51, 54, 3),
    }
    dose = np.where(structures["PTV70"], 70.0, 20.0) * (stored > 0)
    for name, values in (("ct", stored), ("dose", dose)):
        write_table(tmp_path / f"{name}.csv", np.flatnonzero(values), values[values > 0])
    for name, mask in structures.items():
        write_table(tmp_path / f"{name}.csv", np.flatnonzero(mask))
    (tmp_path / "voxel_dimensions.csv").write_text("3.9\n3.9\n3.0\n", encoding="utf-8")
    return tmp_path


def kbp(folder, spacing_mm=3.0):
    return read_open_kbp(folder, spacing_mm=spacing_mm, neck=Neck(), generator=np.random.default_rng(0))


def test_open_kbp_is_turned_to_the_axes_of_the_patient(open_kbp):
    anatomy = kbp(open_kbp)
    assert np.array_equal(anatomy.grid.matrix[:3, :3], np.diag([3.0, 3.0, 3.0]))
    # The larger target has the smaller second index, so it is on the right: x above 0.
    primary, node = points_mm(anatomy, anatomy.primary), points_mm(anatomy, anatomy.nodes == 1)
    middle = (51 + 76) / 2
    assert primary[:, 0].mean() == pytest.approx((middle - 56) * 3.9, abs=2.0)
    assert node[:, 0].mean() == pytest.approx((middle - 74) * 3.9, abs=2.0)
    assert node[:, 2].mean() - primary[:, 2].mean() == pytest.approx(-6.0, abs=2.0)
    cord, bone = points_mm(anatomy, anatomy.is_a(Tissue.CORD)), anatomy.is_a(Tissue.BONE)
    assert cord[:, 1].mean() == pytest.approx(points_mm(anatomy, anatomy.tumour)[:, 1].mean() - 7 * 3.9, abs=3.0)
    assert points_mm(anatomy, bone)[:, 1].max() > cord[:, 1].max()


def test_open_kbp_keeps_volume_dose_and_tissue(open_kbp):
    anatomy = kbp(open_kbp)
    voxel = 3.9 * 3.9 * 3.0 / 1000
    ball = 4 / 3 * math.pi * 6**3 * voxel
    # Vessels of the synthetic neck and the airway take a part of it.
    assert 0.75 * ball < ml(anatomy, anatomy.primary) < 1.05 * ball
    assert int(anatomy.nodes.max()) == 1
    deep = anatomy.primary & (anatomy.depth_mm > 6.0)
    assert float(anatomy.dose_gy[deep].mean()) == pytest.approx(70.0, abs=0.5)
    assert float(anatomy.dose_gy.max()) <= 70.0 + 1e-3
    assert bool(anatomy.blood_reference.any())
    assert bool(anatomy.muscle_reference.any())
    away = cKDTree(points_mm(anatomy, anatomy.tumour)).query(points_mm(anatomy, anatomy.muscle_reference))[0]
    assert away.min() >= 10.0 - 1e-9
    assert anatomy.subsite == "unknown"


def test_open_kbp_needs_no_organs(open_kbp):
    for name in ("SpinalCord", "LeftParotid", "RightParotid"):
        (open_kbp / f"{name}.csv").unlink()
    anatomy = kbp(open_kbp)
    assert bool(anatomy.blood_reference.any())
    assert bool(anatomy.is_a(Tissue.AIRWAY).any())


@pytest.mark.parametrize("name", ["ct.csv", "dose.csv", "PTV70.csv", "voxel_dimensions.csv"])
def test_a_folder_that_lacks_a_file_is_refused_by_name(open_kbp, name):
    (open_kbp / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name}.*folder of one patient"):
        kbp(open_kbp)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ct.csv", ",data\n5\n"),
        ("ct.csv", ",data\n5,bone\n"),
        ("dose.csv", ",data\n5,nan\n"),
        ("dose.csv", ",data\n2097152,1.0\n"),
        ("PTV70.csv", ",data\n-1,\n"),
        ("PTV70.csv", ",data\n"),
        ("PTV70.csv", ",data\n1.5,\n"),
        ("voxel_dimensions.csv", "3.9\n3.9\n"),
        ("voxel_dimensions.csv", "3.9\n3.9\n0\n"),
        ("voxel_dimensions.csv", "wide\n"),
    ],
)
def test_a_wrong_table_is_refused_by_name(open_kbp, name, text):
    (open_kbp / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=name):
        kbp(open_kbp)


def test_a_target_in_the_air_and_a_spacing_of_zero_are_refused(open_kbp):
    with pytest.raises(ConfigError, match="spacing_mm=0"):
        kbp(open_kbp, spacing_mm=0.0)
    write_table(open_kbp / "PTV70.csv", [5 * 128 * 128 + 5 * 128 + 5])
    with pytest.raises(ConfigError, match=r"PTV70\.csv.*no target in soft tissue"):
        kbp(open_kbp)


def test_the_grid_of_an_anatomy_is_the_one_that_was_asked_for():
    grid = cube(*MIDDLE)
    anatomy = make_anatomy(Neck(), grid, hpv=True, subsite="oropharynx", generator=np.random.default_rng(3))
    assert isinstance(anatomy.grid, Grid)
    assert anatomy.grid.same_as(grid)
    assert anatomy.tissue.dtype == anatomy.nodes.dtype == torch.uint8
    for tensor in (anatomy.tissue, anatomy.primary, anatomy.nodes, anatomy.muscle_reference, anatomy.depth_mm):
        assert tuple(tensor.shape) == grid.shape
