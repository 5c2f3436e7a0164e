"""Errors a user can act on: one sentence that names the case, the file, both values and the remedy."""

from __future__ import annotations

from collections.abc import Sequence


class HypoxNetError(ValueError):
    """Base of all errors whose message is meant for the user; command lines print it and exit with status 2."""


class QuantityError(HypoxNetError):
    """A channel, mask or covariate is unknown, or its values do not fit its unit."""


class GeometryError(HypoxNetError):
    """An affine is unusable, or two grids that must agree do not."""


class CaseError(HypoxNetError):
    """One case cannot be read or used; the other cases of the cohort can."""


class ConfigError(HypoxNetError):
    """The configuration contradicts itself or the cohort."""


class BundleError(HypoxNetError):
    """A bundle is incomplete, was changed, or does not fit the cohort."""


class MapError(HypoxNetError):
    """A raw signal, its timing or its settings cannot give a map."""


class ManifestError(HypoxNetError):
    """Everything that is wrong in one manifest, reported at once.

    Args:
        path: The manifest file.
        faults: One sentence per fault, each beginning with its line.
    """

    def __init__(self, path: str, faults: Sequence[str]) -> None:
        self.path = path
        self.faults = tuple(faults)
        count = f"{len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        super().__init__("\n".join([f"{path}: {count}", *self.faults]))
