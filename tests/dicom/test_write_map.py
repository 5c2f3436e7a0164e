from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.sr._concepts_dict import concepts
from synthetic import ORIENTATIONS, onto, rotated, write_series

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.map_codes import PRIVATE_SCHEME, quantity_code, unit_code
from hypoxnet.dicom.source import read_source
from hypoxnet.dicom.write_map import PADDING, write_parametric_map
from hypoxnet.geometry import LPS_TO_RAS, Grid
from hypoxnet.quantities import QUANTITIES, Modality, Quantity

# Not in the concepts of pydicom: units that UCUM spells and DICOM does not list.
UNLISTED = {"ml/ml/min", "ml/dl/min", "mmol/l", "mmol.s/l"}


def a_map(shape, *, seed=0):
    values = np.random.default_rng(seed).normal(1.5, 0.5, shape).astype(np.float32)
    values[:2] = np.nan
    return values


def write(path: Path, array, source, series, *, name="FMISO_SUV", grid=None):
    write_parametric_map(path, array, quantity=QUANTITIES[name], grid=grid or source.grid, source=source, series=series)
    return pydicom.dcmread(path)


def read_back(path: Path, grid: Grid) -> np.ndarray:
    volume = highdicom.imread(path).get_volume(apply_real_world_transform=False)
    return onto(volume.array, LPS_TO_RAS @ volume.affine, grid)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("name", ["FMISO_SUV", "FMISO_TMR", "ADC", "KTRANS", "PO2"])
def test_map_follows_the_standard(make_source, make_output, tmp_path, assert_valid, modality, name):
    source = make_source("oblique", modality=modality)
    write(tmp_path / "map.dcm", a_map(source.grid.shape), source, make_output(), name=name)
    assert_valid(tmp_path / "map.dcm")


@pytest.mark.parametrize("body_part", ["EXTREMITY", "BREAST", "NECK", "HEAD", "PHANTOM"])
def test_map_of_any_body_part_follows_the_standard(make_source, make_output, tmp_path, assert_valid, body_part):
    source = make_source(body_part=body_part)
    header = write(tmp_path / "map.dcm", a_map(source.grid.shape), source, make_output())
    assert header.BodyPartExamined == body_part
    assert_valid(tmp_path / "map.dcm")


def test_map_without_body_part_is_of_head_and_neck(make_source, make_output, tmp_path):
    source = make_source()
    for header in source.datasets:
        del header.BodyPartExamined
    assert write(tmp_path / "m", a_map(source.grid.shape), source, make_output()).BodyPartExamined == "HEADNECK"


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_values_come_back_exactly_where_they_were(make_source, make_output, tmp_path, orientation):
    source = make_source(orientation)
    values = a_map(source.grid.shape)
    write(tmp_path / "map.dcm", values, source, make_output())
    stored = read_back(tmp_path / "map.dcm", source.grid)
    assert np.array_equal(stored, np.where(np.isnan(values), np.float32(PADDING), values))


angles = st.floats(-180, 180)
steps = st.floats(0.5, 6.0)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.tuples(angles, angles, angles), st.tuples(steps, steps, steps))
def test_any_orientation_and_spacing_comes_back(tmp_path_factory, make_output, degrees, spacing_mm):
    folder = tmp_path_factory.mktemp("any")
    source = read_source(
        write_series(folder / "source", directions=rotated(degrees), spacing_mm=spacing_mm, shape=(5, 6, 4))
    )
    values = np.arange(120, dtype=np.float32).reshape(source.grid.shape)
    write(folder / "map.dcm", values, source, make_output())
    volume = highdicom.imread(folder / "map.dcm").get_volume(apply_real_world_transform=False)
    there = np.argwhere(np.ones(volume.array.shape, dtype=bool))
    lps = np.column_stack([there, np.ones(len(there))]) @ volume.affine.T
    order = np.argsort(volume.array.ravel())
    expected = np.column_stack([np.argwhere(values >= 0), np.ones(120)]) @ (LPS_TO_RAS @ source.grid.matrix).T
    assert np.abs(lps[order, :3] - expected[:, :3]).max() < 1e-3


