"""The error of the DICOM room."""

from __future__ import annotations

from hypoxnet.errors import HypoxNetError


class DicomError(HypoxNetError):
    """A DICOM object is unreadable, incomplete or contradicts another."""
