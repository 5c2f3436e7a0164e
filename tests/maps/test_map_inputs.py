"""The map verb through its real command line: what it refuses, and what it leaves behind."""

import json
from importlib.metadata import EntryPoint

import nibabel as nib
import numpy as np
import pytest

from hypoxnet.cli import main
from hypoxnet.errors import MapError
from hypoxnet.maps import registry
from hypoxnet.maps.config import AdcSettings
from hypoxnet.maps.kinds.base import MadeMaps, Maker, MapKind
from hypoxnet.maps.registry import KINDS, kind_of, known_kinds

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
SHAPE = (6, 5, 4)
ECHOES_S = [0.005, 0.010, 0.015, 0.020]
TIMES_S = [4.0 * i for i in range(40)]


def write(path, array, sidecar=None):
    """A NIfTI file, i j k or i j k t, with its sidecar; the path as text."""
    nib.save(nib.Nifti1Image(np.asarray(array, dtype=np.float32), AFFINE), path)
    if sidecar is not None:
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar), encoding="utf-8")
    return str(path)


def echoes(rate=40.0):
    """R2* of 40 /s, higher along the first axis; nothing in the corner."""
    rates = np.broadcast_to(rate + 5.0 * np.arange(SHAPE[0])[:, None, None], SHAPE)
    series = 1000.0 * np.exp(-rates[..., None] * np.array(ECHOES_S))
    series[0, 0, 0] = 0.0
    return series


def contrast(signal=True):
    """Tissue that enhances after 24 s, as signal or in mM."""
    times = np.array(TIMES_S)
    rise = 0.5 * (1 - np.exp(-(times - 24).clip(0) / 60))
    curve = np.broadcast_to(rise, (*SHAPE, len(times))).copy()
    curve[2:4, 2:4, 1:3] = 6.0 * np.exp(-(((times - 32) / 5) ** 2)) + 0.8 * (times > 30)
    return 100.0 * (1 + curve) if signal else curve


def uptake(frames=8):
    starts = [300.0 * i for i in range(frames)]
    sidecar = {"FrameTimesStart": starts, "FrameDuration": [300.0] * frames}
    return np.broadcast_to(1000.0 * np.sqrt(np.arange(1, frames + 1)), (*SHAPE, frames)), sidecar


def refused(arguments, output, capsys) -> str:
    """The one line on stderr of a run that was refused and left nothing behind."""
    status = main(["map", *arguments, "--output", str(output)])
    caught = capsys.readouterr()
    assert status == 2
    assert caught.out == ""
    lines = caught.err.splitlines()
    assert len(lines) == 1, caught.err
    assert "Traceback" not in caught.err
    assert not output.exists() or not list(output.iterdir())
    return lines[0]


def times_that_go_back(folder):
    wrong = [*TIMES_S[:7], 20.0, *TIMES_S[8:]]
    path = write(folder / "dce.nii.gz", contrast(False), {"VolumeTiming": wrong})
    return ["dce", path, "--signal", "concentration"], ("dce.nii.gz", "sample 8", "20", "24", "put them in order")


def echo_times_that_nobody_knows(folder):
    path = write(folder / "mge.nii.gz", echoes())
    return ["r2star", path], ("mge.nii.gz", "EchoTime", "echo_times_s")


def echo_times_of_fewer_echoes(folder):
    path = write(folder / "mge.nii.gz", echoes(), {"EchoTime": ECHOES_S[:3]})
    return ["r2star", path], ("mge.nii.gz", "3 values of EchoTime", "4 volumes", "mend the sidecar")


def echo_times_in_ms(folder):
    path = write(folder / "mge.nii.gz", echoes(), {"EchoTime": [1000 * t for t in ECHOES_S]})
    return ["r2star", path], ("mge.nii.gz", "20 s", "give seconds, not ms")


def echo_times_out_of_order(folder):
    path = write(folder / "mge.nii.gz", echoes())
    given = ["--echo-times-s", "0.005", "0.015", "0.010", "0.020"]
    return ["r2star", path, *given], ("mge.nii.gz", "0.005, 0.015, 0.01, 0.02", "put the echoes in order")


def repetition_time_in_ms(folder):
    path = write(folder / "vfa.nii.gz", echoes(), {"FlipAngle": [2, 5, 12, 15], "RepetitionTime": 5.0})
    return ["vfa", path], ("vfa.nii.gz", "5 s", "0.001 to 0.5 s", "give seconds, not ms")


