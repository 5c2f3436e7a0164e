"""Images that do not share a frame of reference, brought into one space by SimpleITK, with a measure of how well.

A rigid registration moves no voxel value: it changes the affine of the moving image. Points are RAS mm here, LPS inside
SimpleITK.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from hypoxnet.dicom.errors import DicomError
from hypoxnet.geometry import LPS_TO_RAS, Grid

# Forth and back must meet: a larger distance, in mm, says that one of the two ended in the wrong place.
DOUBTFUL_MM = 3.0
# No patient is turned further between two scans of one region; shifts say nothing, each scanner has its own origin.
DOUBTFUL_DEGREES = 45.0
# Of unrelated noise it is about 0.02.
LEAST_INFORMATION = 0.05
# What is compared: voxels of 3 mm or more, and so many of them; more cost time and add nothing to a rigid motion.
COARSE_MM = 3.0
SAMPLES = 60_000
# Around the moving image at its start, mm; the rest of a whole-body scan cannot be where a neck went.
MARGIN_MM = 60.0
HISTOGRAM_BINS = 50


@dataclass(frozen=True, slots=True)
class Registration:
    """A rigid transform and how far to trust it.

    Args:
        matrix: 4 x 4, RAS mm of the moving image to RAS mm of the fixed one.
        information_before: Mutual information where the search began, nats, where both images are.
        information_after: Mutual information after.
        inconsistency_mm: Largest distance by which corners miss themselves, there and back.
        warnings: Why it is doubtful, one sentence each; empty when it is not.
    """

    matrix: NDArray[np.float64]
    information_before: float
    information_after: float
    inconsistency_mm: float
    warnings: tuple[str, ...] = ()

    @property
    def rotation_degrees(self) -> float:
        """Angle of the rotation."""
        return math.degrees(math.acos(max(-1.0, min(1.0, (float(np.trace(self.matrix[:3, :3])) - 1) / 2))))

    def applied(self, grid: Grid) -> Grid:
        """The grid of the moving image in the space of the fixed one; no voxel is resampled."""
        return Grid.from_affine(grid.shape, self.matrix @ grid.matrix)

    def describe(self) -> dict[str, Any]:
        """For the sidecar."""
        return {
            "Matrix": self.matrix.tolist(),
            "RotationDegrees": round(self.rotation_degrees, 4),
            "MutualInformationBefore": round(self.information_before, 5),
            "MutualInformationAfter": round(self.information_after, 5),
            "InverseConsistencyMm": round(self.inconsistency_mm, 4),
            "Warnings": list(self.warnings),
        }


def register_rigid(
    fixed: NDArray[np.floating],
    fixed_grid: Grid,
    *,
    moving: NDArray[np.floating],
    moving_grid: Grid,
    start_mm: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> Registration:
    """Rotation and translation that bring the moving image onto the fixed one, by mutual information.

    Args:
        fixed: i j k.
        fixed_grid: Where it lies.
        moving: i j k.
        moving_grid: Where it lies; its header's position is where the search begins, unless the images do not overlap.
        start_mm: Shift of the moving image, RAS mm, where the search begins instead: between the centres of a structure
            that was contoured in both.
        seed: Of the voxels that are compared.

    Raises:
        DicomError: The search fails, for example because an image is empty.

    Source:
        Mattes et al. 2003, IEEE Trans Med Imaging 22:120.
    """
    one, other = _coarse(_image(fixed, fixed_grid)), _coarse(_image(moving, moving_grid))
    start = _start(one, other) if start_mm is None else _shifted(one, start_mm)
    one = _near(one, other, start)
    there = _optimise(one, other, start, seed)
    back = _optimise(other, one, sitk.Euler3DTransform(there.GetInverse()), seed)
    matrix = np.asarray(np.linalg.inv(_matrix(there)), dtype=np.float64)
    inconsistency = _inconsistency_mm(matrix, np.asarray(np.linalg.inv(_matrix(back))), moving_grid)
    before, after = (_information(one, other, t, seed) for t in (start, there))
    found = Registration(matrix, before, after, inconsistency)
    return Registration(matrix, before, after, inconsistency, _warnings(found, moving_grid))


def _image(array: NDArray[np.floating], grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.nan_to_num(array).transpose(2, 1, 0), dtype=np.float32))
    affine = LPS_TO_RAS @ grid.matrix
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).flatten().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def _coarse(image: sitk.Image) -> sitk.Image:
    """Voxels of 3 mm or so, where they are smaller."""
    factors = [max(1, int(COARSE_MM / s)) for s in image.GetSpacing()]
    return sitk.BinShrink(image, factors) if max(factors) > 1 else image


def _shifted(fixed: sitk.Image, shift_mm: NDArray[np.float64]) -> sitk.Euler3DTransform:
    """The transform, fixed to moving points, that undoes a shift of the moving image."""
    transform = sitk.Euler3DTransform()
    transform.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
    transform.SetTranslation((-(LPS_TO_RAS[:3, :3] @ shift_mm)).tolist())
    return transform


def _near(fixed: sitk.Image, moving: sitk.Image, start: sitk.Euler3DTransform) -> sitk.Image:
    """The part of the fixed image round the place where the moving image begins."""
    ends = [[0, n - 1] for n in moving.GetSize()]
    corners = [moving.TransformIndexToPhysicalPoint((i, j, k)) for i in ends[0] for j in ends[1] for k in ends[2]]
    back = start.GetInverse()
    index = np.array([fixed.TransformPhysicalPointToContinuousIndex(back.TransformPoint(c)) for c in corners])
    margin = MARGIN_MM / np.array(fixed.GetSpacing())
    low = np.maximum(np.floor(index.min(0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(index.max(0) + margin) + 1, fixed.GetSize()).astype(int)
    if (high - low < 4).any():
        return fixed
    return sitk.RegionOfInterest(fixed, (high - low).tolist(), low.tolist())


def _start(fixed: sitk.Image, moving: sitk.Image) -> sitk.Euler3DTransform:
    """The headers' positions where the images overlap, else centre on centre."""
    centres = [
        np.array(i.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in i.GetSize()])) for i in (fixed, moving)
    ]
    transform = sitk.Euler3DTransform()
    transform.SetCenter(centres[0].tolist())
    reach = [0.5 * min(n * s for n, s in zip(i.GetSize(), i.GetSpacing(), strict=True)) for i in (fixed, moving)]
    if float(np.linalg.norm(centres[0] - centres[1])) > 0.75 * sum(reach):
        transform.SetTranslation((centres[1] - centres[0]).tolist())
    return transform


