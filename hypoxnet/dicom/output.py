"""What all written objects share: who made them, under which series and UIDs, and the way from a grid to DICOM.

Axis legend: i j k are voxel axes in array order; a DICOM volume is k (planes), j (rows), i (columns).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import highdicom
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.source import SourceSeries
from hypoxnet.geometry import LPS_TO_RAS, Grid, without_shear

log = logging.getLogger(__name__)

MANUFACTURER = "HypoxNet"
# Enhanced equipment must have a serial number; software has none.
SERIAL = "1"
RESEARCH_ONLY = "RESEARCH ONLY"
LABEL = "HYPOXNET"
DESCRIPTION = f"{RESEARCH_ONLY}, not for clinical use"
# DICOM Long String, and Short String.
LONG, SHORT = 64, 16

# CID 7162: families of algorithms.
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")


def new_uid() -> str:
    """A UID that nobody else has, below 2.25 (PS3.5 section B.2: a UUID as one number)."""
    return str(generate_uid(prefix=None))


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What made the voxels.

    Args:
        name: For example the name of the bundle.
        version: Of the same.
        family: Code of CID 7162.

    Raises:
        DicomError: Name or version is empty or does not fit a DICOM Long String of 64 characters.
    """

    name: str
    version: str
    family: Code = ARTIFICIAL_INTELLIGENCE

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("version", self.version)):
            check_long(text, f"the {what} of the algorithm")


@dataclass(frozen=True, slots=True)
class OutputSeries:
    """The series that one written object makes up.

    Args:
        algorithm: What made it.
        number: Series Number.
        uids: Gives a new UID each time; one that counts makes files that are equal byte for byte.
        written: Date and time of the content.

    Raises:
        DicomError: The series number is not 1 or more.
    """

    algorithm: Algorithm
    number: int = 9001
    uids: Callable[[], str] = new_uid
    written: datetime = field(default_factory=datetime.now)

    def __post_init__(self) -> None:
        if not 1 <= self.number < 2**31:
            raise DicomError(f"series number {self.number} is not a positive integer below 2147483648; choose another")

    def stamp(self, dataset: Dataset) -> None:
        """Set the dates and times of instance, series, content and of the library that highdicom names."""
        day, clock = self.written.strftime("%Y%m%d"), self.written.strftime("%H%M%S")
        for name in ("InstanceCreation", "Series", "Content"):
            setattr(dataset, f"{name}Date", day)
            setattr(dataset, f"{name}Time", clock)
        for equipment in dataset.get("ContributingEquipmentSequence", []):
            if "ContributionDateTime" in equipment:
                equipment.ContributionDateTime = day + clock


def check_long(text: str, what: str) -> None:
    """Refuse what a DICOM Long String cannot hold.

    Raises:
        DicomError: Empty, longer than 64 characters, or with a backslash or control character.
    """
    if not text.strip() or len(text) > LONG or "\\" in text or not text.isprintable():
        raise DicomError(
            f"{what} is {text!r} of {len(text)} characters; DICOM takes 1 to {LONG} printable ones without backslash"
        )


def check_regions(regions: Mapping[str, NDArray[Any]], grid: Grid) -> None:
    """Refuse what cannot be written as regions.

    Raises:
        DicomError: No region, a name DICOM cannot hold, or an array that does not lie on the grid.
    """
    if not regions:
        raise DicomError("there is no region to write; give at least one mask")
    for name, array in regions.items():
        check_long(name, "the name of a region")
        check_on_grid(name, array, grid)


def check_on_grid(name: str, array: NDArray[Any], grid: Grid) -> None:
    """Refuse an array that does not have the shape of its grid.

    Raises:
        DicomError: With both shapes.
    """
    if array.shape != grid.shape:
        raise DicomError(
            f"{name} is {' x '.join(map(str, array.shape))}, its grid {' x '.join(map(str, grid.shape))}; give "
            "the grid that it lies on"
        )


def as_volume(array: NDArray[Any], grid: Grid, *, frame_of_reference: str) -> highdicom.Volume:
    """A DICOM volume of the same voxels in the same places.

    Grids may be left-handed: DICOM says where each plane lies, and highdicom orders the planes.

    Args:
        array: i j k, or i j k r with regions.
        grid: Of the first three axes.
        frame_of_reference: UID of the patient coordinate system.
    """
    affine = LPS_TO_RAS @ without_shear(grid.matrix)[0]
    numbers = list(range(1, array.shape[3] + 1)) if array.ndim == 4 else []
    return highdicom.Volume(
        np.ascontiguousarray(array.swapaxes(0, 2)),
        affine[:, [2, 1, 0, 3]],
        "PATIENT",
        frame_of_reference_uid=frame_of_reference,
        channels={highdicom.ChannelDescriptor("SegmentNumber"): numbers} if numbers else None,
    )


@contextmanager
def made_from(source: SourceSeries, what: str) -> Iterator[None]:
    """Turn what highdicom raises about the headers it takes over into a sentence, and log its warnings.

    Raises:
        DicomError: The headers of the source lack something or hold what the standard does not allow.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except DicomError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DicomError(
                f"{what} cannot be made from series {source.first.SeriesInstanceUID}: {error}; mend the headers of "
                "that series or name another source"
            ) from error
        finally:
            for warning in caught:
                log.debug("%s: %s", what, warning.message)


def with_uids(dataset: Dataset, uids: Callable[[], str]) -> None:
    """Replace the UID of the dimension organisation, which highdicom draws itself."""
    organisation = uids()
    for sequence in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in dataset.get(sequence, []):
            item.DimensionOrganizationUID = organisation