def repetition_time_in_ms_of_a_dynamic_series(folder):
    path = write(folder / "dce.nii.gz", contrast(), {"FlipAngle": 20, "RepetitionTime": 5.0, "VolumeTiming": TIMES_S})
    return ["dce", path, "--t10-s", "1.2"], ("dce.nii.gz", "5 s", "give seconds, not ms")


def concentration_in_units_of_signal(folder):
    path = write(folder / "dce.nii.gz", contrast(), {"VolumeTiming": TIMES_S})
    return ["dce", path, "--signal", "concentration"], ("dce.nii.gz", "780", "50", "dce.signal=spoiled")


def vessel_that_never_rises(folder):
    series = contrast(False)
    series[0, 0, 0] = 0.3 + 0.05 * np.random.default_rng(0).standard_normal(len(TIMES_S))
    path = write(folder / "dce.nii.gz", series, {"VolumeTiming": TIMES_S})
    vessel = np.zeros(SHAPE)
    vessel[0, 0, 0] = 1
    mask = write(folder / "vessel.nii.gz", vessel)
    arguments = ["dce", path, "--signal", "concentration", "--aif", "mask", "--vessel", mask]
    return arguments, ("dce.nii.gz", "never rises", "baseline that scatters by", "name another region")


def input_file_that_never_rises(folder):
    path = write(folder / "dce.nii.gz", contrast(False), {"VolumeTiming": TIMES_S})
    table = folder / "aif.csv"
    table.write_text("time_s,plasma\n0,0\n60,0\n200,0\n", encoding="utf-8")
    arguments = ["dce", path, "--signal", "concentration", "--aif", "file", "--aif-file", str(table)]
    return arguments, ("dce.nii.gz", "never rises", "maximum is 0", "give a vessel's curve")


def input_file_that_is_missing(folder):
    path = write(folder / "dce.nii.gz", contrast(False), {"VolumeTiming": TIMES_S})
    arguments = ["dce", path, "--signal", "concentration", "--aif", "file", "--aif-file", str(folder / "none.csv")]
    return arguments, ("none.csv", "does not exist", "give a table")


def input_that_ends_before_the_series(folder):
    series, sidecar = uptake()
    path = write(folder / "pet.nii.gz", series, sidecar)
    table = folder / "input.csv"
    table.write_text("time_min,plasma\n0,0\n1,9\n20,2\n", encoding="utf-8")
    arguments = ["pet", path, "--from-min", "10", "--input", "file", "--input-file", str(table)]
    return arguments, ("pet.nii.gz", "20 min", "40 min", "measure the input as long")


def volume_of_nan(folder):
    series = echoes()
    series[..., 2] = np.nan
    path = write(folder / "mge.nii.gz", series, {"EchoTime": ECHOES_S})
    return ["r2star", path], ("mge.nii.gz", "volume 3 of 4", "leave it out")


def series_of_zeros(folder):
    path = write(folder / "mge.nii.gz", 0 * echoes(), {"EchoTime": ECHOES_S})
    return ["r2star", path], ("mge.nii.gz", "0 in every voxel", "as it was measured")


def one_volume_for_echoes(folder):
    path = write(folder / "mge.nii.gz", echoes()[..., 0], {"EchoTime": 0.005})
    return ["r2star", path], ("mge.nii.gz", "1 echoes, 2 are needed", "give the whole echo train")


def one_volume_for_perfusion(folder):
    path = write(folder / "dce.nii.gz", contrast()[..., 0], {"TemporalResolution": 4.0})
    return ["dce", path], ("dce.nii.gz", "1 volumes", "five or more")


def one_volume_for_kinetics(folder):
    path = write(folder / "pet.nii.gz", uptake()[0][..., 0])
    return ["pet", path], ("pet.nii.gz", "1 frames", "four or more")


def frames_that_are_not_those_of_the_sidecar(folder):
    series, _ = uptake(8)
    path = write(folder / "pet.nii.gz", series, uptake(9)[1])
    return ["pet", path], ("pet.nii.gz", "9 values of FrameTimesStart", "8 volumes", "frame_starts_s")


