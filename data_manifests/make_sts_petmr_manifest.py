"""Write the manifest of the public soft-tissue sarcoma PET/MR cohort (41 patients, FDG PET and MR T1).

    HYPOXNET_REFERENCE=/data/reference python3 data_manifests/make_sts_petmr_manifest.py

Reads `$HYPOXNET_REFERENCE/sts_petmr`: one folder per patient with `PET_image`, `PET_mask`, `MR_T1_image` as NIfTI, and
`lung_metastasis.csv`. Folds: patients sorted by (outcome, name), fold = rank modulo 5, so that anyone can repeat them.
The outcome is not locoregional control: it is lung metastasis, a yes/no end point, written into the column `failed`.

Source: Vallieres et al. 2015, Phys Med Biol 60:5471; The Cancer Imaging Archive, CC BY 3.0.
"""

import argparse
import csv
import os
from pathlib import Path

FOLDS = 5
FILES = {"FDG_SUV": "PET_image", "T1W": "MR_T1_image", "GTVP": "PET_mask"}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, default=os.environ.get("HYPOXNET_REFERENCE"), help="holds sts_petmr/")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "sts_petmr.csv")
    arguments = parser.parse_args()
    if arguments.reference is None or not (Path(arguments.reference) / "sts_petmr").is_dir():
        parser.error(f"no folder sts_petmr in {arguments.reference}; name its parent by --reference")
    return arguments


def file_of(patient: Path, stem: str) -> str:
    """Absolute path of an image, empty where the patient has none."""
    found = sorted(patient.glob(f"{stem}.nii*"))
    return str(found[0].resolve()) if found else ""


def main() -> None:
    """Write the manifest."""
    arguments = parse_arguments()
    cohort = Path(arguments.reference) / "sts_petmr"
    with (cohort / "lung_metastasis.csv").open(newline="", encoding="utf-8") as table:
        outcomes = sorted((int(row["lung_metastasis"]), row["patient_id"]) for row in csv.DictReader(table))
    folds = {patient: rank % FOLDS for rank, (_, patient) in enumerate(outcomes)}
    with arguments.output.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["case_id", "fold", *FILES, "failed"])
        for failed, patient in sorted(outcomes, key=lambda row: row[1]):
            files = [file_of(cohort / patient, stem) for stem in FILES.values()]
            writer.writerow([patient, folds[patient], *files, failed])
    print(arguments.output)


if __name__ == "__main__":
    main()
