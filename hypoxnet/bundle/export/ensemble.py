"""Several bundles as one, and one member of a bundle alone: our own form, safetensors and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypoxnet.bundle.export.description import EXPORT
from hypoxnet.bundle.read import read_bundle
from hypoxnet.bundle.schema import BundleSpec, of_all_members
from hypoxnet.bundle.write import write_bundle
from hypoxnet.errors import BundleError
from hypoxnet.files import finite


def join_bundles(bundles: Sequence[Path], output: Path) -> Path:
    """Write one bundle whose members are those of all bundles, averaged when it is applied.

    They must be of one kind: the same network, channels, normalisation, covariates and regions. Figures on withheld
    patients belong to each bundle and not to their mean, so that the joined one has none.

    Args:
        bundles: One or more; one alone is written again with checksums and card.
        output: Folder of the joined bundle.

    Returns:
        `output`.

    Raises:
        BundleError: A bundle cannot be read, one is there twice, two differ in what they take or give, or `output`
            holds an export in another form.
    """
    if (output / EXPORT).is_file():
        raise BundleError(f"{output} holds an export in another form; choose another folder")
    read = [read_bundle(bundle) for bundle in bundles]
    _refuse_twice([(path, spec) for path, (spec, _) in zip(bundles, read, strict=True)])
    first = read[0][0]
    for path, (spec, _) in zip(bundles[1:], read[1:], strict=True):
        different = [name for name, values in _kind(spec).items() if values != _kind(first)[name]]
        if different:
            raise BundleError(
                f"{path} and {bundles[0]} differ in {_where(_kind(spec), _kind(first), different[0])}; only bundles of "
                "one kind can be averaged"
            )
    members = [weights for _, models in read for weights in models]
    return write_bundle(output, first if len(read) == 1 else _joined([spec for spec, _ in read]), members)


def _refuse_twice(bundles: Sequence[tuple[Path, BundleSpec]]) -> None:
    """One bundle given twice, or beside an ensemble that it is part of, would count twice in the mean."""
    seen: dict[str, Path] = {}
    for path, spec in bundles:
        joined_from = spec.provenance.get("joined_from")
        parts = joined_from.values() if isinstance(joined_from, Mapping) else ()
        for digest in {spec.digest, *map(str, parts)}:
            if digest in seen:
                raise BundleError(
                    f"{seen[digest]} and {path} hold the same bundle ({digest[:12]}), which would count twice in the "
                    "mean; name it once"
                )
            seen[digest] = path


def _kind(spec: BundleSpec) -> dict[str, Any]:
    """What must agree."""
    content = spec.to_json()
    return {name: finite(content[name]) for name in ("model", "settings", "inference", "maps", "causes")}


def _where(here: Mapping[str, Any], there: Mapping[str, Any], name: str) -> str:
    """The first entry that differs, with both values."""
    one, two = here[name], there[name]
    while isinstance(one, Mapping) and isinstance(two, Mapping):
        key = next(k for k in {**one, **two} if one.get(k) != two.get(k))
        name, one, two = f"{name}.{key}", one.get(key), two.get(key)
    return f"{name} ({_short(one)} and {_short(two)})"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _joined(specs: Sequence[BundleSpec]) -> BundleSpec:
    first = specs[0]
    provenance = {"joined_from": {str(place): spec.digest for place, spec in enumerate(specs)}}
    cohort = {f"bundle_{place}": dict(spec.cohort) for place, spec in enumerate(specs)}
    return replace(first, cohort=cohort, metrics={}, provenance=provenance, digest="", **of_all_members(specs))
