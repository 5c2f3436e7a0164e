"""The manifest: a table that a spreadsheet can edit, one row per visit of one patient, to records.

Columns: `case_id`, `visit`, `site`, `fold`, `treated`; one per channel, named by its quantity; one per mask; the
outcome as `lrc_months` and `lrc_event`, or as `failed` for a plain yes/no; covariates, and further ones as `x_NAME`.
Comma, semicolon or tab; a raw series may be several files separated by `|`; lines that begin with `#` are comments;
an empty cell is "not measured". A row needs no image: a model of covariates alone reads none.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hypoxnet.cases import END_POINTS, CaseRecord, Outcome
from hypoxnet.data.covariate_text import BY_1000, covariate_name, read_covariate
from hypoxnet.data.dates import iso_date
from hypoxnet.data.outcome_text import NOT_DAYS, NOT_KNOWN, Fault, number_of, read_outcome
from hypoxnet.errors import ManifestError
from hypoxnet.quantities import COVARIATE_PREFIX, COVARIATES, MASKS, QUANTITIES, RAW_SERIES, suggestion
from hypoxnet.survival.time_unit import suspect_unit

IMAGES = (*QUANTITIES, *MASKS, *RAW_SERIES)
IDENTITY = ("case_id", "visit", "site", "fold", "treated")
OUTCOME = (*(f"{end_point}_{what}" for end_point in END_POINTS for what in ("months", "event")), "failed")
IMAGE_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")

# A value outside its range is a slip in one row, and the unit of the column in so many; in two where it fits mm3.
MANY, MANY_MM3 = 6, 2
IMPLAUSIBLE = re.compile(r": (?P<column>\w+) is .*, plausible is ")
DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


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


def read_manifest(path: Path, *, check_files: bool = False, endpoint: str = "lrc") -> tuple[CaseRecord, ...]:
    """Read a cohort.

    Args:
        path: CSV or TSV; paths in it are relative to its folder. Faults name a file by this folder, as it is given
            here, and the cell, as it is written there.
        endpoint: Which outcome is read, by the prefix of its columns: `lrc`, `dm` or `os`.
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
    records, faults = parse_manifest(path, check_files=check_files, endpoint=endpoint)
    if faults:
        raise ManifestError(str(path), faults)
    return records


def parse_manifest(
    path: Path, *, check_files: bool = False, endpoint: str = "lrc"
) -> tuple[tuple[CaseRecord, ...], tuple[str, ...]]:
    """The records that can be made, and every fault; arguments as for `read_manifest`.

    Raises:
        ManifestError: The file is not a table at all.
    """
    header, rows = _table(path)
    faults: list[str] = list(_column_faults(header, rows))
    columns = _columns(header)
    records = []
    for row in rows:
        found: list[str] = []
        record = _record(row, columns, path.parent, partial(_note, found, row))
        record = replace(record, outcome=read_outcome(row.cells, endpoint, partial(_note, found, row)))
        if check_files:
            found += [
                f"{row.name}: {name}: {file} does not exist; mend the path, or leave the cell empty"
                for name, file in _files(record)
                if not file.is_file()
            ]
        faults += found
        records.append(record)
    faults += _cohort_faults(records)
    unit = _unit_fault(rows, endpoint)
    if unit:
        # Said once for all, not again in every line.
        faults = [unit, *(fault for fault in faults if not fault.endswith(NOT_DAYS))]
    return tuple(records), tuple(_with_repeats_counted(sorted(faults, key=line_of)))


def _with_repeats_counted(faults: Sequence[str]) -> Iterator[str]:
    """The faults; of a column whose values are implausible in many rows the first, with the number of the others."""
    implausible: dict[str, int] = defaultdict(int)
    in_mm3: dict[str, int] = defaultdict(int)
    for fault in faults:
        found = IMPLAUSIBLE.search(fault)
        if found:
            implausible[found["column"]] += 1
            in_mm3[found["column"]] += fault.endswith(BY_1000)
    said: set[str] = set()
    for fault in faults:
        found = IMPLAUSIBLE.search(fault)
        column = found["column"] if found else ""
        if implausible[column] < MANY and in_mm3[column] < MANY_MM3:
            yield fault
        elif column not in said:
            said.add(column)
            more = implausible[column] - 1
            yield f"{fault} (and {more} more row{'s' if more > 1 else ''} with such a value)"


def rows_without_images(records: Iterable[CaseRecord]) -> list[str]:
    """A sentence for every row that no network can read, with its line.

    Example:
        >>> rows_without_images([CaseRecord("P1", line=2)])
        ['line 2: P1: no channel has a file; give at least one image, or delete the row']
    """
    return [
        f"line {record.line}: {record.key}: no channel has a file; give at least one image, or delete the row"
        for record in records
        if not record.channels and not record.raw
    ]