def _method(seed: int, fixed: sitk.Image) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    share = min(1.0, SAMPLES / max(1, fixed.GetNumberOfPixels()))
    method.SetMetricSamplingPercentage(max(share, 0.01), seed + 1)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _optimise(fixed: sitk.Image, moving: sitk.Image, start: sitk.Euler3DTransform, seed: int) -> sitk.Euler3DTransform:
    method = _method(seed, fixed)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 200, 0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    smallest = min(min(fixed.GetSize()), min(moving.GetSize()))
    levels = [4, 2, 1] if smallest >= 32 else [2, 1] if smallest >= 12 else [1]
    method.SetShrinkFactorsPerLevel(levels)
    method.SetSmoothingSigmasPerLevel([float(level - 1) for level in levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransform(sitk.Euler3DTransform(start), inPlace=False)
    try:
        found = method.Execute(fixed, moving)
    except RuntimeError as error:
        raise DicomError(
            f"the images cannot be registered ({str(error).splitlines()[-1].strip()}); leave one out"
        ) from error
    if isinstance(found, sitk.CompositeTransform):
        found = found.GetNthTransform(0)
    return sitk.Euler3DTransform(found)


def _matrix(transform: sitk.Euler3DTransform) -> NDArray[np.float64]:
    """A transform as a matrix, RAS of the fixed image to RAS of the moving one."""
    centre = np.array(transform.GetCenter())
    rotation = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = np.array(transform.GetTranslation()) + centre - rotation @ centre
    return np.asarray(LPS_TO_RAS @ matrix @ LPS_TO_RAS, dtype=np.float64)


def _inconsistency_mm(there: NDArray[np.float64], back: NDArray[np.float64], grid: Grid) -> float:
    corners = np.c_[grid.corners_mm(), np.ones(8)]
    returned = corners @ (back @ there).T
    return float(np.linalg.norm((returned - corners)[:, :3], axis=1).max())


def _information(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform, seed: int) -> float:
    method = _method(seed, fixed)
    method.SetInitialTransform(transform)
    try:
        return -float(method.MetricEvaluate(fixed, moving))
    except RuntimeError:  # no overlap: nothing is known of one from the other
        return 0.0


def _warnings(found: Registration, grid: Grid) -> tuple[str, ...]:
    out = []
    if found.inconsistency_mm > max(DOUBTFUL_MM, 2 * max(grid.spacing_mm)):
        out.append(
            f"there and back miss each other by {found.inconsistency_mm:.1f} mm: one of the two ended in a wrong place"
        )
    if found.information_after < 0.98 * found.information_before:
        out.append(f"mutual information fell ({found.information_before:.3f} to {found.information_after:.3f})")
    if found.information_after < LEAST_INFORMATION:
        out.append(
            f"mutual information is {found.information_after:.3f}, the images hardly tell anything of each other"
        )
    if found.rotation_degrees > DOUBTFUL_DEGREES:
        out.append(f"the image was turned by {found.rotation_degrees:.0f} degrees")
    return tuple(out)


def register_deformable(
    fixed: NDArray[np.floating],
    fixed_grid: Grid,
    *,
    moving: NDArray[np.floating],
    moving_grid: Grid,
    control_mm: float = 40.0,
) -> tuple[NDArray[np.float32], sitk.Transform]:
    """The moving image on the fixed grid after a free-form deformation, for two visits of one patient.

    Call it with a moving grid that `register_rigid` has aligned already.

    Args:
        fixed: i j k.
        fixed_grid: Where it lies.
        moving: i j k.
        moving_grid: Where it lies.
        control_mm: Distance of the control points of the B-spline.

    Returns:
        The deformed image i j k on the fixed grid, and the transform (LPS, fixed to moving).

    Raises:
        DicomError: The search fails.

    Source:
        Rueckert et al. 1999, IEEE Trans Med Imaging 18:712.
    """
    one, other = _image(fixed, fixed_grid), _image(moving, moving_grid)
    extent = [n * s for n, s in zip(one.GetSize(), one.GetSpacing(), strict=True)]
    mesh = [max(1, round(e / control_mm)) for e in extent]
    method = _method(0, one)
    method.SetInitialTransform(sitk.BSplineTransformInitializer(one, mesh, order=3), inPlace=True)
    method.SetOptimizerAsLBFGSB(gradientConvergenceTolerance=1e-5, numberOfIterations=60)
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1.0, 0.0])
    try:
        transform = method.Execute(one, other)
    except RuntimeError as error:
        raise DicomError(f"deforming fails ({str(error).splitlines()[-1].strip()})") from error
    moved = sitk.Resample(other, one, transform, sitk.sitkLinear, 0.0)
    return np.asarray(sitk.GetArrayFromImage(moved).transpose(2, 1, 0), dtype=np.float32), transform


def target_registration_error_mm(
    matrix: NDArray[np.float64], *, fixed_points: NDArray[np.float64], moving_points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Distance of each landmark from its partner after a registration, mm.

    Args:
        matrix: 4 x 4, RAS moving to fixed.
        fixed_points: N x 3, RAS mm.
        moving_points: N x 3, RAS mm, in the same order.

    Source:
        Brock et al. 2017 (AAPM TG-132), Med Phys 44:e43.

    Example:
        >>> moving = np.array([[3.0, 4.0, 0.0]])
        >>> target_registration_error_mm(np.eye(4), fixed_points=np.zeros((1, 3)), moving_points=moving)
        array([5.])
    """
    moved = np.c_[moving_points, np.ones(len(moving_points))] @ matrix.T
    return np.asarray(np.linalg.norm(moved[:, :3] - fixed_points, axis=1), dtype=np.float64)
