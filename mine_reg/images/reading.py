"""Image files as they come, either whole and usable or refused in one sentence."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mine_reg.images.itk_state import decimal_point
from mine_reg.images.kinds import UNKNOWN, kind_of
from mine_reg.images.metaimage import check_metaimage, metaimage_files
from mine_reg.images.nifti import nifti_files, read_nifti
from mine_reg.images.nrrd import check_nrrd, nrrd_files
from mine_reg.storage.writing import check_utf8


@decimal_point()
def read_image(path: str | Path) -> sitk.Image:
    """One scalar 3D volume: a NIfTI, NRRD or MetaImage file, a folder that holds one DICOM series, or an enhanced CT.

    The kind is known by the contents, not by the name. Raises FileNotFoundError when there is nothing at ``path``, and
    ValueError (one sentence naming the file) when it cannot be read, is damaged, contradicts itself, or is not a volume
    of finite numbers, with at least 4 voxels along each axis, on a rectangular grid of plausible spacing.
    """
    path = Path(path)
    try:
        kind = kind_of(path)
        return checked_volume(_READERS[kind](path), path)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.exists():
            raise
        reason = error.strerror or error
        where = error.filename or path
        raise ValueError(f"{where} cannot be read: {reason}; check the path and its permissions") from None
    except MemoryError:
        raise ValueError(f"{path} is damaged, or larger than the memory of this machine can hold") from None


def image_files(path: str | Path) -> list[Path]:
    """Everything that `read_image` reads for ``path``, itself first: the folder, or the file and that of its voxels.
    What is kept of an image goes stale with any of them. Raises what `read_image` raises."""
    path = Path(path)
    kind = kind_of(path)
    if kind == "NIfTI":
        return [path, *(file for file in nifti_files(path) if file != path)]
    return {"NRRD": nrrd_files, "MetaImage": metaimage_files}.get(kind, lambda path: [path])(path)


def checked_volume(image: sitk.Image, name: str | Path) -> sitk.Image:
    """The image, of 3 dimensions and one component. Raises ValueError as `read_image` does; ``name`` is what messages
    call the image."""
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    size = " x ".join(map(str, image.GetSize()))
    if image.GetDimension() != 3:
        raise ValueError(f"{name} has {image.GetDimension()} dimensions ({size}); give a file with a single 3D volume")
    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in image.GetPixelIDTypeAsString():
        raise ValueError(f"{name} holds a {image.GetPixelIDTypeAsString()} per voxel; give a scalar image")
    if "vector" in image.GetPixelIDTypeAsString():  # of one component
        image = sitk.VectorIndexSelectionCast(image)
    if min(image.GetSize()) < 4:  # ITK's filters ask for as many
        raise ValueError(f"{name} has only {size} voxels; a volume needs at least 4 along each axis")
    check_grid(image, name)
    array = sitk.GetArrayViewFromImage(image)
    bad = np.count_nonzero(~np.isfinite(array)) if array.dtype.kind == "f" else 0
    if bad:
        raise ValueError(
            f"{name} holds {bad} voxels that are NaN or infinite; replace them, e.g. by -1024 HU, or by 0 in a mask"
        )
    return image


@decimal_point()
def read_or_explain(reader, path: str | Path):
    """``reader(path)``, with what ITK says when it fails in one sentence that names the file."""
    check_utf8(path)
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
    "Unable to determine ImageIO reader": UNKNOWN,
    "orthonormal direction": _AXES,
    "Bad direction, determinant is 0": _AXES,
    "Refusing to change spacing": "the spacing in its header is not above 0 along every axis; write it in mm",
}


def _read_checked(check, reader: str):
    def read(path: Path) -> sitk.Image:
        read_or_explain(lambda _: check(path), path)
        return read_or_explain(lambda name: sitk.ReadImage(name, imageIO=reader), path)

    return read


def _read_dicom(path: Path) -> sitk.Image:
    from mine_reg.images.dicom import read_dicom_file, read_dicom_folder  # pydicom takes a while to load

    return read_dicom_folder(path) if path.is_dir() else read_dicom_file(path)


_READERS = {
    "folder": _read_dicom,
    "DICOM": _read_dicom,
    "NIfTI": read_nifti,
    "NRRD": _read_checked(check_nrrd, "NrrdImageIO"),
    "MetaImage": _read_checked(check_metaimage, "MetaImageIO"),
}


def check_grid(image: sitk.Image, name: str | Path) -> None:
    """Raises ValueError for a grid that is not rectangular, has no place, or voxels of no plausible size."""
    spacing = image.GetSpacing()
    if not all(0.01 <= value <= 100 for value in spacing):
        raise ValueError(
            f"{name} has voxels of {' x '.join(f'{value:g}' for value in spacing)} mm, which no CT of a "
            "chest has; mend the spacing in its header, in mm"
        )
    direction = np.reshape(image.GetDirection(), (3, 3))
    if not np.allclose(direction.T @ direction, np.eye(3), atol=5e-4):
        raise ValueError(f"{name} cannot be used: {_AXES}")
    if not np.isfinite(image.GetOrigin()).all():
        raise ValueError(f"{name} has an origin that is not finite; mend its header")
