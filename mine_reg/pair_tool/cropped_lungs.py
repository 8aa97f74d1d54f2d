"""Lungs in scans whose sides are cut off within them, as in a crop to one lung: there the air inside the body has no
wall that closes it."""

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import binary_erosion, label

from mine_reg.images.ct import lung_mask
from mine_reg.images.geometry import on_grid
from mine_reg.images.masks import litres

_AIR_HU = -400.0  # between lung and soft tissue
_MOST_AT_SIDES = 0.08  # share of a cut lung's voxels; around a body that fills the image it is 0.2 or more
_LEAST_HU = -960.0  # median of a cut lung's voxels; in the air around a body that does not fill the image, -1000
_WALL_HU = 0
_LARGE_LITRES = 6.0  # what is larger, and more than so many times what is found without walls, is air around the body
_MOST_WON = 2.5
_IN_PLANE = np.zeros((3, 3, 3), bool)
_IN_PLANE[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]

_ALONG_Y, _ALONG_X = np.ones((1, 3, 1), bool), np.ones((1, 1, 3), bool)


def lungs_of_crop(image: sitk.Image, shown_on: sitk.Image) -> sitk.Image:
    """`ct.lung_mask` of ``image``, axis-aligned in LPS, with a wall where a side of what ``shown_on`` shows cuts lung.

    Raises ValueError when there is nothing like lungs.
    """
    shown = sitk.Cast(shown_on, sitk.sitkFloat32) * 0 + 1
    hu = sitk.GetArrayFromImage(image)
    walled = with_walls(hu, sitk.GetArrayFromImage(on_grid(shown, image, 0)) > 0.99)
    if walled is hu:
        return lung_mask(image)
    closed = sitk.GetImageFromArray(walled)
    closed.CopyInformation(image)
    closed = sitk.ConstantPad(closed, [1, 1, 0], [1, 1, 0], _WALL_HU)
    closed = sitk.Crop(lung_mask(closed), [1, 1, 0], [1, 1, 0])
    if litres(closed) > _LARGE_LITRES:
        bare = lung_mask(image)
        if litres(closed) > _MOST_WON * litres(bare):
            return bare
    return closed


def with_walls(hu: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """HU (D, H, W), the same array where no lung reaches a side of what is shown; else dense outside of the body.

    Air that reaches a side with few of its voxels, is denser than pure air, and is in no corner of a slice, is lung;
    else it is around the body.
    """
    sides = shown & ~binary_erosion(shown, _IN_PLANE)
    corners = shown & ~binary_erosion(shown, _ALONG_Y) & ~binary_erosion(shown, _ALONG_X)
    components, count = label((hu < _AIR_HU) & shown)
    at_sides = np.bincount(components[sides], minlength=count + 1)[1:]
    share = at_sides / np.bincount(components.ravel(), minlength=count + 1)[1:]
    in_corners = np.unique(components[corners])
    cut = [
        number
        for number in np.setdiff1d(1 + np.flatnonzero((share > 0) & (share <= _MOST_AT_SIDES)), in_corners)
        if np.median(hu[components == number]) > _LEAST_HU
    ]
    if not cut:
        return hu
    outside = np.setdiff1d(1 + np.flatnonzero(share), cut)
    walled = np.where(shown & ~np.isin(components, outside), hu, _WALL_HU)
    return walled.astype(hu.dtype)
