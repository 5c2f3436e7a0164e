"""The manifest: a table that a spreadsheet can edit, one row per visit of one patient, to records.

Columns: `case_id`, `visit`, `site`, `fold`; one per channel, named by its quantity; one per mask; the outcome as
`lrc_months` and `lrc_event`, or as `failed` for a plain yes/no; covariates, and further ones as `x_NAME`. Comma,
semicolon or tab; a raw series may be several
files separated by `|`; lines that begin with `#` are comments; an empty cell is "not measured".
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hypoxnet.cases import CENSORED, DEATH, FAILURE, CaseRecord, Outcome
from hypoxnet.errors import ManifestError
from hypoxnet.quantities import COVARIATE_PREFIX, COVARIATES, MASKS, QUANTITIES, RAW_SERIES, suggestion

IMAGES = (*QUANTITIES, *MASKS, *RAW_SERIES)
IDENTITY = ("case_id", "visit", "site", "fold")
OUTCOME = ("lrc_months", "lrc_event", "failed")
# Nobody is followed for longer; a larger number is days.
LONGEST_MONTHS = 480.0

YES = {"1", "yes", "true", "y"}
NO = {"0", "no", "false", "n"}
NOT_KNOWN = {"", "na", "n/a", "nan", "none"}
IMAGE_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")

DECIMAL_COMMA = re.compile(r"-?\d+,\d+")

Fault = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the file: cells by column, stripped."""

    line: int
    cells: Mapping[str, str]

    def cell(self, column: str) -> str:
        """The text of a cell, empty where there is none."""
        return self.cells.get(column, "")

    @property
    def name(self) -> str:
        """Line and case, the beginning of a message."""
        case, visit = self.cell("case_id"), self.cell("visit")
        return f"line {self.line}" + (f": {case}{f'_{visit}' if visit not in ('', 'baseline') else ''}" if case else "")


def read_manifest(path: Path, *, check_files: bool = False) -> tuple[CaseRecord, ...]:
    """Read a cohort.

    Args:
        path: CSV or TSV; paths in it are relative to its folder.
        check_files: See that every file exists. What is in the files is looked at by `data.inspection`.

    Returns:
        One record per row, in the order of the file.

    Raises:
        ManifestError: Everything that is wrong, each fault with its line.

    Example:
        >>> import tempfile
        >>> table = Path(tempfile.mkdtemp()) / "cohort.csv"
        >>> _ = table.write_text("case_id,FMISO_SUV,lrc_months,lrc_event\\nP1,p1.nii.gz,31.5,0\\n")
        >>> read_manifest(table)[0].outcome
        Outcome(event=0, months=31.5)
    """
    records, faults = parse_manifest(path, check_files=check_files)
    if faults:
        raise ManifestError(str(path), faults)
    return records


def parse_manifest(path: Path, *, check_files: bool = False) -> tuple[tuple[CaseRecord, ...], tuple[str, ...]]:
    """The records that can be made, and every fault; arguments as for `read_manifest`.

    Raises:
        ManifestError: The file is not a table at all.
    """
    header, rows = _table(path)
    faults: list[str] = list(_column_faults(path, header, rows))
    records = []
    for row in rows:
        found: list[str] = []
        record = _record(row, path.parent, partial(_note, found, row))
        if check_files:
            found += [
                f"{row.name}: {name}: {file} does not exist; mend the path, or leave the cell empty"
                for name, file in _files(record)
                if not file.is_file()
            ]
        faults += found
        records.append(record)
    faults += _cohort_faults(records)
    return tuple(records), tuple(sorted(faults, key=line_of))


def _files(record: CaseRecord) -> Iterator[tuple[str, Path]]:
    yield from record.channels.items()
    yield from record.masks.items()
    for name, files in record.raw.items():
        for file in files:
            yield name, file


def _note(faults: list[str], row: _Row, text: str) -> None:
    faults.append(f"{row.name}: {text}")


def line_of(fault: str) -> int:
    """The line that a fault begins with, by which faults are sorted.

    Example:
        >>> line_of("line 3: P1: age is 610 years")
        3
    """
    return int(fault.removeprefix("line ").split(":", 1)[0])


