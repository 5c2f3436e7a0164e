"""A parameter is a number with a unit, a meaning, bounds and a source; a set of them is a frozen dataclass."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from hypoxnet.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Described:
    """One line of the datasheet."""

    name: str
    value: Any
    unit: str
    meaning: str
    source: str


def number(
    default: Any,
    unit: str,
    meaning: str,
    source: str,
    *,
    above: float | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A field of a set of parameters.

    Args:
        default: Value, or a tuple of values.
        unit: Of the value; `1` for a ratio.
        meaning: What it is, in words.
        source: Publication, or `chosen: ...` with the reason, where no publication gives it.
        above: Values at or below are refused.
        low: Values below are refused.
        high: Values above are refused.
    """
    about = {"unit": unit, "meaning": meaning, "source": source, "above": above, "low": low, "high": high}
    return field(default=default, metadata=about)


def check(parameters: Any) -> None:
    """Refuse a value outside its bounds; called by `__post_init__` of every set of parameters.

    Raises:
        ConfigError: Names the parameter, its value and its bound.
    """
    for entry in fields(parameters):
        if "unit" not in entry.metadata:
            continue
        value = getattr(parameters, entry.name)
        for one in value if isinstance(value, tuple) else (value,):
            _check_one(type(parameters).__name__, entry.name, one, dict(entry.metadata))


def _check_one(owner: str, name: str, value: Any, about: dict[str, Any]) -> None:
    if isinstance(value, str | bool) or value is None:
        return
    said = f"{name}={value:g} of the phantom ({owner}, {about['unit']})"
    if not math.isfinite(value):
        raise ConfigError(f"{said} must be a finite number")
    if about["above"] is not None and not value > about["above"]:
        raise ConfigError(f"{said} must be above {about['above']:g}")
    if about["low"] is not None and value < about["low"]:
        raise ConfigError(f"{said} must be at least {about['low']:g}")
    if about["high"] is not None and value > about["high"]:
        raise ConfigError(f"{said} must be at most {about['high']:g}")


def described(parameters: Any, prefix: str = "") -> Iterator[Described]:
    """Every parameter of a set and of the sets inside it, for the datasheet."""
    for entry in fields(parameters):
        value = getattr(parameters, entry.name)
        name = f"{prefix}{entry.name}"
        if is_dataclass(value):
            yield from described(value, f"{name}.")
        elif isinstance(value, tuple) and value and all(is_dataclass(one) for one in value):
            for one in value:
                yield from described(one, f"{name}.{getattr(one, 'name', '')}.")
        elif "unit" in entry.metadata:
            about = entry.metadata
            yield Described(name, value, about["unit"], about["meaning"], about["source"])


def digest(parameters: Any) -> str:
    """A name that changes with any parameter."""
    return hashlib.sha256(json.dumps(asdict(parameters), sort_keys=True).encode()).hexdigest()[:10]
