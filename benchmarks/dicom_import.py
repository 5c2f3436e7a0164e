"""Import of a study beside SimpleITK reading the same pixels: python benchmarks/dicom_import.py FOLDER [--rounds 3]

FOLDER holds one study. SimpleITK reads each image series with GDCM's order of files; the import indexes the tree, reads
pixels, computes SUV, draws the masks and writes NIfTI, without registration. Both in this process, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import SimpleITK as sitk  # noqa: N813

from hypoxnet.dicom.rules import default_rules
from hypoxnet.jobs.import_dicom import ImportRequest, import_folder
from hypoxnet.jobs.run_folder import processor_name


def by_simpleitk(folder: Path) -> float:
    """Seconds for the pixels of every image series."""
    begin = time.perf_counter()
    for inside in sorted({path.parent for path in folder.rglob("*.dcm")}):
        for series in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(inside)):
            files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(inside), series)
            if len(files) > 1:
                sitk.ReadImage(files)
    return time.perf_counter() - begin


def by_import(folder: Path) -> float:
    """Seconds for the whole import."""
    with tempfile.TemporaryDirectory() as output:
        begin = time.perf_counter()
        import_folder(ImportRequest(folder, Path(output), default_rules(), None, register=False))
        return time.perf_counter() - begin


def main() -> None:
    """Print JSON: seconds of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sitk.ProcessObject_SetGlobalWarningDisplay(False)
    by_simpleitk(options.folder)
    theirs, ours = [], []
    for _ in range(options.rounds):
        theirs.append(by_simpleitk(options.folder))
        ours.append(by_import(options.folder))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    content = {
        "simpleitk_s": round(statistics.median(theirs), 3),
        "import_s": round(statistics.median(ours), 3),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "machine": processor_name(),
    }
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
