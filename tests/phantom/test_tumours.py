import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hypoxnet.phantom.fields import centred_grid
from hypoxnet.phantom.neck import GLOTTIS, airway, frame_of, jugular, median_build
from hypoxnet.phantom.parameters.anatomy import SUBSITES, Neck
from hypoxnet.phantom.tumours import (
    Lesion,
    Volumes,
    depth_mm,
    draw_volumes,
    grown,
    node_lesions,
    primary_place,
)


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


def test_nodes_lie_beside_the_jugular_vein_of_their_side():
    neck, generator = Neck(), np.random.default_rng(23)
    build = median_build(neck)
    frame = frame_of(centred_grid((144.0,) * 3, (3.0,) * 3), (0.0, 0.0, -5.0), 1.0)
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
