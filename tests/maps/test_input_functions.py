import math

import numpy as np
import pytest
import torch

from hypoxnet.errors import MapError
from hypoxnet.maps.input_functions import (
    InputFunction,
    feng,
    find_vessel,
    from_blood,
    georgiou,
    parker,
    population,
    preclinical,
    read_input,
    timing,
    vessel_curve,
)


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def printed(value: float, digits: int):
    """Equal to the printed number, half of its last digit allowed."""
    return pytest.approx(value, abs=0.5001 * 10.0**-digits)


@pytest.mark.parametrize(
    ("minute", "mm"),
    [
        (0.0, 0.08038),
        (0.08283333, 1.80888),
        (0.17046, 6.06925),
        (0.365, 1.02292),
        (0.5, 1.22472),
        (1.0, 0.88719),
        (2.0, 0.74960),
        (5.0, 0.45216),
        (10.0, 0.19472),
    ],
)
def test_curve_of_parker_matches_worked_numbers(minute, mm):
    assert float(parker(double(minute))) == printed(mm, 5)


def test_peak_and_area_of_parker_match_worked_numbers():
    times = torch.linspace(0, 1, 100001, dtype=torch.float64)
    curve = parker(times)
    assert float(curve.max()) == printed(6.07321, 5)
    assert float(times[curve.argmax()]) == printed(0.17257, 5)
    assert float(torch.trapezoid(curve, times)) == printed(1.61649, 5)


@pytest.mark.parametrize(
    ("minute", "mm"),
    [(0.125, 8.64545), (0.25, 2.68465), (0.5, 2.00717), (1.0, 1.27663), (2.0, 1.00151), (5.0, 0.64931)],
)
def test_curve_of_georgiou_matches_the_published_table(minute, mm):
    assert float(georgiou(double(minute))) == printed(mm, 5)


def test_curve_of_georgiou_peaks_where_published_and_goes_on_after_its_table():
    times = torch.linspace(0, 20, 12001, dtype=torch.float64)
    curve = georgiou(times)
    assert float(curve.max()) == printed(8.64545, 5)
    assert float(times[curve.argmax()]) == pytest.approx(0.125, abs=1e-3)
    late = times >= 5
    assert bool((torch.diff(curve[late]) < 0).all())
    assert float(georgiou(double(15.0)) / georgiou(double(5.0))) == pytest.approx(math.exp(-1.1))


def georgiou_form(t: np.ndarray) -> np.ndarray:
    """The functional form beside the table: gamma-shaped passes of the bolus on three exponentials."""
    alpha, beta, tau = 5.26, 0.032, 0.129
    slow = sum(a * np.exp(-m * t) for a, m in ((0.37, 0.11), (0.33, 1.17), (10.06, 16.02)))
    passes = np.zeros_like(t)
    for k in range(int(t.max() / tau) + 1):
        a, s = (k + 1) * alpha + k, np.maximum(t - k * tau, 0)
        with np.errstate(divide="ignore"):
            log = a * np.log(s) - s / beta - (a + 1) * math.log(beta) - math.lgamma(a + 1)
        passes += np.where(t > k * tau, np.exp(log), 0.0)
    return slow * passes


def test_table_of_georgiou_agrees_with_its_functional_form():
    times = torch.linspace(0, 5, 3001, dtype=torch.float64)
    assert float((georgiou(times) - torch.from_numpy(georgiou_form(times.numpy()))).abs().max()) <= 0.082


def test_preclinical_curve_rises_straight_for_seven_seconds_and_then_falls():
    seconds = double(0.0, 3.5, 7.0, 60.0, 600.0)
    late = [3.4 * math.exp(-0.045 * s) + 1.81 * math.exp(-0.0015 * s) for s in (0, 53, 593)]
    assert preclinical(seconds / 60).tolist() == pytest.approx([0.0, 5.21 / 2, *late])
    assert late[0] == pytest.approx(5.21)


