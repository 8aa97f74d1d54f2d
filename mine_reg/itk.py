"""Physical space: images on disk, and the one place where SimpleITK meets tensors.

ITK speaks x, y, z and LPS millimetres; the study's tensors are (B, C, D, H, W), axes z, y, x, and speak voxels. Every
transform maps fixed to moving points. With index = T2I t for the coordinates t in [-1, 1] of ``affine_grid``
(align_corners=True) and T2P = [direction diag(spacing) | origin] T2I, an affine ``theta`` is, in millimetres,
T2P_moving theta inv(T2P_fixed).
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch


def read_image(path: str | Path) -> sitk.Image:
    """One scalar 3D volume: a NIfTI, NRRD or MetaImage file, or a folder that holds one DICOM series.

    Raises FileNotFoundError when there is nothing at ``path``, and ValueError (one sentence naming the file) when it
    cannot be read or is not a volume of finite numbers, with at least 4 voxels along each axis, on a rectangular grid
    of plausible spacing.
    """
    image = _read(_read_dicom if Path(path).is_dir() else sitk.ReadImage, path)
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:  # many NIfTI writers add an empty time axis
        image = image[:, :, :, 0]
    size = " x ".join(map(str, image.GetSize()))
    if image.GetDimension() != 3:
        raise ValueError(f"{path} has {image.GetDimension()} dimensions ({size}); give a file with a single 3D volume")
    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in image.GetPixelIDTypeAsString():
        raise ValueError(f"{path} holds a {image.GetPixelIDTypeAsString()} per voxel; give a scalar image")
    if min(image.GetSize()) < 4:  # ITK's filters ask for as many
        raise ValueError(f"{path} has only {size} voxels; a volume needs at least 4 along each axis")
    _check_header(path, image)
    if str(path).endswith((".nii", ".nii.gz")):
        bad = _non_finite_in_nifti(Path(path), image)
    else:
        array = sitk.GetArrayViewFromImage(image)
        bad = np.count_nonzero(~np.isfinite(array)) if array.dtype.kind == "f" else 0
    if bad:
        raise ValueError(f"{path} holds {bad} voxels that are NaN or infinite; replace them, e.g. by -1024 HU")
    return image


def to_tensor(image: sitk.Image) -> torch.Tensor:
    """Voxels of a scalar image as (1, D, H, W) float32."""
    return torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.float32))[None]


def to_image(
    tensor, spacing_mm_xyz=(1.0, 1.0, 1.0), origin_xyz=(0.0, 0.0, 0.0), direction=None, dtype=None
) -> sitk.Image:
    """A (D, H, W) or (1, D, H, W) tensor or array as an image in LPS millimetres.

    direction : 9 numbers, row by row; None is the identity
    dtype : numpy type to store, e.g. ``"int16"`` (rounded, not truncated); None keeps the tensor's, bool as uint8
    """
    array = tensor.detach().cpu().numpy() if isinstance(tensor, torch.Tensor) else np.asarray(tensor)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3:
        raise ValueError(f"an image is made from (D, H, W) or (1, D, H, W), not from {array.shape}")
    dtype = np.dtype(dtype or (np.uint8 if array.dtype == bool else array.dtype))
    if dtype.kind in "iu" and array.dtype.kind == "f":
        array = np.rint(array)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array, dtype))
    image.SetSpacing([float(value) for value in spacing_mm_xyz])
    image.SetOrigin([float(value) for value in origin_xyz])
    if direction is not None:
        image.SetDirection([float(value) for value in direction])
    return image


def same_grid(a: sitk.Image, b: sitk.Image) -> bool:
    """Whether two images share size, and voxel positions to a hundredth of a voxel (headers store float32 or text)."""
    if a.GetSize() != b.GetSize():
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.GetSize()])).reshape(3, -1)
    shift = np.linalg.solve(_index_to_mm(a)[:3, :3], (_index_to_mm(b) - _index_to_mm(a))[:3] @ _homogeneous(corners))
    return bool(np.abs(shift).max() < 0.01)


def points_to_voxels(points_xyz, image: sitk.Image) -> torch.Tensor:
    """LPS millimetres (N, 3) in x, y, z -> continuous index (N, 3) in z, y, x, float64."""
    points = np.asarray(points_xyz, np.float64).reshape(-1, 3).T
    index = np.linalg.solve(_index_to_mm(image), _homogeneous(points))[:3]
    return torch.from_numpy(index[::-1].T.copy())


def voxels_to_points(voxels, image: sitk.Image) -> torch.Tensor:
    """Continuous index (N, 3) in z, y, x -> LPS millimetres (N, 3) in x, y, z, float64."""
    index = np.asarray(voxels, np.float64).reshape(-1, 3).T[::-1]
    return torch.from_numpy((_index_to_mm(image) @ _homogeneous(index))[:3].T.copy())


def composite_transform(theta, dvf, fixed: sitk.Image, moving: sitk.Image) -> sitk.CompositeTransform:
    """The registration x -> A(x + u(x)) in LPS millimetres, from fixed to moving points.

    theta : (1, 3, 4), x, y, z, from ``affine_grid`` coordinates of the fixed to those of the moving image
    dvf : (1, 3, D, H, W), z, y, x, voxels of the fixed grid; None for an affine alone
    fixed, moving : the images, or headers, whose grids theta and dvf refer to

    Raises ValueError when the field is not on the fixed grid.
    """
    normalised = np.eye(4)
    normalised[:3] = torch.as_tensor(theta).detach().cpu().double().reshape(3, 4).numpy()
    from_fixed = np.linalg.inv(_index_to_mm(fixed) @ _unit_to_index(fixed))
    matrix = _index_to_mm(moving) @ _unit_to_index(moving) @ normalised @ from_fixed
    affine = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    if dvf is None:
        return sitk.CompositeTransform([affine])
    dvf = torch.as_tensor(dvf).detach().cpu()
    if tuple(dvf.shape) != (1, 3, *fixed.GetSize()[::-1]):
        raise ValueError(f"the displacement field has shape {tuple(dvf.shape)}, the fixed grid asks for "
                         f"{(1, 3, *fixed.GetSize()[::-1])}")
    # u_mm = direction diag(spacing) u_voxels, channels turned to x, y, z and moved last
    field_mm = np.tensordot(dvf[0].flip(0).numpy().astype(np.float64), _index_to_mm(fixed)[:3, :3], axes=(0, 1))
    field = sitk.GetImageFromArray(field_mm, isVector=True)
    field.CopyInformation(fixed)
    # the transform added last acts first: the field, then the affine
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])


def displacement_voxels(transform: sitk.Transform, fixed: sitk.Image, moving: sitk.Image) -> torch.Tensor:
    """Any transform at the voxel centres of ``fixed``: continuous index in ``moving`` minus index in ``fixed``.

    Returns (1, 3, D, H, W) float32, channels z, y, x; with one grid for both images, the displacement in its voxels.
    """
    field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat32, fixed.GetSize(), fixed.GetOrigin(),
                                              fixed.GetSpacing(), fixed.GetDirection())
    to_moving = np.linalg.inv(_index_to_mm(moving))
    displacement = np.tensordot(to_moving[:3, :3].astype(np.float32), sitk.GetArrayViewFromImage(field), axes=(1, 3))
    # what the two grids differ by, in float64 and axis by axis so that no second field is held
    grids = to_moving @ _index_to_mm(fixed) - np.eye(4)
    for channel in range(3):
        for axis, count in enumerate(fixed.GetSize()):
            ramp = grids[channel, axis] * np.arange(count) + grids[channel, 3] / 3
            displacement[channel] += ramp.astype(np.float32).reshape([-1 if 2 - d == axis else 1 for d in range(3)])
    return torch.from_numpy(np.ascontiguousarray(displacement[::-1]))[None]


def read_ants_transform(warp_path: str | Path | None, affine_path: str | Path) -> sitk.CompositeTransform:
    """ANTs' ``1Warp.nii.gz`` and ``0GenericAffine.mat`` as one transform from fixed to moving points.

    ANTs lists [warp, affine] and pulls the moving image through the affine last, so a fixed point meets the warp first.
    ``warp_path`` None reads an affine or rigid result. Raises FileNotFoundError, or ValueError that names the file.
    """
    transforms = [_read(sitk.ReadTransform, affine_path)]
    if warp_path is not None:
        field = sitk.Cast(_read(sitk.ReadImage, warp_path), sitk.sitkVectorFloat64)
        transforms.append(sitk.DisplacementFieldTransform(field))
    return sitk.CompositeTransform(transforms)


def _read(reader, path: str | Path):
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist")
    if Path(path).is_file() and Path(path).stat().st_size == 0:
        raise ValueError(f"{path} is an empty file (0 bytes); export or copy it again")
    try:
        return reader(str(path))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1].removeprefix("sitk::ERROR: ") if lines else "unknown reason"
        reason = next((clear for itk_says, clear in _REASONS.items() if itk_says in str(error)), reason)
        raise ValueError(f"{path} cannot be read: {reason}") from None


_AXES = "the axes in its header are not at right angles; mend the header, or resample the image to a rectangular grid"
_REASONS = {
    "Unable to determine ImageIO reader": "it is no image of a known kind, or its beginning is damaged; give NIfTI, "
                                          "NRRD, MetaImage or a folder with one DICOM series",
    "orthonormal direction": _AXES,
    "Bad direction, determinant is 0": _AXES,
    "Refusing to change spacing": "the spacing in its header is not above 0 along every axis; write it in mm",
}


def _check_header(path: str | Path, image: sitk.Image) -> None:
    spacing = image.GetSpacing()
    if not all(0.01 <= value <= 100 for value in spacing):
        raise ValueError(f"{path} has voxels of {' x '.join(f'{value:g}' for value in spacing)} mm, which no CT of a "
                         "chest has; mend the spacing in its header, in mm")
    direction = np.reshape(image.GetDirection(), (3, 3))
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
        raise ValueError(f"{path} cannot be used: {_AXES}")
    if not np.isfinite(image.GetOrigin()).all():
        raise ValueError(f"{path} has an origin that is not finite; mend its header")


def _read_dicom(folder: str) -> sitk.Image:
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(folder)
    if len(series) != 1:
        raise ValueError(f"{folder} holds {len(series)} DICOM series; give a folder with exactly one")
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder, series[0])
    image = sitk.ReadImage(files)
    if image.HasMetaDataKey("ITK_non_uniform_sampling_deviation"):  # also set for mere rounding, and its value is lost
        steps = _slice_steps(files)
        if np.abs(steps - np.median(steps)).max() > 0.2 * np.median(steps):
            raise ValueError(f"{folder} holds a DICOM series whose slices are {steps.min():g} to {steps.max():g} mm "
                             "apart, so some are missing, damaged or doubled; give the complete series")
    return image


def _slice_steps(files) -> np.ndarray:
    """Distances in mm between the slices of a DICOM series."""
    positions, reader = [], sitk.ImageFileReader()
    for file in files:
        reader.SetFileName(file)
        reader.ReadImageInformation()
        positions.append(np.dot(reader.GetOrigin(), np.reshape(reader.GetDirection(), (3, 3))[:, 2]))
    return np.diff(np.sort(positions))


def _non_finite_in_nifti(path: Path, image: sitk.Image) -> int:
    """NaN and infinite voxels of a NIfTI file, from its bytes; ValueError for a spacing that is not above 0, and when
    the file ends too early.

    The NIfTI library inside ITK hands out NaN as 0 HU and what a truncated file lacks as 0, without a word. For a
    spacing of 0 or NaN it puts 1 mm, and it mirrors the image for a negative one.
    """
    kind, bits, offset = (int(float(image.GetMetaData(key))) for key in ("datatype", "bitpix", "vox_offset"))
    missing, bad = image.GetNumberOfPixels() * bits // 8, 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            header = file.read(348)  # of NIfTI 1, the only one that ITK reads
            order = "<" if int.from_bytes(header[:4], "little") == 348 else ">"
            spacing = np.frombuffer(header, f"{order}f4", 3, 80)
            file.seek(offset)
            while missing > 0 and (chunk := file.read(min(missing, 2**24))):
                missing -= len(chunk)
                if kind in (16, 64):  # float32, float64
                    whole = chunk[:len(chunk) // (bits // 8) * (bits // 8)]
                    bad += np.count_nonzero(~np.isfinite(np.frombuffer(whole, f"{order}f{bits // 8}")))
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not all(0 < value < np.inf for value in spacing):
        raise ValueError(f"{path} has the spacing {' x '.join(f'{value:g}' for value in spacing)} in its header "
                         "(pixdim); write the size of a voxel in mm, above 0")
    if missing > 0:
        raise ValueError(f"{path} is damaged: it ends {missing} bytes too early")
    return bad


def _index_to_mm(image: sitk.Image) -> np.ndarray:
    """(4, 4), index x, y, z to LPS millimetres."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()  # scales the columns
    matrix[:3, 3] = image.GetOrigin()
    return matrix


def _unit_to_index(image: sitk.Image) -> np.ndarray:
    """(4, 4), ``affine_grid`` coordinates in [-1, 1] to index, x, y, z, align_corners=True (T2I)."""
    half = (np.array(image.GetSize()) - 1) / 2
    matrix = np.diag([*half, 1.0])
    matrix[:3, 3] = half
    return matrix


def _homogeneous(columns: np.ndarray) -> np.ndarray:
    return np.vstack([columns, np.ones(columns.shape[1])])
