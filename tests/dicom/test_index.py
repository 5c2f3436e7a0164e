"""A tree of DICOM files becomes series and volumes, whatever its order, its archives and its copies."""

from __future__ import annotations

import itertools
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, MRImageStorage

from hypoxnet.dicom import places
from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.headers import Header
from hypoxnet.dicom.index import index_folder
from hypoxnet.dicom.places import Place
from hypoxnet.dicom.stacks import stacks_of

REFERENCE = Path(os.environ.get("HYPOXNET_REFERENCE", "/nowhere"))
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def instance(series: str, slice_number: int, **attributes: object) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.Modality, dataset.PatientID, dataset.StudyDate = MRImageStorage, "MR", "P1", "20240102"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", f"1.2.3.{series}"
    dataset.SOPInstanceUID = f"1.2.3.{series}.{slice_number}"
    dataset.SeriesDescription = f"series {series}"
    dataset.ImageOrientationPatient, dataset.ImagePositionPatient = list(AXIAL), [0, 0, 3 * slice_number]
    dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.PixelData = 2, 2, 16, bytes(8)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def write(dataset: Dataset, path: Path, *, written_by: str = "A") -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.SourceApplicationEntityTitle = written_by
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def multi_echo() -> Iterator[Dataset]:
    for number, (z, echo) in enumerate(itertools.product(range(5), (2.3, 4.6, 6.9, 9.2))):
        yield instance("1", number, ImagePositionPatient=[0, 0, 2.5 * z], EchoTime=echo, InstanceNumber=number)


