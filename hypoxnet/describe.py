"""The settings in words, read from the dataclasses themselves: for `--help` and for the reference pages."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a configuration: how it is spelt on the command line, its default and its meaning."""

    key: str
    default: str
    meaning: str


def settings_of(config: Any, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a configuration dataclass, depth first.

    Args:
        config: An instance; its values are the defaults.
        prefix: Key of the instance within a larger configuration, ending in a dot.

    Example:
        >>> from hypoxnet.inference.config import InferenceConfig
        >>> next(settings_of(InferenceConfig(), "inference.")).key
        'inference.overlap'
    """
    meanings = _arguments(inspect.getdoc(type(config)) or "")
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from settings_of(value, f"{prefix}{item.name}.")
        else:
            default = (
                yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
            )
            yield Setting(prefix + item.name, default, meanings.get(item.name, ""))


def _arguments(docstring: str) -> dict[str, str]:
    """Name to meaning from the `Args` section of a docstring."""
    _, _, section = docstring.partition("Args:\n")
    section = textwrap.dedent(section.split("\n\n")[0])
    entries = re.split(r"^(\w+): ", section, flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(entries[::2], entries[1::2], strict=True)}


def groups_of(folder: Path) -> dict[str, tuple[str, ...]]:
    """Hydra groups of a configuration folder and the choices in each."""
    return {
        group.name: tuple(sorted(choice.stem for choice in group.glob("*.yaml")))
        for group in sorted(folder.iterdir())
        if group.is_dir()
    }


def help_text(header: str, examples: str, config: Any, groups: dict[str, tuple[str, ...]]) -> str:
    """The page that `--help` prints."""
    lines = [header, "", textwrap.dedent(examples).strip(), ""]
    if groups:
        lines += ["Groups, chosen with GROUP=NAME:"]
        lines += [f"  {group:<12} {', '.join(choices)}" for group, choices in groups.items()] + [""]
    lines += ["Settings, changed with KEY=VALUE (defaults in brackets; a group may set its own):"]
    for setting in settings_of(config):
        lines.append(f"  {setting.key} [{setting.default}]")
        lines += textwrap.wrap(setting.meaning, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
