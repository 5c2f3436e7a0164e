"""PET, CT and MR volumes as series that a scanner would have sent: 16 bit, one file per slice, of a synthetic subject.

For volumes that were simulated, so that programs which read DICOM can be held against a known truth. The headers say
so: Quality Control Image and Quality Control Subject are YES, comments say it in words, and dates are fictitious. Image
Type is ORIGINAL nevertheless: DERIVED is made from the pixels of another image (PS3.3 section C.7.6.1.1.2).

Axis legend: i j k are voxel axes in array order; i runs along a row, j down the rows, k from slice to slice. The axes
of the grid are kept, whichever way they point. DICOM positions are LPS mm, a `Grid` is RAS+ mm.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from hypoxnet import __version__
from hypoxnet.dicom.errors import DicomError
from hypoxnet.dicom.output import MANUFACTURER, check_on_grid
from hypoxnet.dicom.scans import HALF_LIFE, WEIGHTINGS, CtScan, MrScan, PetScan, Scan, StudyIdentity
from hypoxnet.files import replacing_folder
from hypoxnet.geometry import LPS_TO_RAS, Grid, without_shear
from hypoxnet.maps.suv import decay_factor, mean_decay_time_s
from hypoxnet.quantities import QUANTITIES, TRACERS

FloatArray = NDArray[np.float64]

STUDY = "HypoxNet digital reference object"
SYNTHETIC = "Synthetic: simulated by HypoxNet, no person was imaged; dates are fictitious."
SIGNED, UNSIGNED = 32767, 65535
# CID 4021 has codes for these; the other hypoxia tracers are named only.
TRACER_CODES = {
    "FMISO": ("422598008", "Fluoromisonidazole F^18^"),
    "FDG": ("35321007", "Fluorodeoxyglucose F^18^"),
}


def write_series(
    folder: Path, volume: NDArray[np.floating], grid: Grid, *, kind: Scan, study: StudyIdentity, number: int = 1
) -> list[Path]:
    """Write one volume as a series of single-frame images.

    PET is stored in Bq/ml with a rescale slope per slice, MR with one for the volume, both in 16 bit: what is read back
    is off by at most the largest value of the slice or volume over 131,070, or over 65,534 where the volume has values
    below zero. An MR of whole numbers that fit is stored as it is, CT is rounded to whole HU. Readers order slices
    along the normal of the image plane: a left-handed grid comes back with k reversed, every voxel in its place.

    Args:
        folder: Of this series only; written whole or not at all.
        volume: i j k; SUV by body weight (g/ml), HU, or the arbitrary unit of a weighted image.
        grid: Where it lies, RAS+ mm.
        kind: What scanned it.
        study: Patient, visit and UIDs.
        number: Series Number; of each series of a study another one.

    Returns:
        The files, in the order of k.

    Raises:
        DicomError: The volume does not lie on the grid, holds values that are no numbers, or is a PET without uptake or
            a CT beyond 16 bits; or the folder holds files.

    Source:
        DICOM PS3.3 sections A.21 and C.8.9 (PET), A.3 and C.8.2 (CT), A.4 and C.8.3 (MR), C.7.6.2 (place).
    """
    if not 1 <= number < 2**31:
        raise DicomError(f"series number {number} is not a positive integer below 2147483648; choose another")
    refuse_full_folder(folder)
    values = _stored_unit(volume, grid, kind, study)
    header = _of_series(kind, study, grid, number)
    names = [f"{k + 1:04d}.dcm" for k in range(grid.shape[2])]
    with replacing_folder(folder) as temporary:
        for k, (pixels, slope) in enumerate(_planes(values, kind)):
            header.ImagePositionPatient = [_ds(x) for x in _lps(grid)[:3] @ (0.0, 0.0, k, 1.0)]
            header.SOPInstanceUID = study.uid("image", kind.channel, str(number), str(k))
            header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
            header.InstanceNumber = str(k + 1)
            if isinstance(kind, PetScan):
                header.ImageIndex = k + 1
            _store(header, pixels, slope, kind)
            header.save_as(temporary / names[k], enforce_file_format=True)
    return [folder / name for name in names]


def refuse_full_folder(folder: Path) -> None:
    """Refuse to put files among others, which a reader would take for slices of the same.

    Raises:
        DicomError: The folder is a file, or holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DicomError(f"{folder} is there and no empty folder; give one that is empty or not there yet")


