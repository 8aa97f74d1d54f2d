"""Image files as they come, either whole and usable or refused in one sentence."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def read_image(path: str | Path) -> sitk.Image:
    """One scalar 3D volume: a NIfTI, NRRD or MetaImage file, or a folder that holds one DICOM series.

    Raises FileNotFoundError when there is nothing at ``path``, and ValueError (one sentence naming the file) when it
    cannot be read or is not a volume of finite numbers, with at least 4 voxels along each axis, on a rectangular grid
    of plausible spacing.
    """
    image = read_or_explain(_read_dicom if Path(path).is_dir() else sitk.ReadImage, path)
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


def read_or_explain(reader, path: str | Path):
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
        raise ValueError(
            f"{path} has voxels of {' x '.join(f'{value:g}' for value in spacing)} mm, which no CT of a "
            "chest has; mend the spacing in its header, in mm"
        )
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
            raise ValueError(
                f"{folder} holds a DICOM series whose slices are {steps.min():g} to {steps.max():g} mm "
                "apart, so some are missing, damaged or doubled; give the complete series"
            )
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
                    whole = chunk[: len(chunk) // (bits // 8) * (bits // 8)]
                    bad += np.count_nonzero(~np.isfinite(np.frombuffer(whole, f"{order}f{bits // 8}")))
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not all(0 < value < np.inf for value in spacing):
        raise ValueError(
            f"{path} has the spacing {' x '.join(f'{value:g}' for value in spacing)} in its header "
            "(pixdim); write the size of a voxel in mm, above 0"
        )
    if missing > 0:
        raise ValueError(f"{path} is damaged: it ends {missing} bytes too early")
    return bad
