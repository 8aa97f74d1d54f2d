"""Transforms as files and as displacements: those of this study, of ANTs, and any that ITK reads, applied to images,
points and grids."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mine_reg.images.fields import is_field_file, read_field
from mine_reg.images.geometry import displacement_voxels, voxels_to_points
from mine_reg.images.slabs import grid_from_slice, slabs
from mine_reg.images.transform_files import read_transform_file
from mine_reg.images.writing import write_image, write_transform_file
from mine_reg.spatial import jacobian_determinant


def read_ants_transform(warp_path: str | Path | None, affine_path: str | Path) -> sitk.CompositeTransform:
    """ANTs' ``1Warp.nii.gz`` and ``0GenericAffine.mat`` as one transform from fixed to moving points.

    ANTs lists [warp, affine] and pulls the moving image through the affine last, so a fixed point meets the warp first.
    ``warp_path`` None reads an affine or rigid result. Raises FileNotFoundError, or ValueError that names the file.
    """
    return read_transforms([affine_path] if warp_path is None else [warp_path, affine_path])


ITK_FILE, ANTS_AFFINE, ANTS_WARP, ANTS_INVERSE_WARP = (
    "transform.h5",
    "0GenericAffine.mat",
    "1Warp.nii.gz",
    "1InverseWarp.nii.gz",
)
INVERSE_FILE, LEARN2REG_FILE = "inverse.h5", "learn2reg_displacement.nii.gz"


def write_transform(transform: sitk.CompositeTransform, folder: Path) -> None:
    """``transform.h5`` for ITK and 3D Slicer, and ANTs' pair ``0GenericAffine.mat`` and ``1Warp.nii.gz``.

    ANTs is given the pair as ``transformlist=[1Warp.nii.gz, 0GenericAffine.mat]``, the order in which it lists its own
    results.
    """
    affine, field = _parts(transform)
    write_transform_file(transform, folder / ITK_FILE)
    write_transform_file(affine, folder / ANTS_AFFINE)
    write_image(_field_image(field), folder / ANTS_WARP)


def write_inverse(transform: sitk.CompositeTransform, folder: Path) -> dict[str, float]:
    """``inverse.h5`` and ANTs' ``1InverseWarp.nii.gz``; mean and largest error in mm, see `inverse_error`.

    ANTs is given ``transformlist=[0GenericAffine.mat, 1InverseWarp.nii.gz], whichtoinvert=[True, False]``.
    """
    inverse = inverted(transform)
    write_transform_file(inverse, folder / INVERSE_FILE)
    field = sitk.DisplacementFieldTransform(inverse.GetNthTransform(0))
    write_image(_field_image(field), folder / ANTS_INVERSE_WARP)
    return inverse_error(transform, inverse)


def write_learn2reg(transform: sitk.Transform, fixed: sitk.Image, moving: sitk.Image, path: Path) -> None:
    """The displacement in voxels as Learn2Reg reads it: an array (X, Y, Z, 3) on the fixed grid, components x, y, z."""
    field = sitk.Image([*fixed.GetSize(), 3], sitk.sitkFloat32)
    field.SetSpacing([*fixed.GetSpacing(), 1.0])
    field.SetOrigin([*fixed.GetOrigin(), 0.0])
    direction = np.eye(4)
    direction[:3, :3] = np.reshape(fixed.GetDirection(), (3, 3))
    field.SetDirection(direction.ravel().tolist())
    for slices, slab in slabs(fixed):
        # displacements stay the same when slices are counted from the slab's first one in both images
        displacement = displacement_voxels(transform, slab, grid_from_slice(moving, slices.start))[0].numpy()
        for component, values in enumerate(displacement[::-1]):
            field[:, :, slices, component] = sitk.GetImageFromArray(values)
    write_image(field, path)


def read_transform(path: str | Path) -> sitk.Transform:
    """A transform of 3 dimensions from a file: one of ITK's, or a displacement field in LPS mm.

    Raises FileNotFoundError, or ValueError, one sentence that names the file, for one that is damaged, of another kind
    or dimension, not finite, or that squashes space flat.
    """
    return sitk.DisplacementFieldTransform(read_field(path)) if is_field_file(path) else read_transform_file(path)


def read_transforms(paths: Sequence[str | Path]) -> sitk.CompositeTransform:
    """Several files as one map, in the order of ANTs: a fixed point meets the first one first. Raises what
    `read_transform` raises."""
    # SimpleITK's composite applies the last of its list first
    return sitk.CompositeTransform([read_transform(path) for path in reversed(paths)])


def inverted(transform: sitk.CompositeTransform) -> sitk.CompositeTransform:
    """The map from moving to fixed points, y -> (id + u)^-1(A^-1(y)), with the inverse field on the grid of u.

    Raises ValueError for a field that folds, which has no inverse.
    """
    affine, field = _parts(transform)
    grid = field.GetDisplacementField()
    # not SimpleITK's own determinant, which takes the components for those along the index axes
    if folded := int((jacobian_determinant(displacement_voxels(field, grid, grid)) <= 0).sum()):
        raise ValueError(
            f"the transform folds space at {folded} voxels of its field and so has no inverse there; leave the inverse "
            "out"
        )
    inverse = sitk.InvertDisplacementField(
        grid,
        maximumNumberOfIterations=100,
        maxErrorToleranceThreshold=1e-3,
        meanErrorToleranceThreshold=1e-5,
        enforceBoundaryCondition=False,
    )
    return sitk.CompositeTransform([sitk.DisplacementFieldTransform(inverse), affine.GetInverse()])


def inverse_error(transform: sitk.CompositeTransform, inverse: sitk.Transform, points: int = 5000) -> dict[str, float]:
    """Mean and largest |T^-1(T(x)) - x| in mm over random points x of the field's grid, its outermost tenth left out:
    what is moved over the border has no way back."""
    _, field = _parts(transform)
    grid = field.GetDisplacementField()
    size = np.array(grid.GetSize())[::-1]
    voxels = (0.1 + 0.8 * np.random.default_rng(0).random((points, 3))) * (size - 1)
    there = voxels_to_points(voxels, grid).numpy()
    back = map_points(inverse, map_points(transform, there))
    errors = np.linalg.norm(back - there, axis=1)
    return {"inverse_mean_error_mm": float(errors.mean()), "inverse_max_error_mm": float(errors.max())}


def map_points(transform: sitk.Transform, points_xyz: np.ndarray) -> np.ndarray:
    """Points (N, 3), LPS mm, through a transform."""
    return np.array([transform.TransformPoint(point) for point in np.asarray(points_xyz, float).tolist()]).reshape(
        -1, 3
    )


def apply_transform(
    image: sitk.Image, fixed: sitk.Image, transform: sitk.Transform, label: bool, outside: float | None = None
) -> sitk.Image:
    """``image``, in the moving space, on the grid of ``fixed``, interpolated once; pixel type as it was.

    label : nearest neighbour, for masks and segmentations; else linear
    outside : value where the moving image ends; None: 0 for a label, the image's own minimum otherwise
    """
    if outside is None:
        outside = 0.0 if label else float(sitk.GetArrayViewFromImage(image).min())
    if fixed.GetNumberOfPixels() >= _WORTH_COMPILING:
        from mine_reg.images import warp  # its compiler takes half a second to load

        if chain := warp.chain_of(transform):
            return warp.warp(image, fixed, chain, label, outside)
    if label:
        return sitk.Resample(image, fixed, transform, sitk.sitkNearestNeighbor, outside, image.GetPixelID())
    kind = sitk.sitkFloat32 if image.GetPixelID() in _EXACT_IN_FLOAT32 else sitk.sitkFloat64
    moved = sitk.Resample(image, fixed, transform, sitk.sitkLinear, outside, kind)
    return moved if image.GetPixelID() == kind else sitk.Cast(sitk.Round(moved), image.GetPixelID())


_WORTH_COMPILING = 4_000_000  # voxels of the output
_EXACT_IN_FLOAT32 = (sitk.sitkInt8, sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkUInt16, sitk.sitkFloat32)


def _parts(transform: sitk.CompositeTransform) -> tuple[sitk.AffineTransform, sitk.DisplacementFieldTransform]:
    """A and u. Raises ValueError for a transform of another kind."""
    composite = sitk.CompositeTransform(transform)
    if composite.GetNumberOfTransforms() == 2:
        affine, field = (composite.GetNthTransform(i) for i in range(2))
        if affine.GetTransformEnum() == sitk.sitkAffine and field.GetTransformEnum() == sitk.sitkDisplacementField:
            return sitk.AffineTransform(affine), sitk.DisplacementFieldTransform(field)
    raise ValueError("the transform is not an affine map after a displacement field, as `mine-reg register` writes it")


def _field_image(field: sitk.DisplacementFieldTransform) -> sitk.Image:
    return sitk.Cast(field.GetDisplacementField(), sitk.sitkVectorFloat32)