def _stored_unit(volume: NDArray[np.floating], grid: Grid, kind: Scan, study: StudyIdentity) -> FloatArray:
    """Voxels in the unit of the file: Bq/ml, whole HU, or as they are."""
    check_on_grid(kind.channel, volume, grid)
    values = np.asarray(volume, dtype=np.float64)
    lost = int((~np.isfinite(values)).sum())
    if lost:
        raise DicomError(f"{kind.channel}: {lost} of {values.size} voxels are nan or infinite; a scanner gives numbers")
    unit = QUANTITIES[kind.channel].unit
    if isinstance(kind, PetScan):
        if values.max() <= 0:
            raise DicomError(
                f"{kind.channel}: is {values.max():g} {unit} at most, so nothing was taken up; leave the scan out"
            )
        return values * (kind.injection.dose_at_reference_bq() / (study.weight_kg * 1000.0))
    if isinstance(kind, CtScan):
        values = np.rint(values)
        if np.abs(values).max() > SIGNED:
            raise DicomError(
                f"{kind.channel} runs from {values.min():g} to {values.max():g}, 16 bits hold {-SIGNED} to {SIGNED}; "
                f"give it in {unit}"
            )
    return values


def _planes(values: FloatArray, kind: Scan) -> Iterator[tuple[NDArray[np.uint16 | np.int16], str]]:
    """Of each slice the stored pixels, rows x columns, and the slope as it is written."""
    signed = isinstance(kind, CtScan) or bool(values.min() < 0)
    for k, slope in enumerate(_slopes(values, kind, SIGNED if signed else UNSIGNED)):
        # By the slope that readers see, which has 16 characters.
        pixels = np.rint(values[:, :, k].T / float(slope))
        yield np.ascontiguousarray(pixels, dtype="<i2" if signed else "<u2"), slope


def _slopes(values: FloatArray, kind: Scan, limit: int) -> list[str]:
    """One for each slice; the same for all but PET."""
    highest = np.abs(values).max(axis=(0, 1))
    largest = float(highest.max())
    if isinstance(kind, PetScan):
        # Not 1 for an empty slice: ITK takes the series for whole numbers when that of the first slice is 1.
        highest[highest == 0] = largest
        return [str(format_number_as_ds(float(high) / limit)) for high in highest]
    fits = largest <= limit and bool((values == np.rint(values)).all())
    return ["1" if fits else str(format_number_as_ds(largest / limit))] * len(highest)


