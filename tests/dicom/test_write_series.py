from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import ORIENTATIONS, onto, rotated

from hypoxnet.dicom.channels import Channel, read_channel_series
from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.index import index_folder
from hypoxnet.dicom.rules import default_rules
from hypoxnet.dicom.scans import WEIGHTINGS, CtScan, MrScan, PetScan, Scan, StudyIdentity
from hypoxnet.dicom.source import read_source
from hypoxnet.dicom.visits import visits_of
from hypoxnet.dicom.write_series import write_series
from hypoxnet.errors import GeometryError
from hypoxnet.geometry import LPS_TO_RAS, Grid
from hypoxnet.quantities import TRACERS

STUDY = StudyIdentity("HN001", "tests, seed 1", 72.5, sex="M", age_years=61.4)
FMISO = PetScan("FMISO", 370e6, uptake_s=14400.0, duration_s=600.0)
SCANS: dict[str, Scan] = {"PET": FMISO, "CT": CtScan(), "MR": MrScan("T1W", echo_time_ms=9.2, repetition_time_ms=550.0)}
SHAPE = (20, 18, 12)
HALF_LIFE_S = 109.77 * 60
# Two roundings to float32, of the rescaled value and of its product with the factor to SUV.
FLOAT32 = 2 * 2.0**-24


def grid_of(directions=((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)), spacing_mm=(2.0, 2.5, 3.0), shape=SHAPE, *, flip=1.0):
    """Grid from directions in LPS, as the writer of test series takes them; `flip` -1 is left-handed."""
    along, down = np.array(directions[0]), np.array(directions[1])
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([along, down, flip * np.cross(along, down)]) * spacing_mm
    affine[:3, 3] = (31.5, 12.25, -7.125)
    return Grid.from_affine(shape, LPS_TO_RAS @ affine)


def volume_of(kind: Scan, shape=SHAPE, *, seed=0):
    generator = np.random.default_rng(seed)
    if isinstance(kind, CtScan):
        return generator.normal(0.0, 400.0, shape)
    return generator.gamma(2.0, 1.0 if isinstance(kind, PetScan) else 150.0, shape)


def write(folder: Path, volume, grid, kind, study=STUDY) -> list[Path]:
    return write_series(folder, volume, grid, kind=kind, study=study)


def imported(folder: Path) -> Channel:
    (match,) = default_rules().assign(index_folder(folder, jobs=1).series).matches
    return read_channel_series(match)


def off_by(kind: Scan, volume) -> np.ndarray:
    """What 16 bits may cost at most: per slice of a PET, of the whole of an MR, half a HU of a CT."""
    if isinstance(kind, CtScan):
        return np.full(volume.shape, 0.5)
    largest = np.abs(volume).max(axis=(0, 1), keepdims=True) if isinstance(kind, PetScan) else np.abs(volume).max()
    # The slope has 12 digits.
    return np.broadcast_to(largest / (131070 if volume.min() >= 0 else 65534) * (1 + 1e-6), volume.shape)


@pytest.mark.parametrize("flip", [1.0, -1.0], ids=["right-handed", "left-handed"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("name", SCANS)
def test_import_gives_the_values_back_in_their_places(tmp_path, name, orientation, flip):
    kind, grid = SCANS[name], grid_of(ORIENTATIONS[orientation], flip=flip)
    volume = volume_of(kind)
    write(tmp_path / "a", volume, grid, kind)
    channel = imported(tmp_path)
    back = onto(channel.array, channel.grid.matrix, grid)
    assert channel.name == kind.channel
    assert (np.abs(back - volume) <= off_by(kind, volume) + FLOAT32 * np.abs(volume)).all()


@pytest.mark.parametrize("name", SCANS)
def test_import_gives_the_same_array_and_affine_for_a_grid_in_ras(tmp_path, name):
    kind, grid = SCANS[name], grid_of()
    volume = volume_of(kind)
    write(tmp_path / "a", volume, grid, kind)
    channel = imported(tmp_path)
    assert np.abs(channel.grid.matrix - grid.matrix).max() < 1e-9
    assert (np.abs(channel.array - volume) <= off_by(kind, volume) + FLOAT32 * np.abs(volume)).all()


angles = st.floats(-180, 180)
steps = st.floats(0.5, 6.0)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.tuples(angles, angles, angles), st.tuples(steps, steps, steps), st.sampled_from([1.0, -1.0]))
def test_any_grid_comes_back_to_a_millionth_of_a_millimetre(tmp_path_factory, degrees, spacing_mm, flip):
    folder = tmp_path_factory.mktemp("any")
    grid = grid_of(rotated(degrees), spacing_mm, (5, 6, 4), flip=flip)
    paths = write(folder / "a", volume_of(FMISO, grid.shape), grid, FMISO)
    there = read_source(paths).grid
    expected = grid.matrix
    if flip < 0:
        expected = expected @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 3], [0, 0, 0, 1.0]])
    assert np.abs(there.matrix - expected).max() < 1e-6