def test_map_on_another_grid_refers_to_all_of_the_source(make_source, make_output, tmp_path, assert_valid):
    source = make_source("coronal", modality="MR")
    grid = Grid.from_affine((7, 8, 6), [[-2.5, 0, 0, 25], [0, 2, 0, -40], [0, 0, 2, 5], [0, 0, 0, 1]])
    values = a_map(grid.shape)
    header = write(tmp_path / "map.dcm", values, source, make_output(), grid=grid)
    stored = read_back(tmp_path / "map.dcm", grid)
    assert np.array_equal(stored[2:], values[2:])
    referenced = header.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in referenced} == {h.SOPInstanceUID for h in source.datasets}
    assert_valid(tmp_path / "map.dcm")


def test_header_is_of_the_same_patient_study_and_frame_of_reference(make_source, make_output, tmp_path):
    source = make_source(modality="PT")
    header = write(tmp_path / "map.dcm", a_map(source.grid.shape), source, make_output())
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID"):
        assert header[keyword].value == source.first[keyword].value
    assert "RESEARCH ONLY" in header.SeriesDescription
    assert header.ContentQualification == "RESEARCH"


def test_mapping_says_unit_quantity_and_range_and_leaves_numbers_alone(make_source, make_output, tmp_path):
    source = make_source()
    values = a_map(source.grid.shape)
    header = write(tmp_path / "map.dcm", values, source, make_output(), name="ADC")
    mapping = header.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "um2/ms"
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "113041"
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1.0, 0.0)
    assert mapping.DoubleFloatRealWorldValueFirstValueMapped == float(np.nanmin(values))
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == float(np.nanmax(values))


def test_voxels_without_value_are_declared_padding_outside_the_range(make_source, make_output, tmp_path):
    source = make_source()
    header = write(tmp_path / "map.dcm", a_map(source.grid.shape), source, make_output())
    assert header.FloatPixelPaddingValue == PADDING == np.float32(PADDING)
    mapping = header.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.DoubleFloatRealWorldValueFirstValueMapped > PADDING
    complete = np.ones(source.grid.shape, dtype=np.float32)
    assert "FloatPixelPaddingValue" not in write(tmp_path / "full.dcm", complete, source, make_output())


@pytest.mark.parametrize("name", QUANTITIES)
def test_every_quantity_has_codes_that_dicom_can_hold_and_the_standard_knows(name):
    quantity = QUANTITIES[name]
    for code in (unit_code(quantity), quantity_code(quantity)):
        assert len(code.value) <= 16 or code.value in _long_codes()
        assert 0 < len(code.meaning) <= 64
        if code.scheme_designator != PRIVATE_SCHEME and code.value not in UNLISTED:
            known = [entry[code.value] for entry in concepts[code.scheme_designator].values() if code.value in entry]
            assert code.meaning in {meaning for meaning, _ in known}


def _long_codes() -> set[str]:
    return {value for entry in concepts["UCUM"].values() for value in entry if len(value) > 16}


def test_a_unit_without_a_code_is_refused():
    strange = Quantity("X", "x", "furlong", Modality.MAP, 0.0, 1.0, "-")
    with pytest.raises(DicomError, match="furlong"):
        unit_code(strange)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((20, 18, 12), np.nan), "all 4320 voxels are nan"),
        (np.full((20, 18, 12), np.inf), "infinity is none"),
        (np.full((20, 18, 12), -1e35), "runs from -1e"),
        (np.ones((20, 18, 11)), "20 x 18 x 11, its grid 20 x 18 x 12"),
    ],
)
def test_what_is_no_map_is_refused_and_leaves_no_file(make_source, make_output, tmp_path, values, message):
    source = make_source()
    with pytest.raises(DicomError, match=message):
        write(tmp_path / "map.dcm", values, source, make_output())
    assert not (tmp_path / "map.dcm").exists()


def test_counted_uids_and_a_fixed_time_make_equal_files(make_source, make_output, tmp_path):
    source = make_source()
    for name in ("a", "b"):
        write(tmp_path / name, a_map(source.grid.shape), source, make_output())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