def frames_that_overlap(folder):
    series, sidecar = uptake(8)
    path = write(folder / "pet.nii.gz", series, {**sidecar, "FrameDuration": [300.0] * 7 + [0.0]})
    table = folder / "input.csv"
    table.write_text("time_min,plasma\n0,0\n1,9\n80,2\n", encoding="utf-8")
    arguments = ["pet", path, "--from-min", "10", "--input", "file", "--input-file", str(table)]
    return arguments, ("pet.nii.gz", "frame 8 lasts 0 min", "durations are positive")


def misspelt_kind(folder):
    return ["r2sta", write(folder / "mge.nii.gz", echoes())], ("'r2sta'", "r2star", "dce")


def fewer_flips_than_volumes(folder):
    path = write(folder / "vfa.nii.gz", echoes())
    given = ["--flips-deg", "2", "5", "12", "--tr-s", "0.005"]
    return ["vfa", path, *given], ("vfa.nii.gz", "flips_deg has 3 values", "4 volumes", "give one per volume")


def fewer_b_values_than_volumes(folder):
    path = write(folder / "dwi.nii.gz", echoes())
    (folder / "dwi.bval").write_text("0 400 800\n", encoding="utf-8")
    return ["adc", path], ("dwi.nii.gz", "3 values of bval", "4 volumes", "b_values")


def b_values_that_are_no_numbers(folder):
    path = write(folder / "dwi.nii.gz", echoes())
    (folder / "dwi.bval").write_text("b0 b400 b800 b1000\n", encoding="utf-8")
    return ["adc", path], ("dwi.bval", "b0", "mend")


def sidecar_that_is_no_json(folder):
    path = write(folder / "mge.nii.gz", echoes())
    (folder / "mge.json").write_text("{EchoTime: 5}", encoding="utf-8")
    return ["r2star", path], ("mge.json", "is no JSON", "mend or remove it")


def sidecar_that_is_a_list(folder):
    path = write(folder / "mge.nii.gz", echoes(), ECHOES_S)
    return ["r2star", path], ("mge.json", "mend or remove it")


def file_that_is_missing(folder):
    return ["r2star", str(folder / "none.nii.gz")], ("none.nii.gz", "does not exist")


def files_on_different_grids(folder):
    first = write(folder / "e1.nii.gz", echoes()[..., 0], {"EchoTime": 0.005})
    second = write(folder / "e2.nii.gz", np.ones((6, 5, 5)), {"EchoTime": 0.010})
    return ["r2star", first, second], ("e2.nii.gz", "6 x 5 x 5", "6 x 5 x 4", "resample the series")


def setting_that_does_not_exist(folder):
    path = write(folder / "mge.nii.gz", echoes(), {"EchoTime": ECHOES_S})
    return ["r2star", path, "--method", "loglinear"], ("r2star.method", "'loglinear'", "log-linear, arlo, nonlinear")


def t1_that_nobody_knows(folder):
    path = write(folder / "dce.nii.gz", contrast(), {"FlipAngle": 20, "RepetitionTime": 0.005, "VolumeTiming": TIMES_S})
    return ["dce", path], ("dce.nii.gz", "T1 before contrast is not known", "--t1", "t10_s")


def mask_without_voxels(folder):
    path = write(folder / "dce.nii.gz", contrast(), {"FlipAngle": 20, "RepetitionTime": 0.005, "VolumeTiming": TIMES_S})
    mask = write(folder / "mask.nii.gz", np.zeros(SHAPE))
    return ["dce", path, "--t10-s", "1.2", "--mask", mask], (
        "dce.nii.gz",
        "mask has no voxel",
        "draw it on this series",
    )


def baseline_longer_than_the_series(folder):
    path = write(folder / "dce.nii.gz", contrast(), {"FlipAngle": 20, "RepetitionTime": 0.005, "VolumeTiming": TIMES_S})
    arguments = ["dce", path, "--t10-s", "1.2", "--baseline", "60"]
    return arguments, ("dce.nii.gz", "baseline is 60", "40 volumes", "give fewer")


def more_volumes_left_out_than_there_are(folder):
    path = write(folder / "dce.nii.gz", contrast(False), {"VolumeTiming": TIMES_S})
    arguments = ["dce", path, "--signal", "concentration", "--skip", "38"]
    return arguments, ("dce.nii.gz", "skip is 38", "40 volumes", "five or more must remain")


