"""Write the manifest of the public Canadian head-and-neck cohort (298 patients, four hospitals; no images).

    HYPOXNET_REFERENCE=/data/reference python3 data_manifests/make_canada_manifest.py

Reads `$HYPOXNET_REFERENCE/hnc_outcomes/canada.csv`. Locoregional control with death without locoregional failure as a
competing risk: event 1 at the locoregional failure, 2 at the death of a patient without one, 0 at the last follow-up;
distant metastasis (`dm`) likewise, and overall survival (`os`).
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
LAST, FAILED, SPREAD, DIED = (
    "Time - diagnosis to last follow-up(days)",
    "Time - diagnosis to LR (days)",
    "Time - diagnosis to DM (days)",
    "Time - diagnosis to Death (days)",
)
COLUMNS = [
    "case_id",
    "site",
    "lrc_months",
    "lrc_event",
    "dm_months",
    "dm_event",
    "os_months",
    "os_event",
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


def outcome_of(patient: dict[str, str], struck: str, when: str) -> list[object]:
    """Months and event: the event where it happened, else death without it, else the last follow-up.

    Empty where the event has no time.
    """
    if patient[struck] == "1":
        days, event = patient[when], 1
    elif patient["Death"] == "1":
        days, event = patient[DIED], 2
    else:
        days, event = patient[LAST], 0
    return [f"{float(days) / DAYS_PER_MONTH:.3f}", event] if days else ["", ""]


def row_of(patient: dict[str, str]) -> list[object]:
    """A row of the manifest."""
    outcomes = [
        outcome_of(patient, struck, when)
        for struck, when in (("Locoregional", FAILED), ("Distant", SPREAD), ("Death", DIED))
    ]
    return [
        patient["id"],
        patient["id"].split("-")[1],
        *(cell for outcome in outcomes for cell in outcome),
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