@pytest.mark.parametrize(
    ("minute", "activity", "digits"),
    [
        (0.1, 70.468, 3),
        (0.25, 102.508, 3),
        (0.5, 89.779, 3),
        (1.0, 52.970, 3),
        (5.0, 31.819, 3),
        (10.0, 25.405, 3),
        (60.0, 11.168, 3),
        (120.0, 5.974, 3),
        (0.2895, 103.44, 2),
    ],
)
def test_curve_of_feng_matches_worked_numbers(minute, activity, digits):
    assert float(feng(double(minute))) == printed(activity, digits)


def test_curve_of_feng_peaks_where_worked_out():
    times = torch.linspace(0, 1, 10001, dtype=torch.float64)
    assert float(times[feng(times).argmax()]) == printed(0.2895, 4)


@pytest.mark.parametrize("curve", [parker, georgiou, preclinical, feng])
def test_population_curves_are_0_before_the_bolus(curve):
    assert curve(double(-1.0, -1e-6)).tolist() == [0.0, 0.0]
    assert float(curve(double(0.1))) > 0


@pytest.mark.parametrize("name", ["parker", "georgiou", "preclinical"])
def test_population_input_starts_at_its_arrival_and_plasma_is_blood_without_cells(name):
    times = torch.linspace(0, 5, 301, dtype=torch.float64)
    given = population(name, times, arrival_min=0.51, haematocrit=0.45)
    assert bool((given.blood[times < 0.51] == 0).all())
    assert float(given.blood[times > 0.6].min()) > 0
    assert torch.allclose(given.plasma, given.blood / 0.55)
    assert given.source == f"population ({name})"


def test_unknown_population_is_named():
    with pytest.raises(MapError, match="no population input 'weinmann'; there are parker, georgiou, preclinical"):
        population("weinmann", double(0, 1), arrival_min=0.0)


def test_haematocrit_in_percent_is_refused():
    with pytest.raises(MapError, match=r"haematocrit is 42, it is a fraction below 0\.8; give 0\.42 for 42 %"):
        from_blood(double(0, 1), double(0, 1), haematocrit=42.0)


@pytest.mark.parametrize(
    ("times", "plasma", "sentence"),
    [
        ((0, 2, 1), (0, 1, 1), r"input function do not increase: sample 3 is at 1 after 2; put them in order"),
        ((0, 1, math.nan), (0, 1, 1), "do not increase: sample 3 is at nan"),
        ((0,), (1,), "has 1 time; give at least two"),
        ((0, 1, 2), (0, 1), "has 2 values at 3 times; give one per time"),
        ((0, 1, 2), (0, math.nan, 1), "values that are not numbers; mend or remove these rows"),
        ((0, 1, 2), (0, -1, 0), "never rises, its maximum is 0; give a vessel's curve"),
    ],
)
def test_unusable_inputs_are_refused(times, plasma, sentence):
    curve = double(*plasma)
    with pytest.raises(MapError, match=sentence):
        InputFunction(double(*times), curve, curve, "test")


def test_input_is_read_at_its_own_times_exactly_and_between_them_without_overshoot():
    times = double(0.1, 0.2, 0.4, 1, 3)
    given = from_blood(times, double(0, 10, 3, 2, 1), haematocrit=0.0)
    assert torch.allclose(given.on(times)[0], given.plasma)
    fine = torch.linspace(0, 3, 1001, dtype=torch.float64)
    plasma, blood = given.on(fine)
    assert bool((plasma[fine < 0.1] == 0).all())
    assert 0 <= float(plasma.min()) <= float(plasma.max()) <= 10
    assert torch.equal(plasma, blood)


def test_input_is_not_drawn_beyond_its_end():
    given = from_blood(double(0, 1, 40), double(0, 10, 1))
    with pytest.raises(
        MapError, match="ends at 40 min, the tissue was measured until 60 min; measure the input as long"
    ):
        given.on(double(0, 60))
    assert torch.isfinite(given.on(double(0, 40 + 1e-6))[0]).all()


