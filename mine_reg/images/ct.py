"""Chest CTs and lung masks: HU, nothing below air, the mask on the image's own grid; lungs found where no mask is
given."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mine_reg.images.hounsfield import AIR_HU, BODY_HU
from mine_reg.images.lungs import find_lungs
from mine_reg.images.masks import lung_of
from mine_reg.images.reading import checked_volume, read_image

LUNGS_HU = (-950, -400)  # mean of both lungs, from emphysema to severe pneumonia
OFFSET = 1024  # that exports without a rescale leave in


def read_clipped(path: str | Path, image: sitk.Image | None = None) -> sitk.Image:
    """A CT as float32 HU, nothing below air; ``image`` is what `read_image` has made of ``path`` already.

    Raises what `read_image` raises, and ValueError when no voxel is denser than lung.
    """
    image = sitk.Clamp(read_image(path) if image is None else image, sitk.sitkFloat32, AIR_HU, 32767)
    if not sitk.GetArrayViewFromImage(image).max() >= BODY_HU:
        raise ValueError(f"{path} has no voxel above {BODY_HU} HU, so it shows no body; give a CT in HU")
    return image


def doubt_about_hu(image: sitk.Image, lungs: sitk.Image | None) -> str | None:
    """Say what is odd about intensities that should be HU; None when nothing is.

    lungs : a mask of 0 and 1 on the image's grid, which tells HU with an offset from other things
    """
    array = sitk.GetArrayViewFromImage(image)
    low, high = float(array.min()), float(array.max())
    if low <= BODY_HU and high >= 100:
        return None
    found = f"has values from {low:g} to {high:g}, but a CT in HU has air near -1000 and soft tissue from 0 to 100"
    if lungs is not None and low >= 0:
        tissue = np.median(array[array > 500]) if (array > 500).any() else 0
        mean = array[sitk.GetArrayViewFromImage(lungs) > 0.5].mean() - OFFSET
        if LUNGS_HU[0] < mean < LUNGS_HU[1] and abs(tissue - OFFSET) < 300:
            return f"{found}; these look like HU + {OFFSET}, so subtract {OFFSET}"
    return f"{found}; is it MR, or rescaled? Give the CT in HU"


def read_mask(path: str | Path, image: sitk.Image, name: str, owner: str | Path) -> sitk.Image:
    """A mask as float32 0 or 1 on the grid of ``image``, a CT in HU; see `masks.lung_of` for what counts as lung.

    name, owner : what messages call the mask and the image. Raises what `read_image` and `masks.lung_of` raise.
    """
    return lung_of(read_image(path), image, f"{name} {path}", f"{owner}")


Image = str | Path | sitk.Image


def read_ct(given: Image, name: str) -> sitk.Image:
    """A CT in HU, nothing below air. Raises FileNotFoundError, and ValueError that names the image."""
    if isinstance(given, sitk.Image):
        return read_clipped(name, _volume(given, name))
    return read_clipped(given)


def read_lung_mask(given: Image, image: sitk.Image, name: str, owner: str) -> sitk.Image:
    """0 and 1 on the grid of ``image``, which the message calls ``owner``. Raises what `read_mask` raises."""
    if isinstance(given, sitk.Image):
        return lung_of(_volume(given, f"{name}_mask"), image, f"{name}_mask", owner)
    return read_mask(given, image, f"{name}_mask", owner)


def _volume(given: sitk.Image, name: str) -> sitk.Image:
    if given.GetDimension() != 3 or given.GetNumberOfComponentsPerPixel() != 1:
        size = " x ".join(map(str, given.GetSize()))
        raise ValueError(f"{name} must be a scalar volume, not {size} voxels of {given.GetPixelIDTypeAsString()}")
    return checked_volume(given, name)


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
