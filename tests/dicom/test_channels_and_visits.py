"""Series of a patient to visits, channels and masks."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pydicom
import pytest
from synthetic import edit, write_series

from hypoxnet.dicom.channels import Channel, read_channel_series
from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.headers import Header
from hypoxnet.dicom.index import SeriesEntry, index_folder
from hypoxnet.dicom.output import Algorithm, OutputSeries
from hypoxnet.dicom.places import Place
from hypoxnet.dicom.rules import Match, default_rules
from hypoxnet.dicom.source import read_source
from hypoxnet.dicom.stacks import Stack
from hypoxnet.dicom.suv import PatientTable
from hypoxnet.dicom.visits import by_patient, masks_of, visits_of
from hypoxnet.dicom.write_rtstruct import write_rtstruct
from hypoxnet.dicom.write_seg import write_seg

RULES = default_rules()
SHAPE = (12, 10, 8)


def study(date: str, uid: str = "1", patient: str = "P1") -> SeriesEntry:
    header = Header(Place(f"{uid}.dcm"), "1.2", f"9.{uid}", patient_id=patient, study_date=date)
    return SeriesEntry(patient, uid, f"8.{uid}", "1.9", "MR", "", (Stack((header,)),))


def named(dates: list[str], **settings) -> dict[str, int]:
    entries = [study(date, str(number)) for number, date in enumerate(dates)]
    return {visit.name: len(visit.series) for visit in visits_of(entries, **settings)}


def test_studies_within_a_week_are_one_visit():
    assert named(["20240102", "20240109", "20240105"]) == {"baseline": 3}


def test_later_visits_are_named_by_days_since_the_first():
    assert named(["20240116", "20240102", "20240120", "20240301"]) == {"baseline": 1, "day014": 2, "day059": 1}


def test_a_visit_begins_with_its_first_study_not_with_its_last():
    """A study every five days does not become one endless visit."""
    assert named(["20240101", "20240106", "20240111", "20240116"]) == {"baseline": 2, "day010": 2}


def test_names_of_visits_hold_no_date():
    assert all(not name.startswith("2024") for name in named(["20240101", "20240201", "20250101"]))


def test_days_of_a_visit_can_be_set():
    assert named(["20240101", "20240103"], days=1) == {"baseline": 1, "day002": 1}


@pytest.mark.parametrize("odd", ["", "2024AB01", "00000000", "20240231"])
def test_studies_without_a_date_belong_to_the_first_visit(odd):
    assert named(["20240102", odd, "20240301"]) == {"baseline": 2, "day059": 1}
    assert named([odd]) == {"baseline": 1}


def test_dates_with_dots_are_read():
    assert named(["2024.01.02", "20240116"]) == {"baseline": 1, "day014": 1}


def test_order_of_series_does_not_matter():
    entries = [study(date, str(n)) for n, date in enumerate(["20240102", "20240116", "", "20240104"])]
    assert {v.name: set(v.series) for v in visits_of(entries)} == {
        v.name: set(v.series) for v in visits_of(reversed(entries))
    }


def test_patients_are_kept_apart():
    entries = [study("20240101", "1", "P2"), study("20240101", "2", "P1"), study("20240101", "3", "P2")]
    assert {patient: len(found) for patient, found in by_patient(entries).items()} == {"P2": 2, "P1": 1}


def write_volume(folder: Path, *, uid: str, modality: str = "MR", frame: str = "1.2.9.1", **changes) -> list[Path]:
    """One volume of a series; volumes of one series share `uid`."""
    volume = next(VOLUMES)
    paths = write_series(folder / str(volume), modality=modality, shape=SHAPE)
    for path in paths:
        dataset = pydicom.dcmread(path)
        sop = f"1.2.8.{volume}.{dataset.InstanceNumber}"
        edit(path, SeriesInstanceUID=f"1.2.7.{uid}", SOPInstanceUID=sop, FrameOfReferenceUID=frame, **changes)
    return paths


VOLUMES = count(1)


def only(folder: Path, uid: str = "1") -> SeriesEntry:
    return next(e for e in index_folder(folder, jobs=1).series if e.series_uid == f"1.2.7.{uid}")


def matched(folder: Path, uid: str = "1") -> Match:
    match = RULES.channel_of(only(folder, uid))
    assert match is not None
    return match


def test_multi_echo_series_is_four_dimensional_with_echo_times_in_seconds(tmp_path):
    for echo in (9.2, 2.3, 6.9, 4.6):
        pixels = np.full((SHAPE[1], SHAPE[0]), round(100 * echo), dtype=np.uint16).tobytes()
        write_volume(tmp_path, uid="1", EchoTime=echo, SeriesDescription="GRE", PixelData=pixels)
    channel = read_channel_series(matched(tmp_path))
    assert channel.name == "RAW_R2STAR"
    assert channel.array.shape == (*SHAPE, 4)
    assert channel.sidecar["EchoTime"] == [0.0023, 0.0046, 0.0069, 0.0092]
    assert channel.sidecar["RepetitionTime"] == 0.5
    assert np.array_equal(channel.array[0, 0, 0], [230, 460, 690, 920])


def test_diffusion_series_has_its_b_values(tmp_path):
    for b in (800, 0, 400):
        write_volume(tmp_path, uid="1", DiffusionBValue=float(b), SeriesDescription="DWI")
    channel = read_channel_series(matched(tmp_path))
    assert (channel.name, channel.sidecar["bval"]) == ("RAW_ADC", [0, 400, 800])


def test_variable_flip_angles_are_told_in_degrees(tmp_path):
    for angle in (15, 2, 8):
        write_volume(tmp_path, uid="1", FlipAngle=angle, SeriesDescription="VFA")
    channel = read_channel_series(matched(tmp_path))
    assert (channel.name, channel.sidecar["FlipAngle"]) == ("RAW_VFA", [2, 8, 15])


def dynamic_pet(folder: Path, **changes) -> None:
    for minute in range(5):
        write_volume(
            folder,
            uid="1",
            modality="PT",
            SeriesDescription="FMISO dynamic",
            AcquisitionTime=f"08{minute + 10:02d}00",
            FrameReferenceTime=60000.0 * minute + 30000.0,
            ActualFrameDuration=60000,
            **changes,
        )


def test_frames_of_a_dynamic_pet_start_after_the_injection(tmp_path):
    """Injected at 8:00, frames of a minute from 8:10."""
    dynamic_pet(tmp_path)
    channel = read_channel_series(matched(tmp_path))
    assert channel.name == "RAW_PET"
    assert channel.sidecar["FrameTimesStart"] == [600, 660, 720, 780, 840]
    assert channel.sidecar["FrameDuration"] == [60] * 5


def test_dynamic_pet_without_injection_is_refused(tmp_path):
    dynamic_pet(tmp_path, RadiopharmaceuticalInformationSequence=[])
    match = replace(matched_as(tmp_path, "RAW_PET"))
    with pytest.raises(DicomError, match="time of injection is missing"):
        read_channel_series(match)


def matched_as(folder: Path, channel: str, **settings) -> Match:
    return Match(only(folder), channel, "test", "test", **settings)


def test_static_pet_becomes_suv_with_its_steps(tmp_path):
    write_volume(tmp_path, uid="1", modality="PT", SeriesDescription="FMISO", PatientWeight=75)
    plain = read_channel_series(matched(tmp_path))
    heavy = read_channel_series(matched(tmp_path), patient=PatientTable(weight_kg=150.0))
    assert plain.name == "FMISO_SUV"
    assert any("START" in step for step in plain.sidecar["SuvSteps"])
    assert plain.sidecar["Suv"]["InjectionToReferenceS"] == 8400
    assert np.allclose(heavy.array, 2 * plain.array)


def test_maps_of_the_scanner_are_scaled_to_the_unit(tmp_path):
    pixels = np.full((SHAPE[1], SHAPE[0]), 1100, dtype=np.uint16).tobytes()
    write_volume(tmp_path, uid="1", ImageType=["DERIVED", "PRIMARY", "ADC"], PixelData=pixels)
    channel = read_channel_series(matched(tmp_path))
    assert (channel.name, channel.sidecar["ScaledBy"]) == ("ADC", 0.001)
    assert np.allclose(channel.array, 1.1)


def test_slope_that_is_no_number_is_refused(tmp_path):
    write_volume(tmp_path, uid="1", modality="CT", RescaleSlope=float("nan"))
    with pytest.raises(DicomError, match="values that are no numbers"):
        read_channel_series(matched_as(tmp_path, "CT_HU"))


def test_volumes_on_different_grids_are_refused(tmp_path):
    for number, echo in enumerate((2.3, 4.6, 6.9, 9.2)):
        write_volume(tmp_path, uid="1", EchoTime=echo, PixelSpacing=[2 + number // 3, 2], SeriesDescription="GRE")
    with pytest.raises(DicomError, match="its volumes lie on different grids"):
        read_channel_series(matched(tmp_path))


def test_burned_in_text_is_refused_until_allowed(tmp_path):
    write_volume(tmp_path, uid="1", modality="CT", BurnedInAnnotation="YES")
    with pytest.raises(DicomError, match="Burned In Annotation"):
        read_channel_series(matched(tmp_path))
    assert read_channel_series(matched(tmp_path), allow_burned_in=True).name == "CT_HU"


def broken(path: Path, tag: bytes) -> None:
    """Text in place of the number of an element."""
    content = bytearray(path.read_bytes())
    at = content.index(tag) + 8
    content[at : at + 2] = b"x."
    path.write_bytes(content)


@pytest.mark.parametrize("tag", [b"\x18\x00\x60\x00DS", b"\x28\x00\x53\x10DS"])
def test_number_that_is_text_is_refused_in_one_sentence(tmp_path, tag):
    """KVP, which only the sidecar looks at, and the slope."""
    for path in write_volume(tmp_path, uid="1", modality="CT", KVP="120.", RescaleSlope="1.0"):
        broken(path, tag)
    with pytest.raises(DicomError) as caught:
        read_channel_series(matched_as(tmp_path, "CT_HU"))
    assert "\n" not in str(caught.value)


def boxes(shape, first=2, last=6) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[first:last, 3:7, 2:6] = True
    return mask


UIDS = count(1)


@pytest.fixture
def draw(tmp_path):
    """Draws regions on a written volume, as a structure set or a segmentation."""

    def make(paths: list[Path], regions: dict[str, np.ndarray], *, how=write_rtstruct) -> Path:
        source = read_source(paths)
        series = OutputSeries(Algorithm("a", "1"), uids=lambda: f"1.2.826.0.1.3680043.8.498.9.{next(UIDS)}")
        path = tmp_path / "dicom" / f"drawn{next(UIDS)}.dcm"
        how(path, regions, grid=source.grid, source=source, series=series)
        return path

    return make


def masks(folder: Path, *, reference: str, leave_out: str = ""):
    """Masks of everything in a folder, its MR series and CT as channels."""
    series = index_folder(folder, jobs=1).series
    names = {"1.2.7.1": "CT_HU", "1.2.7.2": "T1W"}
    channels: list[Channel] = [
        read_channel_series(Match(entry, names[entry.series_uid], "test", "test"))
        for entry in series
        if entry.series_uid in names and names[entry.series_uid] != leave_out
    ]
    one = next(c for c in channels if c.name == reference)
    return masks_of(series, channels, RULES, reference=one)


@pytest.mark.parametrize("how", [write_rtstruct, write_seg])
def test_masks_lie_in_the_frame_of_reference_they_name(tmp_path, draw, how):
    folder = tmp_path / "dicom"
    write_volume(folder, uid="1", modality="CT", frame="1.2.9.1")
    mr = write_volume(folder, uid="2", modality="MR", frame="1.2.9.2")
    shape = read_source(mr).grid.shape
    draw(mr, {"GTVP": boxes(shape)}, how=how)
    found, regions, notes = masks(folder, reference="CT_HU")
    assert [(m.name, m.frame_of_reference_uid) for m in found] == [("GTVP", "1.2.9.2")]
    assert found[0].mask.sum() == boxes(shape).sum()
    assert (len(regions), notes) == (1, [])


def test_region_in_a_frame_without_image_is_left_out_with_a_sentence(tmp_path, draw):
    folder = tmp_path / "dicom"
    write_volume(folder, uid="1", modality="CT", frame="1.2.9.1")
    mr = write_volume(folder, uid="2", modality="MR", frame="1.2.9.2")
    draw(mr, {"GTVP": boxes(read_source(mr).grid.shape)})
    found, regions, notes = masks(folder, reference="CT_HU", leave_out="T1W")
    assert (found, regions) == ([], [])
    assert "lies in frame of reference 1.2.9.2, no imported image does; import the image it was drawn on" in notes[0]


def test_two_claimants_leave_the_mask_out(tmp_path, draw):
    folder = tmp_path / "dicom"
    ct = write_volume(folder, uid="1", modality="CT")
    shape = read_source(ct).grid.shape
    draw(ct, {"GTVP": boxes(shape)})
    draw(ct, {"GTVP": boxes(shape, last=5)})
    found, regions, notes = masks(folder, reference="CT_HU")
    assert (found, len(regions)) == ([], 2)
    assert "GTVP: 2 regions claim it" in notes[0]
    assert "none is taken, make a rule narrower" in notes[0]


def test_region_drawn_on_the_reference_channel_is_preferred(tmp_path, draw):
    folder = tmp_path / "dicom"
    ct = write_volume(folder, uid="1", modality="CT")
    mr = write_volume(folder, uid="2", modality="MR")
    shape = read_source(ct).grid.shape
    draw(mr, {"GTVP": boxes(shape, last=5)})
    draw(ct, {"GTVP": boxes(shape)})
    for reference, last in (("CT_HU", 6), ("T1W", 5)):
        found, regions, notes = masks(folder, reference=reference)
        assert [m.mask.sum() for m in found] == [boxes(shape, last=last).sum()]
        assert len(regions) == 2
        assert f"is taken, which was drawn on {reference}" in notes[0]


def test_regions_without_rule_are_left_out(tmp_path, draw):
    folder = tmp_path / "dicom"
    ct = write_volume(folder, uid="1", modality="CT")
    shape = read_source(ct).grid.shape
    draw(ct, {"PTV": boxes(shape), "GTVN": boxes(shape)})
    assert [m.name for m in masks(folder, reference="CT_HU")[0]] == ["GTVN"]
