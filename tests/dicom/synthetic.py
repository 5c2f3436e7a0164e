"""Small CT, MR and PET series in any orientation, as scanners write them, written with pydicom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

# Row direction, column direction, LPS.
ORIENTATIONS = {
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "oblique": ((0.8, 0.36, -0.48), (0.0, 0.8, 0.6)),
}
_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
_ROOT = "1.2.826.0.1.3680043.8.498"
SHAPE = (20, 18, 12)


def write_series(
    folder: Path,
    *,
    modality: str = "CT",
    directions: tuple = ORIENTATIONS["axial"],
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 3.0),
    shape: tuple[int, int, int] = SHAPE,
    body_part: str = "HEADNECK",
) -> list[Path]:
    """Write one series of ramps; voxel axes i, j, k are row direction, column direction and normal."""
    folder.mkdir(parents=True, exist_ok=True)
    along, down = np.array(directions[0]), np.array(directions[1])
    normal = np.cross(along, down)
    paths = []
    # Files are named against the order of the slices: a reader must not rely on names.
    for k in range(shape[2]):
        slice_ = _header(modality, k)
        slice_.Columns, slice_.Rows = shape[0], shape[1]
        slice_.PixelSpacing = [_ds(spacing_mm[1]), _ds(spacing_mm[0])]
        slice_.SliceThickness = _ds(spacing_mm[2])
        slice_.ImageOrientationPatient = [_ds(x) for x in (*along, *down)]
        slice_.ImagePositionPatient = [_ds(x) for x in np.array([-31.5, 12.25, 7.0]) + k * spacing_mm[2] * normal]
        slice_.PixelData = np.full((shape[1], shape[0]), k, dtype=np.uint16).tobytes()
        slice_.BodyPartExamined = body_part
        paths.append(folder / f"{shape[2] - k:03d}.dcm")
        slice_.save_as(paths[-1], enforce_file_format=True)
    return paths


def edit(path: Path, **values: object) -> None:
    """Change attributes of a written file; None removes one."""
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)


def onto(array: np.ndarray, affine: np.ndarray, grid) -> np.ndarray:
    """Voxels of an array with an affine to RAS at the places of a grid, 0 where it has none; all must be centred."""
    index = np.argwhere(np.ones(grid.shape, dtype=bool))
    there = np.column_stack([index, np.ones(len(index))]) @ (np.linalg.inv(affine) @ grid.matrix).T[:, :3]
    nearest = np.rint(there).astype(int)
    assert np.abs(there - nearest).max() < 1e-3
    inside = ((nearest >= 0) & (nearest < array.shape)).all(axis=1)
    out = np.zeros(grid.shape, dtype=array.dtype)
    out[tuple(index[inside].T)] = array[tuple(nearest[inside].T)]
    return out


def rotated(degrees: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column direction after rotations about x, y and z."""
    a, b, c = np.radians(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turn = x @ y @ z
    return turn[:, 0], turn[:, 1]


def _ds(value: float) -> str:
    return f"{value:.9f}"[:16]


def _header(modality: str, k: int) -> Dataset:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # A name beyond ASCII must come through.
    header.SpecificCharacterSet = "ISO_IR 100"
    header.SOPClassUID = _CLASSES[modality]
    header.SOPInstanceUID = f"{_ROOT}.3.{k + 1}"
    header.StudyInstanceUID, header.SeriesInstanceUID = f"{_ROOT}.1", f"{_ROOT}.2"
    header.FrameOfReferenceUID, header.PositionReferenceIndicator = f"{_ROOT}.4", ""
    header.PatientName, header.PatientID = "Müller^Ada", "HN0042"
    header.PatientBirthDate, header.PatientSex = "19600101", "F"
    header.StudyDate, header.StudyTime, header.StudyID = "20240102", "101500", "1"
    header.StudyDescription, header.AccessionNumber, header.ReferringPhysicianName = "Head and neck", "A1", ""
    header.SeriesDate, header.SeriesTime, header.SeriesNumber = "20240102", "102000", "3"
    header.AcquisitionDate, header.AcquisitionTime = "20240102", "102000"
    header.ContentDate, header.ContentTime = "20240102", "102000"
    header.Modality, header.Manufacturer, header.InstanceNumber = modality, "Synthetic", str(k + 1)
    header.PatientPosition = "HFS"
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    {"CT": _ct, "MR": _mr, "PT": _pt}[modality](header, k)
    return header


def _ct(header: Dataset, k: int) -> None:
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.KVP, header.AcquisitionNumber = "120", "1"
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = "-1024", "1", "HU"


def _mr(header: Dataset, k: int) -> None:
    header.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    header.ScanningSequence, header.SequenceVariant, header.ScanOptions = "SE", "NONE", ""
    header.MRAcquisitionType, header.EchoTime, header.RepetitionTime = "2D", "10", "500"
    header.EchoTrainLength = "1"


def _pt(header: Dataset, k: int) -> None:
    header.ImageType = ["ORIGINAL", "PRIMARY"]
    header.Units, header.CountsSource, header.SeriesType = "BQML", "EMISSION", ["STATIC", "IMAGE"]
    header.NumberOfSlices, header.CorrectedImage, header.DecayCorrection = SHAPE[2], ["DECY", "ATTN"], "START"
    header.CollimatorType, header.RescaleIntercept, header.RescaleSlope = "NONE", "0", "1"
    header.FrameReferenceTime, header.ImageIndex, header.ActualFrameDuration = "60000", k + 1, "120000"
    header.AcquisitionNumber = "1"
    drug = Dataset()
    drug.RadionuclideCodeSequence = []
    drug.RadiopharmaceuticalStartTime, drug.RadionuclideTotalDose = "080000", "3.7e8"
    drug.RadionuclideHalfLife = "6586.2"
    header.RadiopharmaceuticalInformationSequence = [drug]
    header.PatientOrientationCodeSequence, header.PatientGantryRelationshipCodeSequence = [], []
    header.DecayFactor = "1.0"
    del header.PatientPosition  # the code sequences say it
