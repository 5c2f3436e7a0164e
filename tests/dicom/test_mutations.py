"""Broken and hostile files end in one sentence each: no other exception, no endless loop, no flood of memory."""

from __future__ import annotations

import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from mutants import MUTATIONS, plain, real_files
from synthetic import edit, write_series

from hypoxnet.dicom.channels import read_channel_series
from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.headers import read_header
from hypoxnet.dicom.index import index_folder
from hypoxnet.dicom.rules import Match, default_rules
from hypoxnet.dicom.segments import read_seg
from hypoxnet.dicom.structures import read_structures
from hypoxnet.dicom.visits import by_patient, visits_of
from hypoxnet.dicom.volumes import slices_of

COUNT = 600
LONGEST_S = 2.0
SHAPE = (6, 5, 4)


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("originals")
    written = [write_series(folder / m, modality=m, shape=SHAPE)[0] for m in ("CT", "MR", "PT")]
    return [path.read_bytes() for path in [*written, *real_files()]]


def mutated(originals: list[bytes], seed: int) -> tuple[str, bytes]:
    generator = np.random.default_rng(seed)
    content = originals[int(generator.integers(len(originals)))] if seed % 2 else originals[seed // 2 % 3]
    usable = MUTATIONS if plain(content) else MUTATIONS[:5]
    mutation = usable[int(generator.integers(len(usable)))]
    return mutation.__name__, mutation(content, generator)


def test_mutants_are_read_or_refused_in_one_sentence(originals, tmp_path):
    path = tmp_path / "mutant.dcm"
    said: list[str] = []
    for seed in range(COUNT):
        with warnings.catch_warnings():
            # Of pydicom writing what it knows to be wrong.
            warnings.simplefilter("ignore")
            name, content = mutated(originals, seed)
        path.write_bytes(content)
        began = time.thread_time()
        for read in (read_header, slices_of, read_structures, read_seg):
            try:
                read(path)
            except DicomError as error:
                said.append(str(error))
            except Exception as error:
                raise AssertionError(f"{read.__name__} of seed {seed}, {name}: {error!r}") from error
        assert time.thread_time() - began < LONGEST_S, (seed, name)
    assert len(said) > COUNT
    assert all(len(text.splitlines()) == 1 for text in said)


def test_series_with_a_broken_slice_become_channels_or_a_sentence(tmp_path):
    rules = default_rules()
    said: list[str] = []
    read = 0
    for seed in range(60):
        folder = tmp_path / str(seed)
        modality = ("CT", "MR", "PT")[seed % 3]
        paths = write_series(folder, modality=modality, shape=SHAPE)
        for path in paths:
            edit(path, SeriesDescription="FMISO T1", PatientWeight="75")
        generator = np.random.default_rng(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = MUTATIONS[seed % len(MUTATIONS)](paths[0].read_bytes(), generator)
        paths[0].write_bytes(content)
        for found in by_patient(index_folder(folder, jobs=1).series).values():
            for visit in visits_of(found):
                for series in visit.series:
                    match = rules.channel_of(series) or Match(series, "T1W", "test", "test")
                    try:
                        read_channel_series(match)
                        read += 1
                    except DicomError as error:
                        said.append(str(error))
    assert read > 0
    assert said
    assert all(len(text.splitlines()) == 1 for text in said)


def test_two_patients_in_one_series_are_a_fault(tmp_path):
    paths = write_series(tmp_path, shape=SHAPE)
    edit(paths[2], PatientID="HN0043")
    index = index_folder(tmp_path, jobs=1)
    assert index.series == ()
    assert "holds 2 patients" in index.faults[0]


def test_archive_with_a_path_that_leaves_is_refused(tmp_path):
    path = write_series(tmp_path / "series", shape=SHAPE)[0]
    folder = tmp_path / "tree"
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(path, "../../outside.dcm")
    index = index_folder(folder, jobs=1)
    assert index.series == ()
    assert "outside.dcm" in index.faults[0]
    assert not (tmp_path.parent / "outside.dcm").exists()


def test_picture_named_as_dicom_is_a_fault(tmp_path):
    (tmp_path / "photo.dcm").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4)
    index = index_folder(tmp_path, jobs=1)
    assert index.series == ()
    assert "is named as DICOM but holds something else" in index.faults[0]


def test_small_file_that_promises_gigabytes_is_refused_at_once(tmp_path):
    """Run-length coding makes at most 64 bytes of one."""
    path: Path = write_series(tmp_path, shape=SHAPE)[0]
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless
    dataset.Rows = dataset.Columns = 60000
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(200)])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    began = time.thread_time()
    with pytest.raises(DicomError):
        slices_of(path)
    assert time.thread_time() - began < LONGEST_S