def test_delayed_bolus_arrives_later():
    times = torch.linspace(0, 10, 101, dtype=torch.float64)
    given = from_blood(times, feng(times))
    later = given.delayed(0.5)
    assert torch.allclose(later.plasma[5:], given.plasma[:-5])
    assert bool((later.blood[:5] == 0).all())


TABLES = {
    "seconds and commas": "time_s,plasma,blood\n0,0,0\n30,8,4\n60,4,2\n",
    "minutes and semicolons": "time_min;plasma;blood\n0;0;0\n0.5;8;4\n1;4;2\n",
    "tabs": "time_min\tplasma\tblood\n0\t0\t0\n0.5\t8\t4\n1\t4\t2\n",
    "blanks": "time_min  plasma blood\n0 0   0\n0.5 8 4\n1  4 2\n",
    "comments and empty lines": "# drawn by hand\ntime_s, plasma, blood\n\n0, 0, 0\n# late\n30, 8, 4\n60, 4, 2\n\n",
    "capitals and a byte order mark": "\ufeffTime_s,Plasma,Blood\n0,0,0\n30,8,4\n60,4,2\n",
    "other columns": "place,blood,time_s,plasma\nwrist,0,0,0\nwrist,4,30,8\nwrist,2,60,4\n",
}


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_tables_of_any_dialect_are_the_same_input(table, tmp_path):
    path = tmp_path / "input.txt"
    path.write_text(TABLES[table], encoding="utf-8")
    given = read_input(path)
    assert given.times_min.tolist() == [0.0, 0.5, 1.0]
    assert given.plasma.tolist() == [0.0, 8.0, 4.0]
    assert given.blood.tolist() == [0.0, 4.0, 2.0]
    assert given.source == "file input.txt"


def test_table_of_blood_alone_becomes_plasma_by_the_haematocrit(tmp_path):
    path = tmp_path / "blood.csv"
    path.write_text("time_s,blood\n0,0\n60,6\n", encoding="utf-8")
    assert read_input(path, haematocrit=0.4).plasma.tolist() == pytest.approx([0.0, 10.0])
    assert read_input(path).plasma.tolist() == [0.0, 6.0]


