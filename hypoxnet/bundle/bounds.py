"""What values the JSON of a bundle may hold: nobody's model comes near these bounds, and beyond them nothing is built.

A bundle may come from anywhere. Its JSON decides how much is allocated, how long inference runs and how files are
named, so each value is checked for kind and size before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any, Protocol

from hypoxnet.errors import BundleError
from hypoxnet.models.config import NO_BACKBONE
from hypoxnet.quantities import QUANTITIES, suggestion
from hypoxnet.transforms.covariates import KINDS

MOST_MEMBERS = 100
# 256 x 256 x 256: one more doubling of every side would be 0.5 GB for each channel.
MOST_WINDOW_VOXELS = 2**24
# An exact table of an input function has a hundred lines.
LARGEST_TABLE = 2**20
LONGEST = 2000
SHOWN = 80
# Ours lie six deep.
DEEPEST = 32


class Rule(Protocol):
    """What a value must be."""

    def check(self, value: Any, name: str) -> None:
        """Refuse what it may not be.

        Raises:
            BundleError: Names the value, what it is and what it must be.
        """


@dataclass(frozen=True, slots=True)
class Number:
    """A number; `whole` admits integers only, `null` also none."""

    low: float
    high: float
    whole: bool = False
    null: bool = False

    def check(self, value: Any, name: str) -> None:
        """As `Rule`."""
        if value is None and self.null:
            return
        kinds = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not self.low <= value <= self.high:
            kind = "whole number" if self.whole else "number"
            raise _refused(name, value, f"a {kind} from {self.low:g} to {self.high:g}")


@dataclass(frozen=True, slots=True)
class Text:
    """Printable characters on one line; `file` admits only what may be part of a file's name."""

    most: int = 200
    file: bool = False
    empty: bool = True

    def check(self, value: Any, name: str) -> None:
        """As `Rule`."""
        wanted = f"printable text of at most {self.most} characters"
        if not isinstance(value, str) or len(value) > self.most or not (value.isprintable() and (value or self.empty)):
            raise _refused(name, value, wanted)
        if self.file and (re.search(r"[/\\:]", value) or value.startswith(".")):
            raise _refused(name, value, "a word that can be part of a file's name")


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few words."""

    words: tuple[str, ...]

    def check(self, value: Any, name: str) -> None:
        """As `Rule`."""
        if value not in self.words:
            raise _refused(name, value, f"one of {', '.join(self.words)}")


@dataclass(frozen=True, slots=True)
class Switch:
    """True or false."""

    def check(self, value: Any, name: str) -> None:
        """As `Rule`."""
        if not isinstance(value, bool):
            raise _refused(name, value, "true or false")


@dataclass(frozen=True, slots=True)
class Many:
    """A list whose items all keep one rule."""

    item: Rule
    most: int
    least: int = 0

    def check(self, value: Any, name: str) -> None:
        """As `Rule`."""
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            found = f"a list of {len(value)}" if isinstance(value, list) else value
            raise _refused(name, found, f"a list of {self.least} to {self.most}")
        for place, item in enumerate(value):
            self.item.check(item, f"{name}[{place}]")


@dataclass(frozen=True, slots=True)
class Fields:
    """An object; a field without a rule is left to the class that is made of it, which knows its names."""

    rules: Mapping[str, Rule]
    null: bool = False

    def check(self, value: Any, name: str) -> None:
        """As `Rule`."""
        if value is None and self.null:
            return
        if not isinstance(value, Mapping):
            raise _refused(name, value, "an object with named values")
        for field, rule in self.rules.items():
            if field in value:
                rule.check(value[field], f"{name}.{field}" if name else field)


@dataclass(frozen=True, slots=True)
class Plain:
    """Any plain values, of so many in all; numbers no larger than `largest` in either direction."""

    most: int
    largest: float = 1e300

    def check(self, value: Any, name: str) -> None:
        """As `Rule`."""
        if not isinstance(value, Mapping):
            raise _refused(name, value, "an object with named values")
        for count, (_, item) in enumerate(walk(value)):
            if count > self.most:
                raise BundleError(f"{name} holds more than {self.most} values, which no bundle does")
            if isinstance(item, str) and not (len(item) <= LONGEST and re.sub(r"\s", "", item + "a").isprintable()):
                raise _refused(f"a text in {name}", item, f"printable, of at most {LONGEST} characters")
            if isinstance(item, int | float) and not abs(item) <= self.largest:
                raise _refused(f"a number in {name}", item, f"from {-self.largest:g} to {self.largest:g}")


@dataclass(frozen=True, slots=True)
class Table:
    """Path of a table on the machine where the bundle is applied; what is no small file of this machine is refused."""

    def check(self, value: Any, name: str) -> None:
        """As `Rule`."""
        Text(1000).check(value, name)
        if value.startswith(("//", "\\")):
            raise _refused(name, value, "a file of this machine")
        path = Path(value).expanduser()
        if value and path.exists() and not (path.is_file() and path.stat().st_size <= LARGEST_TABLE):
            raise _refused(name, value, f"a table of at most {LARGEST_TABLE // 2**20} MiB")


def walk(content: Any) -> Iterable[tuple[int, Any]]:
    """Every value below and its depth, keys of objects among them; without recursion."""
    waiting = [(0, content)]
    while waiting:
        depth, value = waiting.pop()
        yield depth, value
        if isinstance(value, Mapping):
            waiting += [(depth + 1, part) for pair in value.items() for part in pair]
        elif isinstance(value, list):
            waiting += [(depth + 1, part) for part in value]


# MONAI makes lists and loops of its options; those of a model without images say how it was fitted.
OPTIONS = Plain(1000, largest=4096.0)


def check_content(content: Mapping[str, Any]) -> None:
    """Refuse a description that no bundle has, before anything is made of it.

    Args:
        content: Of `configs/hypoxnet.json`; a key that is missing is not looked for here.

    Raises:
        BundleError: A value of the wrong kind or beyond its bounds, named with what it must be.

    Example:
        >>> check_content({"members": 10**9})
        Traceback (most recent call last):
        ...
        hypoxnet.errors.BundleError: members is 1000000000, it must be a whole number from 1 to 100
    """
    CONTENT.check(content, "")
    TABLES.check(content, "")
    _check_options(content.get("model", {}).get("backbone", {}))
    settings = content.get("settings")
    if not isinstance(settings, Mapping):
        return
    voxels = prod(settings.get("window", ()))
    if voxels > MOST_WINDOW_VOXELS:
        raise BundleError(f"settings.window has {voxels} voxels, at most {MOST_WINDOW_VOXELS} are allowed")
    _check_channels(settings.get("channels", []), settings.get("norms", []), settings.get("reference"))


def _check_options(backbone: Mapping[str, Any]) -> None:
    if backbone.get("backbone") != NO_BACKBONE:
        OPTIONS.check(backbone.get("options", {}), "model.backbone.options")


def _check_channels(channels: Sequence[str], norms: Sequence[Any], reference: str | None) -> None:
    for name in channels:
        if name not in QUANTITIES:
            raise BundleError(f"the channel {name!r} is not a known quantity{suggestion(name, QUANTITIES)}")
    if len(set(channels)) < len(channels):
        raise BundleError(f"a channel is named twice in {', '.join(channels)}")
    if len(norms) != len(channels):
        raise BundleError(f"it has {len(channels)} channels and {len(norms)} normalisations")
    if channels and reference not in channels:
        raise BundleError(f"the reference channel {reference!r} is none of {', '.join(channels)}")


def _refused(name: str, value: Any, wanted: str) -> BundleError:
    shown = value if isinstance(value, str) and value.startswith("a list of") else repr(value)
    return BundleError(f"{name} is {shortened(shown)}, it must be {wanted}")


def shortened(text: str, most: int = SHOWN) -> str:
    """Text for one line of a message, whatever it holds.

    Example:
        >>> shortened("a" * 100, 8)
        'aaaaa...'
    """
    line = "".join(letter if letter.isprintable() else " " for letter in text[: most + 1])
    return line if len(text) <= most else f"{line[: most - 3]}..."


def _whole(low: int, high: int) -> Number:
    return Number(low, high, whole=True)


def finite_float(text: str) -> float:
    """A number of a JSON file; what is too large for one is refused.

    Raises:
        ValueError: Infinite.
    """
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{shortened(text)} is not a finite number")
    return value


MONTHS = Number(1e-3, 1e4, null=True)
ANY = Number(-1e12, 1e12)
NAME = Text(100, empty=False)
MASKS = Many(NAME, 100)
EDGES = Many(MONTHS, 1000, least=1)
SPACING_MM = Many(Number(0.05, 100.0), 3, least=3)
BACKBONE = Fields(
    {
        "backbone": NAME,
        "features": Many(_whole(1, 4096), 10, least=1),
        "blocks": Many(_whole(1, 64), 10, least=1),
        "deep_supervision": _whole(0, 9),
        "fold": _whole(1, 4),
        "options": Plain(1000),
    }
)
OUTCOME = Fields(
    {
        "enabled": Switch(),
        "kind": NAME,
        "edges_months": EDGES,
        "horizon_months": Number(1e-3, 1e4),
        "pool": NAME,
        "volumes": Switch(),
        "hidden": _whole(1, 4096),
        "dropout": Number(0.0, 1.0),
        "baseline_df": _whole(1, 1000),
        "effect": NAME,
        "ties": NAME,
        "ranking": Number(0.0, 1e6),
        "ranking_scale": Number(0.0, 1e6),
        "bank": _whole(1, 10**7),
    }
)
MODEL = Fields(
    {
        "backbone": BACKBONE,
        "outcome": OUTCOME,
        "channels": _whole(0, 100),
        "regions": _whole(0, 100),
        "covariates": _whole(0, 1000),
        "edges_months": EDGES,
        "spacing_mm": SPACING_MM,
    }
)
NORM = Fields(
    {
        "kind": OneOf(("fixed", "image")),
        "centre": ANY,
        "scale": Number(1e-12, 1e12),
        "log": Switch(),
        "low": ANY,
        "high": ANY,
    }
)
TERM = Fields(
    {
        "name": NAME,
        "kind": OneOf(KINDS),
        "means": Many(ANY, 1000),
        "sds": Many(Number(1e-12, 1e12), 1000),
        "low": ANY,
        "high": ANY,
        "offset": ANY,
        "levels": Many(ANY, 1000),
    }
)
SETTINGS = Fields(
    {
        "channels": Many(NAME, 100),
        "norms": Many(NORM, 100),
        "reference": Text(100),
        "spacing_mm": SPACING_MM,
        "window": Many(_whole(1, 4096), 3, least=3),
        "tumour": MASKS,
        "regions": Many(Fields({"name": Text(64, file=True, empty=False), "masks": MASKS}), 100),
        "threshold": Fields(
            {"channel": NAME, "reference_mask": NAME, "reference_statistic": NAME, "threshold": ANY}, null=True
        ),
        "inside_tumour": Switch(),
        "terms": Many(TERM, 1000),
        "edges_months": EDGES,
        "missing": OneOf(("conditional", "mean", "indicator")),
        "joint": Fields({"mean": Many(ANY, 1000), "covariance": Many(Many(ANY, 1000), 1000)}, null=True),
        "endpoint": NAME,
    }
)
CONTENT = Fields(
    {
        "name": Text(empty=False),
        "version": Text(50),
        "members": _whole(1, MOST_MEMBERS),
        "temperatures": Many(Many(Number(1e-3, 1e3), 100), MOST_MEMBERS),
        # Nine rows of some thousand features for each member.
        "typical": Many(Plain(200_000, largest=1e12), MOST_MEMBERS),
        "model": MODEL,
        "settings": SETTINGS,
        # Windows that overlap by more than this are so many that a case takes days.
        "inference": Fields({"overlap": Number(0.0, 0.95), "mirror": Switch(), "threshold": Number(0.0, 1.0)}),
        "maps": Plain(1000, largest=1e9),
        "cohort": Plain(10_000),
        "metrics": Plain(200_000),
        "provenance": Plain(10_000),
    }
)
# The only files that a bundle may name.
TABLES = Fields({"maps": Fields({"dce": Fields({"aif_file": Table()}), "pet": Fields({"input_file": Table()})})})