def _table(path: Path) -> tuple[list[str], list[_Row]]:
    """Header and rows.

    Raises:
        ManifestError: The file is missing, not text, empty, or has a line of another length than the header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ManifestError(str(path), ["line 1: the file does not exist; give the CSV of the cohort"]) from error
    except (UnicodeDecodeError, OSError) as error:
        raise ManifestError(
            str(path), [f"line 1: the file cannot be read as text in UTF-8 ({error}); save the sheet as CSV (UTF-8)"]
        ) from error
    lines = text.splitlines(keepends=True)
    # Comments become empty lines, which the reader skips and counts.
    kept = ["\n" if line.startswith("#") else line for line in lines]
    first = next((line for line in kept if line.strip()), "")
    separator = max(",;\t", key=first.count)
    reader = csv.reader(kept, delimiter=separator)
    header: list[str] = []
    rows, faults = [], []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if not any(stripped):
                continue
            if not header:
                header = stripped
                while header and not header[-1]:
                    header.pop()
            elif len(stripped) > len(header) and any(stripped[len(header) :]):
                faults.append(
                    f"line {reader.line_num}: has {len(stripped)} cells, the header names {len(header)} columns; "
                    "put text with a separator into quotes"
                )
            else:
                padded = [_with_point(cell, separator) for cell in stripped] + [""] * len(header)
                rows.append(_Row(reader.line_num, dict(zip(header, padded, strict=False))))
    except csv.Error as error:
        faults.append(f"line {reader.line_num}: is not a line of a table ({error}); save the sheet again as CSV")
    if faults:
        raise ManifestError(str(path), faults)
    if "case_id" not in header:
        raise ManifestError(
            str(path), [f"line 1: there is no column case_id (there are {', '.join(header) or 'none'}); add it"]
        )
    if not rows:
        raise ManifestError(str(path), ["line 1: there is no row below the header; add the patients"])
    return header, rows


def _with_point(cell: str, separator: str) -> str:
    """Spreadsheets that separate cells by semicolons write decimal commas."""
    return cell.replace(",", ".") if separator == ";" and DECIMAL_COMMA.fullmatch(cell) else cell


def _column_faults(path: Path, header: list[str], rows: list[_Row]) -> Iterator[str]:
    known = {*IDENTITY, *OUTCOME, *QUANTITIES, *MASKS, *RAW_SERIES, *COVARIATES}
    for column in dict.fromkeys(header):
        if header.count(column) > 1:
            yield f"line 1: the column {column} is there {header.count(column)} times; keep one"
        if column in known or (column.startswith(COVARIATE_PREFIX) and len(column) > len(COVARIATE_PREFIX)):
            continue
        if not column:
            yield "line 1: a column has no name; name it, or delete it"
            continue
        example = next((row.cell(column) for row in rows if row.cell(column)), "")
        if example.lower().endswith(IMAGE_SUFFIXES):
            yield f"line 1: {column} is not a known quantity or mask{suggestion(column, IMAGES)}"
        else:
            yield (
                f"line 1: {column} is not a known column{suggestion(column, known)} (a covariate of your own is named "
                f"{COVARIATE_PREFIX}{column})"
            )
    both = [name for name in ("lrc_months", "lrc_event") if name in header]
    if both and "failed" in header:
        yield f"line 1: there are {' and '.join(both)} as well as failed; keep times with events, or the plain yes/no"
    elif len(both) == 1:
        other = "lrc_event" if both == ["lrc_months"] else "lrc_months"
        yield f"line 1: there is {both[0]} without {other}; add it, or use failed for a plain yes/no"


def _record(row: _Row, folder: Path, fault: Fault) -> CaseRecord:
    if not row.cell("case_id"):
        fault("case_id is empty; name the patient")
    elif any(character in row.cell("case_id") for character in "/\\:"):
        fault(f"case_id {row.cell('case_id')!r} holds / \\ or :, it names files; choose another")
    files = {name: folder / text for name, text in row.cells.items() if (name in QUANTITIES or name in MASKS) and text}
    channels = {name: file for name, file in files.items() if name in QUANTITIES}
    raw = {name: _series(text, folder) for name, text in row.cells.items() if name in RAW_SERIES and text}
    if not channels and not raw and not _has_unknown_images(row):
        fault("no channel has a file; give at least one image, or delete the row")
    return CaseRecord(
        case_id=row.cell("case_id"),
        visit=row.cell("visit") or "baseline",
        site=row.cell("site"),
        channels=channels,
        masks={name: file for name, file in files.items() if name in MASKS},
        raw=raw,
        outcome=_outcome(row, fault),
        covariates=dict(_covariates(row, fault)),
        fold=_fold(row, fault),
        line=row.line,
    )


def _series(text: str, folder: Path) -> tuple[Path, ...]:
    """Files of a raw series, in the order of the cell."""
    return tuple(folder / part.strip() for part in text.split("|") if part.strip())


def _has_unknown_images(row: _Row) -> bool:
    """A cell with an image in a column that the header has been told of."""
    return any(
        text.lower().endswith(IMAGE_SUFFIXES) and name not in {*QUANTITIES, *MASKS, *RAW_SERIES}
        for name, text in row.cells.items()
    )


def _outcome(row: _Row, fault: Fault) -> Outcome | None:
    failed = row.cell("failed").lower()
    if failed not in NOT_KNOWN:
        if failed not in YES | NO:
            fault(f"failed is {row.cell('failed')!r}, it must be 1 or yes, 0 or no, or empty")
            return None
        return Outcome(FAILURE if failed in YES else CENSORED, None)
    if not {"lrc_months", "lrc_event"} <= set(row.cells):
        return None  # the header has been told of
    months, event = row.cell("lrc_months"), row.cell("lrc_event")
    unknown_months, unknown_event = months.lower() in NOT_KNOWN, event.lower() in NOT_KNOWN
    if unknown_months and unknown_event:
        return None
    if unknown_months:
        fault(f"lrc_event is {event}, lrc_months is empty; give the months to the event or to the last visit")
        return None
    if unknown_event:
        fault(f"lrc_months is {months}, lrc_event is empty; give 0 censored, 1 failure, 2 death without it")
        return None
    return _timed(months, event, fault)


def _timed(months: str, event: str, fault: Fault) -> Outcome | None:
    time, code = _number(months), _number(event)
    if time is None:
        fault(f"lrc_months is {months!r}, it must be a number of months")
    elif time < 0:
        fault(f"lrc_months is {months}, a time must not be negative; count from the start of radiotherapy")
    elif time > LONGEST_MONTHS:
        fault(f"lrc_months is {months}, more than {LONGEST_MONTHS:g}; give months, not days")
    if code not in (CENSORED, FAILURE, DEATH):
        fault(f"lrc_event is {event!r}, it must be 0 censored, 1 locoregional failure or 2 death without it")
    if time is None or not 0 <= time <= LONGEST_MONTHS or code not in (CENSORED, FAILURE, DEATH):
        return None
    return Outcome(int(code), time)


def _covariates(row: _Row, fault: Fault) -> Iterator[tuple[str, float]]:
    for name, text in row.cells.items():
        if not (name in COVARIATES or name.startswith(COVARIATE_PREFIX)) or text.lower() in NOT_KNOWN:
            continue
        value = _number(text)
        if value is None:
            meaning = f" ({COVARIATES[name].meaning})" if name in COVARIATES else ""
            fault(f"{name} is {text!r}, it must be a number{meaning}, or empty where it is not known")
            continue
        known = COVARIATES.get(name)
        if known is not None and not known.low <= value <= known.high:
            fault(f"{name} is {text} {known.unit}, plausible is {known.low:g} to {known.high:g}; mend it or clear it")
            continue
        yield name, value


def _fold(row: _Row, fault: Fault) -> int | None:
    text = row.cell("fold")
    if text.lower() in NOT_KNOWN:
        return None
    value = _number(text)
    if value is None or value < 0 or value != int(value):
        fault(f"fold is {text!r}, it must be 0, 1, 2 ...")
        return None
    return int(value)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _cohort_faults(records: Iterable[CaseRecord]) -> Iterator[str]:
    """What only several rows together show."""
    by_key: dict[str, CaseRecord] = {}
    first: dict[str, CaseRecord] = {}
    for record in records:
        if not record.case_id:
            continue
        name = f"line {record.line}: {record.key}"
        if record.key in by_key:
            yield (
                f"{name}: the same case and visit stand in line {by_key[record.key].line}; "
                "delete one, or give them different visits"
            )
        by_key.setdefault(record.key, record)
        before = first.setdefault(record.case_id, record)
        if record.fold != before.fold:
            yield (
                f"{name}: the patient is in fold {_cell(record.fold)} here and in fold {_cell(before.fold)} in line "
                f"{before.line}; keep all visits of a patient in one fold"
            )
        if record.outcome and before.outcome and record.outcome != before.outcome:
            yield (
                f"{name}: the outcome {_words(record.outcome)} differs from {_words(before.outcome)} in line "
                f"{before.line}; a patient has one outcome"
            )


def _cell(fold: int | None) -> str:
    return "(empty)" if fold is None else str(fold)


def _words(outcome: Outcome) -> str:
    return f"event {outcome.event}" + ("" if outcome.months is None else f" at {outcome.months:g} months")
