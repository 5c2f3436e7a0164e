"""The index of a DICOM tree: files per second, use of the cores and memory, beside a plain pydicom loop.

    python benchmarks/dicom_index.py --files 2000      half a minute
    python benchmarks/dicom_index.py                   20,000 files, some minutes on two cores
    python benchmarks/dicom_index.py --tree /tmp/tree  keep the files for the next time

The files are dynamic PET of 30 frames of 50 slices, each with a header of about 90 elements, two nested sequences and
2 KiB of pixels. The plain loop is `pydicom.dcmread(file, stop_before_pixels=True)`, one process, the same attributes
looked at, on a tenth of the files. Both run once before they are timed, on the first files, so that the file system
has them cached alike. Each size runs in a process of its own, since the peak of a process never falls. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage

from hypoxnet.dicom.index import index_folder

FRAMES, SLICES = 30, 50
MIB = 2**20


def main() -> None:
    """Make the tree, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--jobs", type=int, default=0, help="processes; 0 is one per core")
    parser.add_argument("--tree", type=Path, help="folder for the files; a temporary one by default")
    parser.add_argument("--one", choices=("index", "loop"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(MEASURES[arguments.one](arguments.tree, arguments.jobs)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        tree = arguments.tree or Path(temporary)
        small, large = make_tree(tree / "tenth", arguments.files // 10), make_tree(tree / "all", arguments.files)
        measured = {
            "index": measure("index", large, arguments.jobs),
            "index_of_a_tenth": measure("index", small, arguments.jobs),
            "index_of_a_tenth_one_process": measure("index", small, 1),
            "plain_loop_of_a_tenth": measure("loop", small, 1),
        }
    gain = measured["index"]["files_per_s"] / measured["plain_loop_of_a_tenth"]["files_per_s"]
    print(json.dumps({**measured, "times_the_plain_loop": round(gain, 2), "cores": os.cpu_count()}, indent=1))


def measure(what: str, tree: Path, jobs: int) -> dict[str, float]:
    """One measure in a process of its own."""
    command = [sys.executable, __file__, "--one", what, "--tree", str(tree), "--jobs", str(jobs)]
    answer: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return answer


def make_tree(folder: Path, files: int) -> Path:
    """Files that differ in their uids, position and times only, copied as bytes; those that are there are kept."""
    template, numbers = template_bytes()
    for number in range(files):
        path = folder / f"d{number % 97}" / f"I{number}"
        if path.exists():
            continue
        series, within = divmod(number, FRAMES * SLICES)
        frame, depth = divmod(within, SLICES)
        content = template
        for text, value in zip(numbers, (number, series, frame, depth), strict=True):
            content = content.replace(text, str(int(text[:1]) * 10**8 + value).encode())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def template_bytes() -> tuple[bytes, tuple[bytes, ...]]:
    """One file, and the numbers in it that stand for instance, series, frame and slice."""
    numbers = (b"111111111", b"222222222", b"333333333", b"444444444")
    instance, series, frame, depth = (text.decode() for text in numbers)
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = PositronEmissionTomographyImageStorage, f"1.2.{instance}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"1.3.{series}", f"1.4.{series}"
    dataset.FrameOfReferenceUID, dataset.PatientID, dataset.PatientName = f"1.5.{series}", series, "Doe^Jane"
    dataset.Modality, dataset.Manufacturer, dataset.SeriesDescription = "PT", "GE MEDICAL SYSTEMS", "FMISO dynamic"
    dataset.ImageType, dataset.Units, dataset.CorrectedImage = ["ORIGINAL", "PRIMARY"], "BQML", ["DECY", "ATTN", "SCAT"]
    dataset.InstanceNumber, dataset.FrameReferenceTime = instance, frame
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = ["0", "0", depth], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [2, 2], 3
    dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.PixelData = 32, 32, 16, bytes(2048)
    tracer, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "422598008", "SCT", "Fluoromisonidazole F^18^"
    tracer.Radiopharmaceutical, tracer.RadiopharmaceuticalCodeSequence = "FMISO", [code]
    dataset.RadiopharmaceuticalInformationSequence = [tracer]
    block = dataset.private_block(0x0009, "GEMS_PETD_01", create=True)
    for element in range(60):
        block.add_new(element, "LO", f"private {element}")
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with tempfile.TemporaryDirectory() as folder:
        dataset.save_as(Path(folder) / "template", enforce_file_format=True)
        return (Path(folder) / "template").read_bytes(), numbers


def measure_index(tree: Path, jobs: int) -> dict[str, float]:
    """The index, after one pass over the files."""
    for path in tree.rglob("I*"):
        path.read_bytes()
    begin, cpu = time.perf_counter(), cpu_s()
    index = index_folder(tree, jobs=jobs)
    wall, used = time.perf_counter() - begin, cpu_s() - cpu
    stacks = sum(row.stacks for row in index.table())
    return {**figures(index.files, wall, used), "series": len(index.series), "stacks": stacks}


def measure_loop(tree: Path, jobs: int) -> dict[str, float]:
    """What a script does: read each file, group by series."""
    files = sorted(tree.rglob("I*"))
    for path in files:
        path.read_bytes()
    begin, cpu = time.perf_counter(), cpu_s()
    series = defaultdict(list)
    names = ("PatientID", "Modality", "SeriesDescription", "ImagePositionPatient", "ImageOrientationPatient", "Rows")
    for path in files:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        values = [dataset.get(name) for name in (*names, "FrameReferenceTime", "SOPInstanceUID", "ImageType")]
        series[dataset.StudyInstanceUID, dataset.SeriesInstanceUID].append(values)
    wall = time.perf_counter() - begin
    return {**figures(len(files), wall, cpu_s() - cpu), "series": len(series)}


def figures(files: int, wall_s: float, used_s: float) -> dict[str, float]:
    """Speed, cores kept busy, and peaks of memory of this process and of the largest of its children."""
    own, children = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {
        "files": files,
        "wall_s": round(wall_s, 2),
        "files_per_s": round(files / wall_s),
        "cores_busy": round(used_s / wall_s, 2),
        "peak_mib": round(own),
        "peak_of_a_worker_mib": round(children),
    }


def cpu_s() -> float:
    """Processor seconds of this process and of its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


MEASURES = {"index": measure_index, "loop": measure_loop}

if __name__ == "__main__":
    main()