def _of_series(kind: Scan, study: StudyIdentity, grid: Grid, number: int) -> Dataset:
    """What all slices share."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SpecificCharacterSet = "ISO_IR 192"
    _of_study(header, study)
    header.SeriesInstanceUID = study.uid("series", kind.channel, str(number))
    header.FrameOfReferenceUID, header.PositionReferenceIndicator = study.uid("frame of reference"), ""
    header.SeriesNumber, header.AcquisitionNumber = str(number), "1"
    header.Manufacturer, header.ManufacturerModelName, header.SoftwareVersions = MANUFACTURER, STUDY, __version__
    header.BodyPartExamined = "HEADNECK"
    _is_synthetic(header)
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    _of_grid(header, grid)
    began = study.began + timedelta(minutes=number)
    match kind:
        case PetScan():
            began = study.began + timedelta(seconds=kind.uptake_s)
            _of_pet(header, kind, study, slices=grid.shape[2])
        case CtScan():
            _of_ct(header)
        case MrScan():
            _of_mr(header, kind)
    for which in ("Series", "Acquisition", "Content"):
        setattr(header, f"{which}Date", _date(began))
        setattr(header, f"{which}Time", _time(began))
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    return header


def _of_study(header: Dataset, study: StudyIdentity) -> None:
    header.PatientName, header.PatientID, header.PatientBirthDate = study.case_id, study.case_id, ""
    header.PatientSex, header.PatientWeight = study.sex, _ds(study.weight_kg)
    if study.age_years is not None:
        header.PatientAge = f"{int(study.age_years):03d}Y"
    header.StudyInstanceUID, header.StudyID = study.uid("study"), str(study.day)
    header.StudyDate, header.StudyTime = _date(study.began), _time(study.began)
    header.StudyDescription, header.AccessionNumber, header.ReferringPhysicianName = STUDY, "", ""


def _is_synthetic(header: Dataset) -> None:
    """Say that nobody was imaged; Synthetic Data (0008,001C) is too young, dciodvfy calls it an error."""
    header.QualityControlImage = header.QualityControlSubject = "YES"
    header.PatientIdentityRemoved, header.DeidentificationMethod = "YES", "Synthetic subject, no person was imaged"
    header.PatientComments = header.ImageComments = SYNTHETIC
    header.BurnedInAnnotation = header.RecognizableVisualFeatures = "NO"


def _of_pet(header: Dataset, scan: PetScan, study: StudyIdentity, *, slices: int) -> None:
    header.SOPClassUID, header.Modality = PositronEmissionTomographyImageStorage, "PT"
    header.ImageType, header.SeriesType = ["ORIGINAL", "PRIMARY"], ["STATIC", "IMAGE"]
    header.SeriesDescription = f"{scan.tracer} PET"
    header.Units, header.CountsSource, header.CollimatorType = "BQML", "EMISSION", "NONE"
    header.CorrectedImage, header.DecayCorrection = ["DECY", "ATTN", "SCAT", "RAN"], "START"
    header.NumberOfSlices = slices
    mean_s = mean_decay_time_s(scan.duration_s, HALF_LIFE)
    header.FrameReferenceTime = _ds(mean_s * 1000.0)
    header.ActualFrameDuration = str(round(scan.duration_s * 1000.0))
    # At the mean time of decay the activity is the mean of the frame.
    header.DecayFactor = _ds(1.0 / decay_factor(mean_s, HALF_LIFE))
    header.RadiopharmaceuticalInformationSequence = [_radiopharmaceutical(scan, study.began)]
    lying = _code("102538003", "recumbent")
    lying.PatientOrientationModifierCodeSequence = [_code("40199007", "supine")]
    header.PatientOrientationCodeSequence = [lying]
    header.PatientGantryRelationshipCodeSequence = [_code("102540001", "headfirst")]


def _radiopharmaceutical(scan: PetScan, injected: datetime) -> Dataset:
    drug = Dataset()
    drug.Radiopharmaceutical = f"{scan.tracer} {TRACERS[scan.tracer]}"
    if scan.tracer in TRACER_CODES:
        drug.RadiopharmaceuticalCodeSequence = [_code(*TRACER_CODES[scan.tracer])]
    drug.RadionuclideCodeSequence = [_code("77004003", "^18^Fluorine")]
    drug.RadionuclideTotalDose, drug.RadionuclideHalfLife = _ds(scan.dose_bq), _ds(HALF_LIFE)
    drug.RadiopharmaceuticalStartTime = _time(injected)
    drug.RadiopharmaceuticalStartDateTime = _date(injected) + _time(injected)
    return drug


def _of_ct(header: Dataset) -> None:
    header.SOPClassUID, header.Modality, header.SeriesDescription = CTImageStorage, "CT", "CT"
    header.ImageType, header.PatientPosition = ["ORIGINAL", "PRIMARY", "AXIAL"], "HFS"
    header.KVP, header.RescaleType = "", "HU"


def _of_mr(header: Dataset, scan: MrScan) -> None:
    header.SOPClassUID, header.Modality, header.SeriesDescription = MRImageStorage, "MR", WEIGHTINGS[scan.channel]
    header.ImageType, header.PatientPosition = ["ORIGINAL", "PRIMARY", "OTHER"], "HFS"
    # RM is the research mode: the signal was computed, no sequence of pulses was run.
    header.ScanningSequence, header.SequenceVariant, header.ScanOptions = "RM", "NONE", ""
    header.MRAcquisitionType = header.EchoTrainLength = ""
    header.EchoTime = "" if scan.echo_time_ms is None else _ds(scan.echo_time_ms)
    header.RepetitionTime = "" if scan.repetition_time_ms is None else _ds(scan.repetition_time_ms)
    if scan.channel == "T1WGD":
        header.ContrastBolusAgent = "Gadolinium"


def _lps(grid: Grid) -> FloatArray:
    """Voxel index to LPS mm, 4 x 4, with axes at right angles."""
    return np.asarray(LPS_TO_RAS @ without_shear(grid.matrix)[0], dtype=np.float64)


def _of_grid(header: Dataset, grid: Grid) -> None:
    across_mm, down_mm, thick_mm = grid.spacing_mm
    header.Columns, header.Rows = grid.shape[:2]
    header.PixelSpacing, header.SliceThickness = [_ds(down_mm), _ds(across_mm)], _ds(thick_mm)
    header.ImageOrientationPatient = [_ds(x) for x in (_lps(grid)[:3, :2] / (across_mm, down_mm)).T.ravel()]


def _store(header: Dataset, pixels: NDArray[np.uint16 | np.int16], slope: str, kind: Scan) -> None:
    header.PixelRepresentation = int(pixels.dtype.kind == "i")
    header.add_new("PixelData", "OW", pixels.tobytes())
    # The MR image of the standard has no rescaling; scanners that need it write it all the same.
    if not (isinstance(kind, MrScan) and slope == "1"):
        header.RescaleIntercept, header.RescaleSlope = "0", slope
    if isinstance(kind, MrScan) and slope != "1":
        header.RescaleType = "US"


def _code(value: str, meaning: str) -> Dataset:
    """An item of SNOMED CT."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _ds(value: float) -> str:
    """A decimal string: 16 characters, without the noise of a rotation in the last bits, and no -0."""
    return str(format_number_as_ds(round(float(value), 10) + 0.0))


def _date(when: datetime) -> str:
    return when.strftime("%Y%m%d")


def _time(when: datetime) -> str:
    return when.strftime("%H%M%S.%f")