@pytest.mark.parametrize("tracer", TRACERS)
def test_every_tracer_is_recognised(tmp_path, tracer):
    kind = PetScan(tracer, 300e6, uptake_s=7200.5, duration_s=900.0)
    write(tmp_path / "a", volume_of(kind), grid_of(), kind)
    channel = imported(tmp_path)
    assert channel.name == f"{tracer}_SUV"
    assert channel.sidecar["Suv"]["InjectionToReferenceS"] == pytest.approx(7200.5, abs=1e-6)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_weighting_becomes_its_channel(tmp_path, weighting):
    write(tmp_path / "a", volume_of(MrScan(weighting)), grid_of(), MrScan(weighting))
    assert imported(tmp_path).name == weighting


def test_suv_follows_from_the_header_by_its_definition(tmp_path):
    volume = volume_of(FMISO)
    for k, path in enumerate(write(tmp_path / "a", volume, grid_of(), FMISO)):
        header = pydicom.dcmread(path)
        drug = header.RadiopharmaceuticalInformationSequence[0]
        bq_per_ml = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
        assert (header.Units, header.DecayCorrection) == ("BQML", "START")
        passed_s = 3600.0 * (int(header.SeriesTime[:2]) - int(drug.RadiopharmaceuticalStartTime[:2]))
        left_bq = float(drug.RadionuclideTotalDose) * 0.5 ** (passed_s / HALF_LIFE_S)
        suv = bq_per_ml / left_bq * float(header.PatientWeight) * 1000.0
        assert np.abs(suv.T - volume[:, :, k]).max() <= volume[:, :, k].max() / 131070 * (1 + 1e-6)


def test_decay_factor_and_reference_time_are_those_of_a_frame_that_decays(tmp_path):
    header = pydicom.dcmread(write(tmp_path / "a", volume_of(FMISO), grid_of(), FMISO)[0])
    passed = math.log(2.0) / HALF_LIFE_S * 600.0
    assert float(header.DecayFactor) == pytest.approx(passed / (1 - math.exp(-passed)), rel=1e-9)
    at_reference = 0.5 ** (float(header.FrameReferenceTime) / 1000.0 / HALF_LIFE_S)
    assert at_reference * float(header.DecayFactor) == pytest.approx(1.0, rel=1e-9)
    assert header.ActualFrameDuration == 600000


def test_tracers_that_wait_past_midnight_keep_their_suv(tmp_path):
    kind = PetScan("HX4", 300e6, uptake_s=17 * 3600.0, duration_s=1200.0)
    volume = volume_of(kind)
    header = pydicom.dcmread(write(tmp_path / "a", volume, grid_of(), kind)[0])
    assert (header.StudyDate, header.SeriesDate) == ("20000101", "20000102")
    assert (np.abs(imported(tmp_path).array - volume) <= off_by(kind, volume) + FLOAT32 * volume).all()


@pytest.mark.parametrize("name", ["PET", "MR"])
def test_values_below_zero_come_back(tmp_path, name):
    kind = SCANS[name]
    volume = volume_of(kind)
    volume -= np.median(volume) / 3
    write(tmp_path / "a", volume, grid_of(), kind)
    back = imported(tmp_path).array
    assert back.min() < 0
    assert (np.abs(back - volume) <= off_by(kind, volume) + FLOAT32 * np.abs(volume)).all()


def test_mr_of_whole_numbers_is_stored_as_it_is_and_without_rescaling(tmp_path):
    volume = np.random.default_rng(0).integers(0, 4096, SHAPE).astype(np.float32)
    paths = write(tmp_path / "a", volume, grid_of(), MrScan("T2W"))
    assert "RescaleSlope" not in pydicom.dcmread(paths[0])
    assert np.array_equal(imported(tmp_path).array, volume)


