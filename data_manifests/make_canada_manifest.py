"""Write the manifest of the public Canadian head-and-neck cohort (298 patients, four hospitals; no images).

    HYPOXNET_REFERENCE=/data/reference python3 data_manifests/make_canada_manifest.py

Reads `$HYPOXNET_REFERENCE/hnc_outcomes/canada.csv`. Locoregional control with death without locoregional failure as a
competing risk: event 1 at the locoregional failure, 2 at the death of a patient without one, 0 at the last follow-up.
Months are days from the diagnosis over 30.4375. The hospital is in the name of the patient (`HN-CHUM-001`). Volumes are
mm3 in the source and ml here; `chemo` is 1 for `chemo radiation`.

Source: Vallieres et al. 2017, Sci Rep 7:10117 (the cohort, The Cancer Imaging Archive); the table is of a repository of
Maastricht University CDS, MIT.
"""

import argparse
import csv
import os
from pathlib import Path

DAYS_PER_MONTH = 30.4375
MM3_PER_ML = 1000.0
LAST, FAILED, DIED = (
    "Time - diagnosis to last follow-up(days)",
    "Time - diagnosis to LR (days)",
    "Time - diagnosis to Death (days)",
)
COLUMNS = [
    "case_id",
    "site",
    "lrc_months",
    "lrc_event",
    "age",
    "sex",
    "hpv",
    "t_stage",
    "n_stage",
    "subsite",
    "gtv_ml",
    "chemo",
]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, default=os.environ.get("HYPOXNET_REFERENCE"), help="its parent")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "canada.csv")
    arguments = parser.parse_args()
    if arguments.reference is None or not (Path(arguments.reference) / "hnc_outcomes" / "canada.csv").is_file():
        parser.error(f"no hnc_outcomes/canada.csv in {arguments.reference}; name its parent by --reference")
    return arguments


def outcome_of(patient: dict[str, str]) -> tuple[float, int]:
    """Months and event: whichever came first, failure or death, else the last follow-up."""
    if patient["Locoregional"] == "1":
        return float(patient[FAILED]) / DAYS_PER_MONTH, 1
    if patient["Death"] == "1":
        return float(patient[DIED]) / DAYS_PER_MONTH, 2
    return float(patient[LAST]) / DAYS_PER_MONTH, 0


def row_of(patient: dict[str, str]) -> list[object]:
    """A row of the manifest."""
    months, event = outcome_of(patient)
    return [
        patient["id"],
        patient["id"].split("-")[1],
        f"{months:.3f}",
        event,
        patient["age"],
        patient["sex"].lower(),
        {"+": "positive", "-": "negative"}.get(patient["overall_hpv_status"], ""),
        patient["tstage"],
        patient["nstage"],
        patient["site"].lower(),
        f"{float(patient['vol']) / MM3_PER_ML:.3f}",
        int(patient["therapy"] == "chemo radiation"),
    ]


def main() -> None:
    """Write the manifest."""
    arguments = parse_arguments()
    source = Path(arguments.reference) / "hnc_outcomes" / "canada.csv"
    with source.open(newline="", encoding="utf-8-sig") as table:
        patients = list(csv.DictReader(table, delimiter=";"))
    with arguments.output.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(row_of(patient) for patient in patients)
    print(arguments.output)


if __name__ == "__main__":
    main()
