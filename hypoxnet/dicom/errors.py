"""The error of the DICOM room."""

from __future__ import annotations

import re

from hypoxnet.errors import HypoxNetError


class DicomError(HypoxNetError):
    """A DICOM object is unreadable, incomplete or contradicts another.

    Control characters, which broken headers put into a message, become blanks: one sentence is one line of a log.

    Example:
        >>> str(DicomError("Modality is 'C\\nT'"))
        "Modality is 'C T'"
    """

    def __init__(self, text: str) -> None:
        super().__init__(re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", text))
