"""Lung masks without a network, for scans that come without one; and from a mask, whether the blood between the lungs is enhanced."""

import numpy as np
import SimpleITK as sitk

from mine_reg.lung_shape import find_lungs


def lung_mask(image: sitk.Image) -> sitk.Image:
    """Both lungs of a chest CT in HU, as uint8 0 or 1 on the image's own grid, any spacing and orientation.

    See `lung_shape.find_lungs`. It is no expert's mask: consolidations at the pleura are left out, and parts of the large bronchi
    may be in.

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
    """HU of the brightest soft tissue between the lungs: the 90th percentile of 0 to 400 HU in front of the spine, at the height of
    the middle third of the lungs; NaN with next to none. 50 to 70 without, above 150 with contrast agent in the blood."""
    mask = sitk.GetArrayViewFromImage(lungs) > 0
    if not mask.any():
        return float("nan")
    voxels = np.argwhere(mask)
    low, high = voxels.min(0), voxels.max(0) + 1
    hu, mask = (a[tuple(slice(i, j) for i, j in zip(low, high, strict=True))] for a in (sitk.GetArrayViewFromImage(image), mask))
    to_world = np.reshape(image.GetDirection(), (3, 3))[:, ::-1] * np.array(image.GetSpacing())[::-1]  # index z, y, x -> x, y, z mm
    where = np.argwhere((hu > 0) & (hu < 400) & ~mask) @ to_world.T
    box = np.sort(np.array([[0, 0, 0], np.array(mask.shape)]) @ to_world.T, axis=0)
    part = (where - box[0]) / (box[1] - box[0])  # 0 to 1 along x, y, z
    middle = (np.abs(part[:, 0] - 0.5) < 0.2) & (part[:, 1] > 0.2) & (part[:, 1] < 0.6) & (np.abs(part[:, 2] - 0.5) < 0.17)
    values = hu[(hu > 0) & (hu < 400) & ~mask][middle]
    return float(np.percentile(values, 90)) if len(values) >= 10 else float("nan")