def _unit_fault(rows: Iterable[_Row], endpoint: str) -> str:
    """What speaks against the times of the cohort being months; empty when nothing does."""
    given = [(number_of(row.cell(f"{endpoint}_months")), number_of(row.cell(f"{endpoint}_event"))) for row in rows]
    timed = [(months, int(event)) for months, event in given if months is not None and event is not None]
    found = suspect_unit([months for months, _ in timed], [event for _, event in timed])
    return f"line 1: {endpoint}_months: {found}" if found else ""


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


@dataclass(frozen=True, slots=True)
class _Columns:
    """What the columns of a header are; covariates by the name of the table."""

    channels: tuple[str, ...]
    masks: tuple[str, ...]
    raw: tuple[str, ...]
    covariates: tuple[tuple[str, str], ...]


def _columns(header: Sequence[str]) -> _Columns:
    covariates = ((column, covariate_name(column)) for column in header)
    return _Columns(
        tuple(column for column in header if column in QUANTITIES),
        tuple(column for column in header if column in MASKS),
        tuple(column for column in header if column in RAW_SERIES),
        tuple((column, name) for column, name in covariates if name),
    )


def _column_faults(header: list[str], rows: list[_Row]) -> Iterator[str]:
    known = {*IDENTITY, *OUTCOME, *QUANTITIES, *MASKS, *RAW_SERIES, *COVARIATES}
    first: dict[str, str] = {}
    for column in dict.fromkeys(header):
        name = covariate_name(column)
        if name and first.setdefault(name, column) != column:
            yield f"line 1: {first[name]} and {column} are both {name}; keep one"
        if header.count(column) > 1:
            yield f"line 1: the column {column} is there {header.count(column)} times; keep one"
        if column in known or name:
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
    yield from _outcome_column_faults(header)


def _outcome_column_faults(header: Sequence[str]) -> Iterator[str]:
    for end_point in END_POINTS:
        pair = (f"{end_point}_months", f"{end_point}_event")
        both = [name for name in pair if name in header]
        if len(both) == 1:
            other = pair[1 - pair.index(both[0])]
            yield f"line 1: there is {both[0]} without {other}; add it, or use failed for a plain yes/no"
        elif both and end_point == "lrc" and "failed" in header:
            yield (
                f"line 1: there are {' and '.join(both)} as well as failed; keep times with events, or the plain yes/no"
            )


def _record(row: _Row, columns: _Columns, folder: Path, fault: Fault) -> CaseRecord:
    if not row.cell("case_id"):
        fault("case_id is empty; name the patient")
    elif any(character in row.cell("case_id") for character in "/\\:"):
        fault(f"case_id {row.cell('case_id')!r} holds / \\ or :, it names files; choose another")
    return CaseRecord(
        case_id=row.cell("case_id"),
        visit=row.cell("visit") or "baseline",
        site=row.cell("site"),
        channels={name: folder / row.cells[name] for name in columns.channels if row.cells[name]},
        masks={name: folder / row.cells[name] for name in columns.masks if row.cells[name]},
        raw={name: _series(row.cells[name], folder) for name in columns.raw if row.cells[name]},
        covariates=dict(_covariates(row, columns, fault)),
        fold=_fold(row, fault),
        treated=_treated(row, fault),
        line=row.line,
    )


def _series(text: str, folder: Path) -> tuple[Path, ...]:
    """Files of a raw series, in the order of the cell."""
    return tuple(folder / part.strip() for part in text.split("|") if part.strip())


def _covariates(row: _Row, columns: _Columns, fault: Fault) -> Iterator[tuple[str, float]]:
    for column, name in columns.covariates:
        text = row.cells[column]
        value = read_covariate(name, text, fault) if text else None
        if value is not None:
            yield name, value


def _fold(row: _Row, fault: Fault) -> int | None:
    text = row.cell("fold")
    if text.lower() in NOT_KNOWN:
        return None
    value = number_of(text)
    if value is None or value < 0 or value != int(value):
        fault(f"fold is {text!r}, it must be 0, 1, 2 ...")
        return None
    return int(value)


def _treated(row: _Row, fault: Fault) -> str:
    text = row.cell("treated")
    if text.lower() in NOT_KNOWN:
        return ""
    when = iso_date(text)
    if when is None:
        fault(f"treated is {text!r}, it must be like 2018, 2018-07 or 2018-07-01, or empty")
    return when or ""


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