def dynamic_pet(frames: int = 6, slices: int = 4) -> Iterator[Dataset]:
    for number, (frame, z) in enumerate(itertools.product(range(frames), range(slices))):
        yield instance(
            "2",
            number,
            Modality="PT",
            ImagePositionPatient=[0, 0, 3.27 * z],
            FrameReferenceTime=1000.0 * (frame + 1),
            InstanceNumber=number,
        )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two series, shuffled over nested folders, with names that say nothing and without suffix."""
    datasets = [*multi_echo(), *dynamic_pet()]
    datasets = [datasets[7 * k % len(datasets)] for k in range(len(datasets))]  # 7 and 44 share no divisor
    for number, dataset in enumerate(datasets):
        write(dataset, tmp_path / "tree" / f"d{number % 3}" / f"e{number % 5}" / f"I{number}")
    return tmp_path / "tree"


def summary(folder: Path) -> list[tuple[object, ...]]:
    return [tuple(row) for row in index_folder(folder, jobs=1).table()]


EXPECTED = [("P1", "1", "", "MR", 20, 4, "series 1"), ("P1", "1", "", "PT", 24, 6, "series 2")]


def test_a_shuffled_tree_is_sorted_into_series_and_volumes(tree):
    index = index_folder(tree, jobs=1)
    assert [tuple(row) for row in index.table()] == EXPECTED
    echoes, pet = index.series
    assert [stack.first.echo_time_ms for stack in echoes.stacks] == [2.3, 4.6, 6.9, 9.2]
    assert (echoes.differs_in, echoes.times, echoes.slices) == (("echo time",), 1, 5)
    assert [stack.first.frame_reference_time_ms for stack in pet.stacks] == [1000.0 * k for k in range(1, 7)]
    assert (pet.differs_in, pet.times, pet.slices) == (("frame reference time",), 6, 4)
    for stack in (*echoes.stacks, *pet.stacks):
        depths = [header.position_mm[2] for header in stack.headers]
        assert depths == sorted(set(depths))
    assert (index.faults, index.not_dicom, index.duplicates, index.files) == ((), (), 0, 44)


def test_names_in_the_table_can_be_pseudonyms(tree):
    assert {row.patient for row in index_folder(tree, jobs=1).table(lambda name: f"HN-{name}")} == {"HN-P1"}


def test_processes_find_what_one_finds(tree, monkeypatch):
    monkeypatch.setattr("hypoxnet.dicom.index.FEW", 1)
    monkeypatch.setattr("hypoxnet.dicom.index.CHUNK", 5)
    seen = []
    index = index_folder(tree, jobs=2, progress=lambda done, total: seen.append((done, total)))
    assert index == index_folder(tree, jobs=1)
    assert seen[-1] == (44, 44)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_archive_is_read_like_its_folder(tree, tmp_path):
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "a.ZIP", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(tree.rglob("I*")):
            archive.write(path, path.relative_to(tree))
    before = set(tmp_path.rglob("*"))
    assert summary(tmp_path / "zipped") == EXPECTED
    assert summary(tmp_path / "zipped" / "a.ZIP") == EXPECTED
    assert set(tmp_path.rglob("*")) == before


def test_a_long_member_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("hypoxnet.dicom.headers.PREFIX_BYTES", 4096)
    long_pixels = instance("1", 0, Rows=200, Columns=200, PixelData=os.urandom(80000))
    long_header = instance("1", 1, ImageComments="x" * 9000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, dataset in enumerate((long_pixels, long_header)):
            archive.write(write(dataset, tmp_path / f"{number}"), f"{number}")
            (tmp_path / f"{number}").unlink()
        archive.writestr("cut", bytes(128) + b"DICM")
    index = index_folder(tmp_path, jobs=1)
    assert [entry.files for entry in index.series] == [2]
    assert len(index.faults) == 1
    assert "a.zip!cut" in index.faults[0]


@pytest.mark.parametrize(
    "name", ["../1.dcm", "a/../../1.dcm", "/etc/1.dcm", "C:/1.dcm", "..\\1.dcm", "\\\\host\\1.dcm"]
)
def test_an_archive_whose_member_leaves_it_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good", b"x")
        archive.writestr(zipfile.ZipInfo(name), b"x")
    index = index_folder(tmp_path, jobs=1)
    assert index.series == ()
    assert len(index.faults) == 1
    assert "leaves the archive" in index.faults[0]


def test_a_name_with_two_dots_in_it_does_not_leave_the_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a..b/1..txt", b"x")
    assert index_folder(tmp_path, jobs=1).faults == ()


def test_a_bomb_is_refused_by_ratio_and_by_size(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "SMALL_MEMBER_BYTES", 100_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("blank slice", bytes(90_000))
    assert index_folder(tmp_path, jobs=1).faults == ()
    with zipfile.ZipFile(tmp_path / "a.zip", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(2_000_000))
    (fault,) = index_folder(tmp_path, jobs=1).faults
    assert "'bomb' expands" in fault
    assert "at most 200 times" in fault
    monkeypatch.setattr(places, "LARGEST_RATIO", 1e9)
    monkeypatch.setattr(places, "LARGEST_ARCHIVE_BYTES", 2_000_000)
    (fault,) = index_folder(tmp_path, jobs=1).faults
    assert "declares" in fault


def test_an_archive_cut_short_is_a_fault(tree, tmp_path):
    with zipfile.ZipFile(tree / "a.zip", "w") as archive:
        archive.writestr("1", bytes(1000))
    (tree / "a.zip").write_bytes((tree / "a.zip").read_bytes()[:500])
    index = index_folder(tree, jobs=1)
    assert [tuple(row) for row in index.table()] == EXPECTED
    assert "cut short" in index.faults[0]


def test_identical_copies_are_left_out_and_counted(tree):
    shutil.copytree(tree / "d1", tree / "backup")
    copies = len(list((tree / "backup").rglob("I*")))
    again = write(next(multi_echo()), tree / "from another archive", written_by="PACS2")
    index = index_folder(tree, jobs=1)
    assert [tuple(row) for row in index.table()] == EXPECTED
    assert index.duplicates == copies + 1
    assert index.faults == ()
    assert again.exists()


def test_an_instance_with_two_contents_is_a_fault_and_neither_is_used(tree):
    write(next(multi_echo()), tree / "original")
    write(instance("1", 0, ImagePositionPatient=[0, 0, 99], EchoTime=2.3), tree / "changed")
    index = index_folder(tree, jobs=1)
    assert index.series[0].files == 19
    (fault,) = index.faults
    assert "has the SOP Instance UID of" in fault


def test_a_series_of_two_patients_is_a_fault(tree):
    write(instance("1", 900, PatientID="P2"), tree / "stray")
    index = index_folder(tree, jobs=1)
    assert [entry.modality for entry in index.series] == ["PT"]
    (fault,) = index.faults
    assert "2 patients" in fault
    assert "stray" in fault


def test_other_files_are_listed_and_broken_ones_are_faults(tree):
    (tree / "read me.txt").write_text("hello", encoding="utf-8")
    directory = Dataset()
    directory.SOPClassUID, directory.SOPInstanceUID = MediaStorageDirectoryStorage, "1.2.9"
    write(directory, tree / "DICOMDIR")
    cut = write(instance("7", 0), tree / "cut.dcm")
    cut.write_bytes(cut.read_bytes()[:-3])
    index = index_folder(tree, jobs=1)
    assert [place.name for place in index.not_dicom] == ["DICOMDIR", "read me.txt"]
    (fault,) = index.faults
    assert "5 bytes of 8 of its pixels" in fault


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DicomError, match="no such folder"):
        index_folder(tmp_path / "no", jobs=1)


def header(name: str, z: float = 0.0, **values: object) -> Header:
    plain = Header(Place(name), "1.2", name, "P1", modality="MR", position_mm=(0.0, 0.0, z), orientation=AXIAL)
    return replace(plain, **values)


def grid(moments: Iterable[dict[str, object]], slices: int = 3) -> list[Header]:
    return [
        header(f"{m}.{z}", 4.0 * z, instance_number=m * slices + z, **values)
        for m, values in enumerate(moments)
        for z in range(slices)
    ]


MOMENTS = {
    "temporal position": [{"temporal_position": k} for k in (1, 2, 3)],
    "acquisition number": [{"acquisition_number": k} for k in (1, 2, 3)],
    "acquisition time": [{"acquisition_time": f"2024010210000{k}.000000", "acquisition_number": 1} for k in range(3)],
    "trigger time": [{"trigger_time_ms": 100.0 * k} for k in range(3)],
    "order of the instances": [{}, {}, {}],
}


@pytest.mark.parametrize("split_by", MOMENTS)
def test_moments_are_told_apart_by_what_there_is(split_by):
    stacks = stacks_of(grid(MOMENTS[split_by]))
    assert [len(stack) for stack in stacks] == [3, 3, 3]
    assert {stack.split_by for stack in stacks} == {split_by}
    assert [[h.sop_uid for h in stack.headers] for stack in stacks] == [
        [f"{m}.{z}" for z in range(3)] for m in range(3)
    ]


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(sorted(MOMENTS)))
def test_the_order_of_files_does_not_matter(generator, split_by):
    headers = grid([{**moment, "echo_times_ms": (te,)} for moment in MOMENTS[split_by] for te in (2.3, 4.6)])
    expected = stacks_of(headers)
    shuffled = headers.copy()
    generator.shuffle(shuffled)
    assert stacks_of(shuffled) == expected
    assert sorted(h.sop_uid for stack in expected for h in stack.headers) == sorted(h.sop_uid for h in headers)


def test_slices_with_their_own_times_stay_one_volume():
    """Whole-body PET: each bed position has its time, but no slice occurs twice."""
    beds = [header(f"{z}", 3.0 * z, frame_reference_time_ms=1000.0 * (z // 4)) for z in range(12)]
    (stack,) = stacks_of(beds)
    assert len(stack) == 12
    assert stack.split_by == ""


def test_an_interleaved_series_is_split_by_order_not_by_time():
    slices = [
        replace(h, acquisition_time=f"202401021000{k:02}.000000", instance_number=k)
        for k, h in enumerate(grid([{}, {}]))
    ]
    assert [len(stack) for stack in stacks_of(slices)] == [3, 3]


def test_a_missing_slice_is_noted(tree):
    pet = next(p for p in sorted(tree.rglob("I*")) if index_folder(p, jobs=1).series[0].modality == "PT")
    pet.unlink()
    index = index_folder(tree, jobs=1)
    assert sorted(len(stack) for stack in index.series[1].stacks) == [3, 4, 4, 4, 4, 4]
    assert index.notes == ("series series 2: its volumes have 3 to 4 slices; some may be missing",)


def test_rounded_direction_cosines_are_one_orientation_and_a_survey_has_several():
    rounded = [replace(h, orientation=(1.0, 1e-5 * k, 0.0, 0.0, 1.0, 0.0)) for k, h in enumerate(grid([{}]))]
    assert len(stacks_of(rounded)) == 1
    across = [replace(header(f"s{k}"), orientation=SAGITTAL, position_mm=(5.0 * k, 0.0, 0.0)) for k in range(4)]
    assert sorted(len(stack) for stack in stacks_of([*grid([{}]), *across])) == [3, 4]


def test_magnitude_and_phase_are_two_volumes():
    both = [*grid([{"image_type": ("ORIGINAL", "PRIMARY", "M")}])]
    both += [replace(h, sop_uid=h.sop_uid + "p", image_type=("ORIGINAL", "PRIMARY", "P")) for h in both]
    assert [len(stack) for stack in stacks_of(both)] == [3, 3]


def test_each_structure_set_is_its_own():
    sets = [replace(header(f"{k}"), modality="RTSTRUCT", position_mm=(), orientation=()) for k in range(3)]
    assert [len(stack) for stack in stacks_of(sets)] == [1, 1, 1]


@pytest.mark.reference
@pytest.mark.skipif(not (REFERENCE / "sts_dicom").is_dir(), reason="HYPOXNET_REFERENCE names no folder with sts_dicom")
def test_a_real_patient():
    index = index_folder(REFERENCE / "sts_dicom", jobs=1)
    assert index.faults == ()
    assert sorted((row.modality, row.files, row.stacks) for row in index.table()) == [
        ("MR", 40, 1),
        ("MR", 40, 1),
        ("PT", 267, 1),
        ("RTSTRUCT", 1, 1),
        ("RTSTRUCT", 1, 1),
        ("RTSTRUCT", 1, 1),
    ]