def test_ct_is_whole_hu_below_air_too(tmp_path):
    volume = np.linspace(-1100.0, 3071.0, math.prod(SHAPE)).reshape(SHAPE)
    write(tmp_path / "a", volume, grid_of(), CtScan())
    assert np.array_equal(imported(tmp_path).array, np.rint(volume).astype(np.float32))


@pytest.mark.parametrize("name", SCANS)
def test_itk_reads_the_same_values_in_the_same_places(tmp_path, name):
    kind, grid = SCANS[name], grid_of(ORIENTATIONS["oblique"])
    volume = volume_of(kind)
    volume[:, :, 0] = 0.0  # an empty first slice must not turn the series into whole numbers
    write(tmp_path / "a", volume, grid, kind)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "a")))
    image = reader.Execute()
    factor = 72500.0 / FMISO.injection.dose_at_reference_bq() if kind is FMISO else 1.0
    there = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0) * factor
    assert (np.abs(there - volume) <= off_by(kind, volume) + 1e-9 * np.abs(volume)).all()
    for index in ((0, 0, 0), (19, 0, 0), (0, 17, 0), (3, 5, 11)):
        ras = LPS_TO_RAS[:3, :3] @ image.TransformIndexToPhysicalPoint(index)
        assert np.abs(ras - (grid.matrix @ [*index, 1.0])[:3]).max() < 1e-6


@pytest.mark.parametrize("slices", [12, 1])
@pytest.mark.parametrize(
    "kind", [*SCANS.values(), *map(MrScan, WEIGHTINGS), PetScan("FAZA", 3e8, 7200.0, 600.0)], ids=str
)
def test_series_follows_the_standard(tmp_path, assert_valid, kind, slices):
    grid = grid_of(ORIENTATIONS["oblique"], shape=(6, 5, slices), flip=-1.0)
    paths = write(tmp_path / "a", volume_of(kind, grid.shape) - 0.5, grid, kind)
    assert_valid(paths[0])
    assert_valid(paths[-1])


def test_same_seed_gives_the_same_bytes(tmp_path):
    for name, kind in SCANS.items():
        one, other = (write(tmp_path / folder / name, volume_of(kind), grid_of(), kind) for folder in ("a", "b"))
        assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def uids_of(paths: list[Path]) -> set[str]:
    keywords = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    return {str(header[keyword].value) for header in map(pydicom.dcmread, paths) for keyword in keywords}


@pytest.mark.parametrize(
    "other",
    [
        StudyIdentity("HN001", "tests, seed 2", 72.5),
        StudyIdentity("HN002", "tests, seed 1", 72.5),
        StudyIdentity("HN001", "tests, seed 1", 72.5, day=14),
    ],
    ids=["seed", "patient", "day"],
)
def test_another_seed_patient_or_visit_shares_no_uid(tmp_path, other):
    one, two = (
        uids_of(write(tmp_path / str(number), volume_of(CtScan()), grid_of(), CtScan(), study))
        for number, study in enumerate((STUDY, other))
    )
    assert not one & two
    assert len(one) == SHAPE[2] + 3
    assert all(pydicom.uid.UID(uid).is_valid and len(uid) <= 64 for uid in one)


def test_series_of_a_study_share_its_frame_of_reference_and_nothing_else(tmp_path):
    headers = [
        pydicom.dcmread(write(tmp_path / name, volume_of(kind), grid_of(), kind)[0]) for name, kind in SCANS.items()
    ]
    assert len({(h.StudyInstanceUID, h.FrameOfReferenceUID) for h in headers}) == 1
    assert len({h.SeriesInstanceUID for h in headers}) == len({h.SOPInstanceUID for h in headers}) == 3


def test_visits_are_told_by_their_days(tmp_path):
    for day in (0, 14):
        study = StudyIdentity("HN001", "tests, seed 1", 72.5, day=day)
        write(tmp_path / str(day), volume_of(CtScan()), grid_of(), CtScan(), study)
    assert [visit.name for visit in visits_of(index_folder(tmp_path, jobs=1).series)] == ["baseline", "day014"]


@pytest.mark.parametrize("name", SCANS)
def test_header_says_that_nobody_was_imaged(tmp_path, name):
    header = pydicom.dcmread(write(tmp_path / "a", volume_of(SCANS[name]), grid_of(), SCANS[name])[0])
    assert (header.PatientName, header.PatientID, header.PatientAge) == ("HN001", "HN001", "061Y")
    assert (header.StudyDescription, header.Manufacturer) == ("HypoxNet digital reference object", "HypoxNet")
    assert header.QualityControlImage == header.QualityControlSubject == header.PatientIdentityRemoved == "YES"
    for keyword in ("PatientComments", "ImageComments", "DeidentificationMethod"):
        assert "no person was imaged" in header[keyword].value
    assert header.ImageType[0] == "ORIGINAL"


