"""Chest CTs and lung masks: HU, nothing below air, the mask on the image's own grid; lungs found where no mask is
given."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mine_reg.images.geometry import same_grid
from mine_reg.images.lungs import find_lungs
from mine_reg.images.reading import read_image

AIR_HU = -1024  # exports hold down to -3024 HU outside the field of view
BODY_HU = -500  # between air, or lung, and soft tissue


def read_clipped(path: str | Path, image: sitk.Image | None = None) -> sitk.Image:
    """A CT as float32 HU, nothing below air; ``image`` is what `read_image` has made of ``path`` already.

    Raises what `read_image` raises, and ValueError when no voxel is denser than lung.
    """
    image = sitk.Clamp(image or read_image(path), sitk.sitkFloat32, AIR_HU, 32767)
    if not sitk.GetArrayViewFromImage(image).max() >= BODY_HU:
        raise ValueError(f"{path} has no voxel above {BODY_HU} HU, so it shows no body; give a CT in HU")
    return image


def read_mask(path: str | Path, image: sitk.Image, name: str, owner: str | Path) -> sitk.Image:
    """A mask as float32 0 or 1 on the grid of ``image``; every label other than 0 (left and right lung, lobes) is lung.

    name, owner : what messages call the mask and the image. Raises what `read_image` raises, and ValueError when
    the mask is on another grid or does not tell lung from the rest.
    """
    mask = read_image(path)
    if not same_grid(mask, image):
        raise ValueError(
            f"{name} {path} ({_geometry(mask)}) is on another grid than {owner} "
            f"({_geometry(image)}); resample it to its image"
        )
    mask = sitk.Cast(mask != 0, sitk.sitkFloat32)
    array = sitk.GetArrayViewFromImage(mask)
    if not array.any():
        raise ValueError(f"{name} {path} is empty; it must mark the lungs with values other than 0")
    if array.all():
        raise ValueError(f"{name} {path} marks every voxel; it must mark the lungs only, and be 0 elsewhere")
    mask.CopyInformation(image)  # headers may differ by rounding
    return mask


def _geometry(image: sitk.Image) -> str:
    def triple(values):
        return " x ".join(f"{value:g}" for value in values)

    return f"{triple(image.GetSize())} voxels of {triple(image.GetSpacing())} mm from {triple(image.GetOrigin())}"


Image = str | Path | sitk.Image


def read_ct(given: Image, name: str) -> sitk.Image:
    """A CT in HU, nothing below air. Raises FileNotFoundError, and ValueError that names the image."""
    if isinstance(given, sitk.Image):
        if given.GetDimension() != 3 or given.GetNumberOfComponentsPerPixel() != 1 or min(given.GetSize()) < 4:
            raise ValueError(
                f"{name} must be a scalar volume with at least 4 voxels along each axis, not {given.GetSize()}"
            )
        if not np.isfinite(sitk.GetArrayViewFromImage(given)).all():
            raise ValueError(f"{name} holds voxels that are NaN or infinite; replace them, e.g. by -1024 HU")
        return read_clipped(name, given)
    return read_clipped(given)


def read_lung_mask(given: Image, image: sitk.Image, name: str, owner: str) -> sitk.Image:
    """0 and 1 on the grid of ``image``, which the message calls ``owner``. Raises what `read_ct` raises."""
    if isinstance(given, sitk.Image):
        if not same_grid(given, image):
            raise ValueError(f"{name}_mask is on another grid than {owner}; resample it to its image")
        return sitk.Cast(given != 0, sitk.sitkFloat32)
    return read_mask(given, image, f"{name}_mask", owner)


def lung_mask(image: sitk.Image) -> sitk.Image:
    """Both lungs of a chest CT in HU, as uint8 0 or 1 on the image's own grid, any spacing and orientation.

    See `lungs.find_lungs`. It is no expert's mask: consolidations at the pleura are left out, and parts of the
    large bronchi may be in.

    Raises ValueError when there is nothing like lungs.
    """
    oriented = sitk.DICOMOrient(image, "LPS")  # so that slices are axial
    lungs = find_lungs(sitk.GetArrayFromImage(oriented), oriented.GetSpacing()[::-1])
    mask = sitk.GetImageFromArray(lungs.astype(np.uint8))
    mask.CopyInformation(oriented)
    mask = sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor)  # back to the image's own axes
    mask.CopyInformation(image)
    return mask


def blood_hu(image: sitk.Image, lungs: sitk.Image) -> float:
    """HU of the brightest soft tissue between the lungs: the 90th percentile of 0 to 400 HU in front of the spine, at
    the height of the middle third of the lungs; NaN with next to none. 50 to 70 without, above 150 with contrast agent
    in the blood."""
    mask = sitk.GetArrayViewFromImage(lungs) > 0
    if not mask.any():
        return float("nan")
    voxels = np.argwhere(mask)
    low, high = voxels.min(0), voxels.max(0) + 1
    hu, mask = (
        a[tuple(slice(i, j) for i, j in zip(low, high, strict=True))] for a in (sitk.GetArrayViewFromImage(image), mask)
    )
    to_world = (
        np.reshape(image.GetDirection(), (3, 3))[:, ::-1] * np.array(image.GetSpacing())[::-1]
    )  # index z, y, x -> x, y, z mm
    where = np.argwhere((hu > 0) & (hu < 400) & ~mask) @ to_world.T
    box = np.sort(np.array([[0, 0, 0], np.array(mask.shape)]) @ to_world.T, axis=0)
    part = (where - box[0]) / (box[1] - box[0])  # 0 to 1 along x, y, z
    middle = (
        (np.abs(part[:, 0] - 0.5) < 0.2) & (part[:, 1] > 0.2) & (part[:, 1] < 0.6) & (np.abs(part[:, 2] - 0.5) < 0.17)
    )
    values = hu[(hu > 0) & (hu < 400) & ~mask][middle]
    return float(np.percentile(values, 90)) if len(values) >= 10 else float("nan")
