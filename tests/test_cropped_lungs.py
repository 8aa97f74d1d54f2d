"""Lungs that a crop has cut open at its sides are found whole, and no air around a body is taken for them."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt

from mine_reg.images.ct import lung_mask
from mine_reg.pair_tool.cropped_lungs import lungs_of_crop, with_walls
from mine_reg.pair_tool.working_grid import on_lungs_grid

SPACING = 4.0


def body(around_hu: float = -1000.0) -> tuple[np.ndarray, np.ndarray]:
    """HU of a cylinder with two lungs in it, and the lungs."""
    z, y, x = np.mgrid[:44, :70, :90]
    hu = np.where(((y - 35) / 28) ** 2 + ((x - 45) / 40) ** 2 < 1, 40.0, around_hu)
    lungs = np.zeros(hu.shape, bool)
    for middle in (26, 64):
        lungs |= ((y - 35) / 20) ** 2 + ((x - middle) / 13) ** 2 + ((z - 22) / 18) ** 2 < 1
    return np.where(lungs, -850.0, hu), lungs


def image_of(hu: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(hu.astype(np.float32))
    image.SetSpacing([SPACING] * 3)
    return image


def found_lungs(image: sitk.Image) -> sitk.Image:
    return lungs_of_crop(on_lungs_grid(image), image)


def dice_with(found: sitk.Image, lungs: np.ndarray) -> float:
    truth = image_of(lungs.astype(np.uint8))
    seen = sitk.GetArrayFromImage(sitk.Resample(found, truth, sitk.Transform(), sitk.sitkNearestNeighbor)) > 0
    return 2 * (seen & lungs).sum() / (seen.sum() + lungs.sum())


CUTS = {
    "at the left": np.s_[:, :, 20:],
    "at the right": np.s_[:, :, :72],
    "to one lung, through its medial and lateral side": np.s_[:, :, 54:75],
    "in front": np.s_[:, 18:, :],
    "at the back and below": np.s_[12:, :52, :],
}


@pytest.mark.parametrize("cut", CUTS)
def test_lungs_cut_open_at_a_side_are_found(cut):
    hu, lungs = (array[CUTS[cut]] for array in body())
    assert dice_with(found_lungs(image_of(hu)), lungs) > 0.93


@pytest.mark.parametrize("around_hu", [-1000.0, -1024.0])
def test_whole_scans_come_out_as_without_walls(around_hu):
    hu, lungs = body(around_hu)
    shown = np.ones(hu.shape, bool)
    assert with_walls(hu, shown) is hu
    assert dice_with(found_lungs(image_of(hu)), lungs) > 0.93


@pytest.mark.parametrize("around_hu", [-940.0, -900.0])
def test_air_around_a_body_is_no_lung_however_dense(around_hu):
    """As in images that were windowed, or padded with little less than lung."""
    hu, lungs = (np.pad(array, ((0, 0), (12, 12), (12, 12)), mode="edge") for array in body(around_hu))
    assert with_walls(hu, np.ones(hu.shape, bool)) is hu
    assert dice_with(found_lungs(image_of(hu)), lungs) > 0.93


def test_air_around_a_body_that_fills_the_image_is_no_lung():
    """Clothes make it as dense as lung, on average."""
    hu, lungs = body()
    outside = (hu == -1000) & (distance_transform_edt(hu == -1000) < 4)
    hu = np.where(outside, -850.0, hu)[:, 6:64, 4:86]
    assert dice_with(found_lungs(image_of(hu)), lungs[:, 6:64, 4:86]) > 0.93


def test_walls_help():
    """Without them the slices that are cut open are lost."""
    hu, lungs = (array[CUTS["at the left"]] for array in body())
    assert dice_with(lung_mask(image_of(hu)), lungs) < 0.9