def device_that_does_not_exist(folder):
    path = write(folder / "mge.nii.gz", echoes(), {"EchoTime": ECHOES_S})
    return ["r2star", path, "--device", "gpu"], ("no device 'gpu'", "auto, cpu or cuda")


FAULTS = [
    times_that_go_back,
    echo_times_that_nobody_knows,
    echo_times_of_fewer_echoes,
    echo_times_in_ms,
    echo_times_out_of_order,
    repetition_time_in_ms,
    repetition_time_in_ms_of_a_dynamic_series,
    concentration_in_units_of_signal,
    vessel_that_never_rises,
    input_file_that_never_rises,
    input_file_that_is_missing,
    input_that_ends_before_the_series,
    volume_of_nan,
    series_of_zeros,
    one_volume_for_echoes,
    one_volume_for_perfusion,
    one_volume_for_kinetics,
    frames_that_are_not_those_of_the_sidecar,
    frames_that_overlap,
    misspelt_kind,
    fewer_flips_than_volumes,
    fewer_b_values_than_volumes,
    b_values_that_are_no_numbers,
    sidecar_that_is_no_json,
    sidecar_that_is_a_list,
    file_that_is_missing,
    files_on_different_grids,
    setting_that_does_not_exist,
    t1_that_nobody_knows,
    mask_without_voxels,
    baseline_longer_than_the_series,
    more_volumes_left_out_than_there_are,
    device_that_does_not_exist,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_wrong_input_is_refused_in_one_line_that_names_it(fault, tmp_path, capsys):
    arguments, words = fault(tmp_path)
    line = refused(arguments, tmp_path / "maps", capsys)
    for word in words:
        assert word in line, line


def made(arguments, output) -> None:
    assert main(["map", *arguments, "--output", str(output)]) == 0


def image(path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def told(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_series_with_its_sidecar_becomes_a_map_with_status_sidecar_and_picture(tmp_path, capsys):
    path = write(tmp_path / "mge.nii.gz", echoes(), {"EchoTime": ECHOES_S})
    made(["r2star", path], tmp_path / "maps")
    folder = tmp_path / "maps"
    assert sorted(p.name for p in folder.iterdir()) == [
        "R2starmap.json",
        "R2starmap.nii.gz",
        "R2starmap.png",
        "T2starmap.json",
        "T2starmap.nii.gz",
        "T2starmap.png",
        "desc-r2star_figures.json",
        "desc-status_R2starmap.json",
        "desc-status_R2starmap.nii.gz",
    ]
    found = image(folder / "R2starmap.nii.gz")
    wanted = np.broadcast_to(40.0 + 5.0 * np.arange(6)[:, None, None], SHAPE)
    assert np.isnan(found[0, 0, 0])
    assert np.count_nonzero(np.isnan(found)) == 1
    assert np.nanmax(np.abs(found - wanted)) < 0.01
    assert np.allclose(image(folder / "T2starmap.nii.gz")[1:], 1 / wanted[1:], rtol=1e-3)
    assert np.allclose(nib.load(folder / "R2starmap.nii.gz").affine, AFFINE)
    assert (folder / "R2starmap.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "R2STAR: median" in out
    assert str(folder / "R2starmap.nii.gz") in out


def test_sidecar_of_a_map_holds_unit_settings_timing_and_shares(tmp_path):
    series = echoes()
    series[5, 4] = 1e6 * np.exp(-1200.0 * np.array(ECHOES_S))  # four voxels that decay too fast to be tissue
    path = write(tmp_path / "mge.nii.gz", series, {"EchoTime": ECHOES_S})
    made(["r2star", path, "--noise-sd", "0.001", "--no-pictures"], tmp_path / "maps")
    sidecar = told(tmp_path / "maps" / "R2starmap.json")
    assert sidecar["Quantity"] == "R2STAR"
    assert sidecar["Units"] == "1/s"
    assert sidecar["VoxelsWithValue"] == 119
    assert sidecar["VoxelsOutsidePlausibleRange"] == 4
    assert sidecar["ShareOutsidePlausibleRange"] == pytest.approx(4 / 119, abs=1e-6)
    assert sidecar["PlausibleRange"] == [0.0, 1000.0]
    low, middle, high = sidecar["Percentiles5_50_95"]
    assert 39 < low <= middle <= high < 70
    assert sidecar["MadeBy"]["Kind"] == "r2star"
    assert sidecar["MadeBy"]["Settings"]["method"] == "log-linear"
    assert sidecar["MadeBy"]["Settings"]["noise_sd"] == 0.001
    assert sidecar["MadeBy"]["Used"]["EchoTime"] == ECHOES_S
    assert sidecar["MadeBy"]["RawSources"] == ["mge.nii.gz"]
    assert sum(sidecar["MadeBy"]["Figures"]["Voxels"].values()) == 119
    assert sidecar["GeneratedBy"][0]["Name"] == "HypoxNet"


def test_status_says_what_became_of_each_voxel_and_outside_is_nan(tmp_path):
    series = echoes()
    series[2, 2, 2] = series[2, 2, 2, ::-1]  # rises
    series[3, 3, 3, 1] = np.nan
    path = write(tmp_path / "mge.nii.gz", series, {"EchoTime": ECHOES_S})
    inside = np.ones(SHAPE)
    inside[:, :, 0] = 0
    mask = write(tmp_path / "mask.nii.gz", inside)
    made(["r2star", path, "--mask", mask, "--method", "nonlinear", "--no-pictures"], tmp_path / "maps")
    status = image(tmp_path / "maps" / "desc-status_R2starmap.nii.gz")
    found = image(tmp_path / "maps" / "R2starmap.nii.gz")
    levels = told(tmp_path / "maps" / "desc-status_R2starmap.json")["Levels"]
    assert levels == {
        "0": "outside the mask",
        "1": "converged",
        "2": "at a bound",
        "3": "no usable signal",
        "4": "failed",
    }
    assert np.all(status[:, :, 0] == 0)
    assert status[3, 3, 3] == 3
    assert status[2, 2, 2] == 2
    assert np.array_equal(np.isfinite(found), np.isin(status, (1, 2)))
    assert not list((tmp_path / "maps").glob("*.png"))


def test_one_file_per_echo_in_any_order_is_the_same_as_one_series(tmp_path):
    series = echoes()
    paths = [write(tmp_path / f"echo{i}.nii.gz", series[..., i], {"EchoTime": ECHOES_S[i]}) for i in (2, 0, 3, 1)]
    made(["r2star", *paths, "--no-pictures"], tmp_path / "several")
    whole = write(tmp_path / "mge.nii.gz", series, {"EchoTime": ECHOES_S})
    made(["r2star", whole, "--no-pictures"], tmp_path / "one")
    one, several = (image(tmp_path / name / "R2starmap.nii.gz") for name in ("one", "several"))
    assert np.array_equal(one, several, equal_nan=True)
    assert told(tmp_path / "several" / "R2starmap.json")["MadeBy"]["RawSources"][0] == "echo2.nii.gz"


def test_given_values_go_before_those_of_the_sidecar(tmp_path):
    path = write(tmp_path / "mge.nii.gz", echoes(), {"EchoTime": ECHOES_S})
    doubled = [str(2 * t) for t in ECHOES_S]
    made(["r2star", path, "--echo-times-s", *doubled, "--no-pictures"], tmp_path / "maps")
    assert np.nanmedian(image(tmp_path / "maps" / "R2starmap.nii.gz")) < 30
    assert told(tmp_path / "maps" / "R2starmap.json")["MadeBy"]["Used"]["EchoTime"] == [2 * t for t in ECHOES_S]


def test_prefix_begins_every_name_and_diagnostics_add_the_errors(tmp_path):
    path = write(tmp_path / "mge.nii.gz", echoes(), {"EchoTime": ECHOES_S})
    made(["r2star", path, "--prefix", "sub-01", "--diagnostics", "--no-pictures"], tmp_path / "maps")
    names = {p.name for p in (tmp_path / "maps").iterdir()}
    assert all(name.startswith("sub-01_") for name in names)
    assert {"sub-01_R2starmap.nii.gz", "sub-01_desc-status_R2starmap.nii.gz"} <= names
    errors = tmp_path / "maps" / "sub-01_desc-error_R2starmap.nii.gz"
    assert 0 <= float(np.nanmax(image(errors))) < 0.5
    sidecar = told(errors.with_name("sub-01_desc-error_R2starmap.json"))
    assert sidecar == {"Quantity": "standard error of R2STAR", "Units": "1/s"}


def test_voxels_near_air_have_no_value_and_their_share_is_told(tmp_path, capsys):
    path = write(tmp_path / "mge.nii.gz", echoes(), {"EchoTime": ECHOES_S})
    cavity = np.zeros(SHAPE)
    cavity[5] = 1
    air = write(tmp_path / "air.nii.gz", cavity)
    made(["r2star", path, "--air", air, "--air-mm", "5", "--no-pictures"], tmp_path / "maps")
    found = image(tmp_path / "maps" / "R2starmap.nii.gz")
    assert np.isnan(found[3:]).all()
    assert np.isfinite(found[1:3]).all()
    assert "40.0 % of the region lies closer than 5 mm to air" in capsys.readouterr().out


def test_perfusion_of_concentrations_comes_with_its_input_and_area(tmp_path):
    path = write(tmp_path / "dce.nii.gz", contrast(False), {"VolumeTiming": TIMES_S})
    made(["dce", path, "--signal", "concentration", "--no-pictures"], tmp_path / "maps")
    names = {p.name for p in (tmp_path / "maps").glob("*.nii.gz")}
    assert {"Ktrans.nii.gz", "ve.nii.gz", "vp.nii.gz", "kep.nii.gz", "IAUC60.nii.gz"} <= names
    sidecar = told(tmp_path / "maps" / "Ktrans.json")
    assert sidecar["Units"] == "1/min"
    assert sidecar["MadeBy"]["Used"]["VesselVoxels"] >= 1
    assert 16 <= sidecar["MadeBy"]["Figures"]["ArrivalS"] <= 28


def test_diffusion_takes_its_b_values_from_the_file_beside_it(tmp_path):
    b = np.array([0, 400, 800, 1000])
    path = write(tmp_path / "dwi.nii.gz", np.broadcast_to(500 * np.exp(-1.1e-3 * b), (*SHAPE, 4)))
    (tmp_path / "dwi.bval").write_text("0 400 800 1000\n", encoding="utf-8")
    made(["adc", path, "--no-pictures"], tmp_path / "maps")
    assert np.allclose(image(tmp_path / "maps" / "ADC.nii.gz"), 1.1, rtol=1e-3)


def test_list_names_every_kind(capsys):
    assert main(["map", "list"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == list(KINDS)


def _make_mean(inputs, settings) -> MadeMaps:
    maker = Maker("mean", inputs, settings, {})
    maker.add("ADC", inputs.signal().mean(0))
    return maker.made()


MEAN = MapKind("mean", "mean over the series", AdcSettings, _make_mean, lambda settings: ("ADC",))


def plugin(monkeypatch, name, attribute):
    """Another package that registers something under the entry point of maps."""
    point = EntryPoint(name, f"{__name__}:{attribute}", registry.ENTRY_POINT_GROUP)
    here = {"MEAN": MEAN, "NOTHING": object()}
    monkeypatch.setattr(EntryPoint, "load", lambda self: here[self.value.split(":")[1]])
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "hypoxnet.maps" else [])


def test_kind_of_another_package_works_like_ours(monkeypatch, tmp_path, capsys):
    plugin(monkeypatch, "mean", "MEAN")
    assert kind_of("mean") is MEAN
    made(["mean", write(tmp_path / "series.nii.gz", echoes()), "--no-pictures"], tmp_path / "maps")
    assert np.allclose(image(tmp_path / "maps" / "ADC.nii.gz"), echoes().mean(3), rtol=1e-5)
    assert main(["map", "list"]) == 0
    assert "mean over the series" in capsys.readouterr().out


def test_kind_whose_name_is_taken_is_refused(monkeypatch, tmp_path, capsys):
    plugin(monkeypatch, "dce", "MEAN")
    with pytest.raises(MapError, match=r"kind of map dce of .*:MEAN has a name that is taken; rename it"):
        known_kinds()
    line = refused(["adc", write(tmp_path / "dwi.nii.gz", echoes())], tmp_path / "maps", capsys)
    assert "name that is taken" in line


def test_entry_that_is_no_kind_is_refused(monkeypatch):
    plugin(monkeypatch, "nothing", "NOTHING")
    with pytest.raises(MapError, match=r"NOTHING is no MapKind; register an instance under hypoxnet\.maps"):
        known_kinds()