SPOILED = np.where(np.arange(math.prod(SHAPE)).reshape(SHAPE) == 77, np.nan, 1.0)


@pytest.mark.parametrize(
    ("kind", "volume", "message"),
    [
        (FMISO, SPOILED, "FMISO_SUV: 1 of 4320 voxels are nan or infinite"),
        (CtScan(), np.full(SHAPE, np.inf), "CT_HU: 4320 of 4320 voxels are nan or infinite"),
        (FMISO, np.zeros(SHAPE), "FMISO_SUV: is 0 g/ml at most, so nothing was taken up"),
        (CtScan(), np.full(SHAPE, 4e4), "CT_HU runs from 40000 to 40000, 16 bits hold -32767 to 32767; give it in HU"),
        (MrScan("T1W"), np.ones((20, 18, 11)), "T1W is 20 x 18 x 11, its grid 20 x 18 x 12"),
        (MrScan("T1W"), np.ones((0, 18, 12)), "T1W is 0 x 18 x 12, its grid 20 x 18 x 12"),
    ],
)
def test_what_no_scanner_gives_is_refused_and_leaves_nothing(tmp_path, kind, volume, message):
    with pytest.raises(DicomError, match=message):
        write(tmp_path / "a", volume, grid_of(), kind)
    assert not list(tmp_path.iterdir())


def test_empty_grid_is_refused():
    with pytest.raises(GeometryError, match="not that of a 3D volume"):
        grid_of(shape=(20, 18, 0))


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"weight_kg": -70.0}, "a weight of -70 kg is outside 2 to 400 kg"),
        ({"weight_kg": math.nan}, "a weight of nan kg"),
        ({"day": -1}, "the study is -1 days after the first one"),
        ({"sex": "male"}, "the sex is 'male'; give M, F or nothing"),
        ({"age_years": -3.0}, "an age of -3 years is none"),
        ({"case_id": ""}, "the case id is '' of 0 characters"),
        ({"case_id": "A\\B"}, "without backslash"),
        ({"seed": ""}, "the seed of the UIDs is empty"),
    ],
)
def test_impossible_patients_are_refused(settings_, message):
    with pytest.raises(DicomError, match=message):
        StudyIdentity(**{"case_id": "HN001", "seed": "1", "weight_kg": 70.0, **settings_})


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"tracer": "FMSIO"}, "FMSIO is not a known tracer; did you mean FMISO"),
        ({"dose_bq": 370.0}, "FMISO: dose 370 Bq looks like MBq"),
        ({"dose_bq": -1.0}, "FMISO: dose -1 Bq"),
        ({"uptake_s": -60.0}, "FMISO: the reference time .* is 60 s before the injection"),
        ({"uptake_s": 1e6}, "more than 10 half-lives"),
        ({"duration_s": 0.0}, "FMISO: a scan of 0 s is none"),
        ({"duration_s": math.nan}, "FMISO: a scan of nan s is none"),
    ],
)
def test_impossible_scans_are_refused(settings_, message):
    with pytest.raises(DicomError, match=message):
        PetScan(**{"tracer": "FMISO", "dose_bq": 370e6, "uptake_s": 7200.0, "duration_s": 600.0, **settings_})


def test_impossible_mr_is_refused():
    with pytest.raises(DicomError, match="PDW is no weighting of an MR series; there are T1W"):
        MrScan("PDW")
    with pytest.raises(DicomError, match="T1W: the echo time is -1 ms"):
        MrScan("T1W", echo_time_ms=-1.0)


def test_folder_with_files_is_refused_and_kept(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "precious.txt").write_text("kept")
    with pytest.raises(DicomError, match="no empty folder"):
        write(tmp_path / "a", volume_of(CtScan()), grid_of(), CtScan())
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["precious.txt"]


def test_series_number_must_be_one_that_dicom_has(tmp_path):
    with pytest.raises(DicomError, match="series number 0"):
        write_series(tmp_path / "a", volume_of(CtScan()), grid_of(), kind=CtScan(), study=STUDY, number=0)