def test_table_of_plasma_alone_stands_for_blood_too(tmp_path):
    path = tmp_path / "plasma.csv"
    path.write_text("time_s,plasma\n0,0\n60,6\n", encoding="utf-8")
    assert read_input(path, haematocrit=0.4).blood.tolist() == [0.0, 6.0]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            "time,plasma\n0,0\n1,1\n",
            r"bad\.csv has the columns time, plasma; an input function needs time_s or time_min",
        ),
        ("time_s,activity\n0,0\n1,1\n", "columns time_s, activity.*plasma or blood"),
        ("", "columns none"),
        ("time_s,plasma\n", "columns none"),
        ("time_s,plasma\n0,0\n60,much\n", r"bad\.csv: column plasma holds what is no number .*much.*mend the cell"),
        ("time_s,plasma\n0,0\n60\n", "column plasma holds what is no number"),
        ("time_s,plasma\n0,0\n60,nan\n", "values that are not numbers"),
        ("time_s,plasma\n60,0\n0,1\n", "do not increase: sample 2 is at 0 after 1"),
        ("time_s,plasma\n0,0\n60,0\n", "never rises"),
    ],
)
def test_unusable_tables_are_refused_with_their_fault(table, sentence, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(table, encoding="utf-8")
    with pytest.raises(MapError, match=sentence):
        read_input(path)


def test_missing_table_is_named(tmp_path):
    with pytest.raises(MapError, match=r"none\.csv does not exist; give a table"):
        read_input(tmp_path / "none.csv")


def phantom(*, noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tissue that fills up, a vein that follows, an artery of 8 voxels; series, times in minutes, artery."""
    times = torch.arange(0, 4, 0.05, dtype=torch.float64)
    tissue = 0.4 * (1 - torch.exp(-1.5 * (times - 0.5).clamp(min=0)))
    series = tissue[:, None, None, None].repeat(1, 6, 12, 12)
    series[:, :, 8:10, 8:10] = 0.7 * parker(times - 0.75)[:, None, None, None]
    artery = torch.zeros(6, 12, 12, dtype=torch.bool)
    artery[1:5, 2:4, 3] = True
    series[:, artery] = parker(times - 0.5)[:, None]
    generator = torch.Generator().manual_seed(0)
    return series + noise * torch.randn(series.shape, dtype=torch.float64, generator=generator), times, artery


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_planted_artery_is_found_among_tissue_and_vein(noise):
    series, times, artery = phantom(noise=noise)
    found = find_vessel(series, times)
    assert bool(found.any())
    assert not bool((found & ~artery).any())


def test_vessel_is_looked_for_where_it_may_be_and_no_larger_than_asked():
    series, times, artery = phantom()
    assert int(find_vessel(series, times, count=2).sum()) == 2
    found = find_vessel(series, times, inside=~artery)
    assert not bool((found & artery).any())


def test_voxels_that_are_not_numbers_are_no_vessel():
    series, times, _ = phantom()
    series[3, 1, 2, 3] = math.nan
    found = find_vessel(series, times)
    assert bool(found.any())
    assert not bool(found[1, 2, 3])


def test_tissue_that_only_fills_up_has_no_artery():
    times = torch.arange(0, 4, 0.05, dtype=torch.float64)
    series = torch.linspace(0, 1, len(times)).double()[:, None, None, None].expand(-1, 3, 3, 3)
    with pytest.raises(MapError, match=r"no voxel rises and falls again.*draw one, or give a population input"):
        find_vessel(series, times)


def test_curve_of_a_vessel_is_the_mean_of_its_voxels():
    series, times, artery = phantom()
    assert torch.allclose(vessel_curve(series, artery), parker(times - 0.5))


def test_vessel_without_voxels_or_without_a_bolus_is_refused():
    series, _, artery = phantom(noise=0.05)
    with pytest.raises(MapError, match="region of the vessel has no voxel; draw it in an artery"):
        vessel_curve(series, torch.zeros_like(artery))
    flat = torch.randn(80, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with pytest.raises(MapError, match=r"never rises.*name another region"):
        vessel_curve(flat, torch.ones(2, 2, 2, dtype=torch.bool))


def test_grid_of_a_fit_holds_every_time_of_input_and_frames():
    given = from_blood(double(0, 0.3, 0.9, 5, 8), double(0, 9, 3, 2, 1))
    fit_timing, plasma, blood = timing(double(0, 1, 2), double(1, 2, 4.5), given, longest_step_min=0.5)
    grid = fit_timing.grid
    for time in (0, 0.3, 0.9, 1, 2, 4.5):
        assert float((grid - time).abs().min()) < 1e-9
    assert float(grid[-1]) == 4.5
    assert float(torch.diff(grid).max()) <= 0.5 + 1e-9
    assert len(plasma) == len(blood) == len(grid)


@pytest.mark.parametrize(
    ("starts", "ends", "sentence"),
    [
        ((0, 2, 1), (1, 3, 2), "series do not increase: sample 3 is at 1 after 2"),
        ((0, 1, 2), (1, 2), "3 frames begin and 2 end; give a start and a duration per frame"),
        ((0, 1, 2), (1, 1, 3), "frame 2 lasts 0 min; durations are positive"),
        ((0, 1, 2), (1, 3, 4), "frame 2 ends at 3 min, after frame 3 begins at 2 min; mend the frame times"),
        ((0, 1, 2), (1, 2, 30), "input function ends at 8 min, the tissue was measured until 30 min"),
    ],
)
def test_frames_that_cannot_be_are_refused(starts, ends, sentence):
    given = from_blood(double(0, 1, 8), double(0, 9, 3))
    with pytest.raises(MapError, match=sentence):
        timing(double(*starts), double(*ends), given)
