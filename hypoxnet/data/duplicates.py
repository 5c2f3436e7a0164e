"""One patient under two names: recognised by an image, or by everything that a row says of them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from math import prod
from pathlib import Path

from hypoxnet.cases import CaseRecord
from hypoxnet.data.leak import SHOWN, Leak
from hypoxnet.files import sha256_of

# Of files of one size: this much at three places tells images apart without reading them whole.
SAMPLE_BYTES = 16384
# Two patients agree in everything by chance: at most this many pairs are expected before the two are one patient.
COINCIDENCES = 0.01


def same_images(records: Sequence[CaseRecord], across: Callable[[str, str], bool]) -> Iterator[Leak]:
    """One image file under two patients. Sizes are compared first, then samples, and contents only where those agree.

    An image that was saved anew with another compression is not recognised.

    Args:
        records: The cohort.
        across: Whether two patients are on different sides.
    """
    by_size: dict[int, list[tuple[CaseRecord, str, Path]]] = defaultdict(list)
    for record in records:
        for name, path in _images(record):
            if os.access(path, os.R_OK):  # whoever reads the image says what is wrong with it
                by_size[path.stat().st_size].append((record, name, path))
    told: set[tuple[str, str]] = set()
    for alike in by_size.values():
        for same in _groups(_groups([alike], lambda entry: _sampled(entry[2])), lambda entry: sha256_of(entry[2])):
            for (one, one_name, one_path), (other, other_name, other_path) in islice(_pairs(same, across), SHOWN + 1):
                if (one.case_id, other.case_id) in told:
                    continue
                told.add((one.case_id, other.case_id))
                yield Leak(
                    "same_image",
                    f"{one.key} (line {one.line}) and {other.key} (line {other.line}) have the same image, "
                    f"{one_name} {one_path} and {other_name} {other_path} are identical; give one patient one case_id",
                    line=max(one.line, other.line),
                )


Entry = tuple[CaseRecord, str, Path]


def _groups(groups: Iterable[Sequence[Entry]], read: Callable[[Entry], object]) -> Iterator[list[Entry]]:
    """Groups cut into smaller ones by what is read of each entry; a group of one patient is not read."""
    for group in groups:
        if len({record.case_id for record, _, _ in group}) < 2:
            continue
        finer: dict[object, list[Entry]] = defaultdict(list)
        for entry in group:
            finer[read(entry)].append(entry)
        yield from (part for part in finer.values() if len({record.case_id for record, _, _ in part}) > 1)


def _pairs(same: Sequence[Entry], across: Callable[[str, str], bool]) -> Iterator[tuple[Entry, Entry]]:
    """Pairs of different patients on different sides."""
    for number, one in enumerate(same):
        for other in same[number + 1 :]:
            if one[0].case_id != other[0].case_id and across(one[0].case_id, other[0].case_id):
                yield one, other


def _images(record: CaseRecord) -> Iterator[tuple[str, Path]]:
    yield from ((name, path) for name, path in record.channels.items() if name not in record.derived)
    yield from ((name, path) for name, paths in record.raw.items() for path in paths)


def _sampled(path: Path) -> bytes:
    """Bytes of a file at a quarter, a half and three quarters of it, where images have their voxels."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        found = b""
        for place in (1, 2, 3):
            stream.seek(place * size // 4)
            found += stream.read(SAMPLE_BYTES)
    return found


def same_patients(records: Sequence[CaseRecord], across: Callable[[str, str], bool]) -> Iterator[Leak]:
    """Two patients who agree in outcome and every known covariate, which chance does not explain.

    Chance is what the frequencies of the values in the cohort would give if covariates were independent; two patients
    censored at the same visit with the same two codes are therefore no finding, the same months to a tenth with eight
    equal covariates are one.

    Args:
        records: The cohort.
        across: Whether two patients are on different sides.
    """
    known = [record for record in patients_of(records) if record.outcome is not None and record.covariates]
    alike: dict[frozenset[tuple[str, float]], list[CaseRecord]] = defaultdict(list)
    for record in known:
        alike[_values(record)].append(record)
    counts = Counter(item for record in known for item in _values(record))
    asked = Counter(name for record in known for name, _ in _values(record))
    possible = len(known) * (len(known) - 1) / 2
    for values, group in alike.items():
        # Without the two themselves, and with half a patient so that a value nobody else has is rare, not impossible.
        expected = possible * prod((counts[item] - 1.5) / max(asked[item[0]] - 1, 1) for item in values)
        if len(group) < 2 or expected >= COINCIDENCES:
            continue
        for one, other in ((a, b) for n, a in enumerate(group) for b in group[n + 1 :]):
            if across(one.case_id, other.case_id):
                yield Leak(
                    "same_patient",
                    f"{one.key} (line {one.line}) and {other.key} (line {other.line}) agree in the outcome and in "
                    f"{len(one.covariates)} covariates, chance makes {expected:.1g} such pairs in {len(known)} "
                    "patients; give one patient one case_id",
                    line=max(one.line, other.line),
                )


def _values(record: CaseRecord) -> frozenset[tuple[str, float]]:
    assert record.outcome is not None
    months = -1.0 if record.outcome.months is None else record.outcome.months
    return frozenset({("(event)", record.outcome.event), ("(months)", months), *record.covariates.items()})


def patients_of(records: Sequence[CaseRecord]) -> list[CaseRecord]:
    """The first record of every patient."""
    return list({record.case_id: record for record in reversed(records)}.values())[::-1]
