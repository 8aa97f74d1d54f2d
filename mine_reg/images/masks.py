"""Lung masks in any usual encoding as 0 and 1 on their image's grid; or what is wrong with them."""

import numpy as np
import SimpleITK as sitk

from mine_reg.images.geometry import same_grid
from mine_reg.images.hounsfield import AIR_HU, BODY_HU

LUNGS_L = (0.5, 12.0)  # litres of both lungs, from a child's, or a crop, to the largest there are
_ROUNDING = 1e-3  # of labels that were stored as fractions, e.g. 255 * (1 / 255)
_MOST_LABELS = 40  # lungs, lobes, segments, airways; with more it is an image, or probabilities in percent
_MOST_VOXELS = 0.9  # that lungs can fill of a scan, however tightly cropped
_AROUND_HU = -970.0  # mean in the air around a body; in lungs with severe emphysema -930


def lung_of(mask: sitk.Image, image: sitk.Image, what: str, owner: str) -> sitk.Image:
    """Lung as float32 1, the rest as 0, on the grid of ``image``, a CT in HU.

    Lung is every label other than 0: left and right lung, lobes, 255. Of probabilities from 0 to 1, lung is what has
    0.5 or more. A mask whose axes run otherwise than the image's is turned, without interpolation.

    what, owner : what messages call the mask and the image

    Raises ValueError, one sentence, for a mask on another grid, and for one that does not tell lung from the rest:
    empty, everywhere, inverted, in the air outside the body, of negative numbers or of too many.
    """
    mask = _on_axes_of(image, mask)
    if not same_grid(mask, image):
        grids = f"{_geometry(mask)} against {_geometry(image)}"
        raise ValueError(f"{what} is on another grid than {owner}: {grids}; resample it to its image")
    array = sitk.GetArrayViewFromImage(mask)
    _check_values(array, what)
    lung = array >= 0.5 if array.dtype.kind == "f" else array > 0
    _check_place(lung, sitk.GetArrayViewFromImage(image), what, owner)
    found = sitk.Cast(sitk.GetImageFromArray(lung.view(np.uint8)), sitk.sitkFloat32)
    found.CopyInformation(image)  # headers may differ by rounding
    return found


def _on_axes_of(image: sitk.Image, mask: sitk.Image) -> sitk.Image:
    """The mask with its axes in the order and the directions of the image's, as near as flips come."""
    if np.allclose(mask.GetDirection(), image.GetDirection(), atol=1e-3):
        return mask
    return sitk.DICOMOrient(mask, sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection()))


def _geometry(image: sitk.Image) -> str:
    def triple(values):
        return " x ".join(f"{value:g}" for value in values)

    return f"{triple(image.GetSize())} voxels of {triple(image.GetSpacing())} mm from {triple(image.GetOrigin())}"


def _check_values(array: np.ndarray, what: str) -> None:
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"{what} holds voxels that are NaN or infinite; replace them by 0")
    if low < -_ROUNDING:
        raise ValueError(
            f"{what} holds values down to {low:g}, and a mask has none below 0; give 0 outside the lungs, and 1 or "
            "labels inside"
        )
    if array.dtype.kind == "f" and high > 1 + _ROUNDING:
        odd = next((part[away] for part in array if (away := abs(part - np.rint(part)) > _ROUNDING).any()), None)
        if odd is not None:
            raise ValueError(
                f"{what} holds values such as {odd[0]:g}, neither labels nor probabilities from 0 to 1; resample masks "
                "by nearest neighbour, or give 0 and 1"
            )
    if high > _MOST_LABELS:
        count = len(np.unique(np.rint(array[array >= 0.5])))
        if count > _MOST_LABELS:
            raise ValueError(
                f"{what} holds {count} different values, so it is no mask of lungs; give 0 outside the lungs, and 1 or "
                "labels inside"
            )
    if not high > 0:
        raise ValueError(f"{what} is empty; it must mark the lungs with values other than 0")
    if high < 0.5:
        raise ValueError(f"{what} is empty: its highest value is {high:.3g}, and lung begins at 0.5; give 0 and 1")


def _check_place(lung: np.ndarray, hu: np.ndarray, what: str, owner: str) -> None:
    share = np.count_nonzero(lung) / lung.size
    if share == 1:
        raise ValueError(f"{what} marks every voxel; it must mark the lungs only, and be 0 elsewhere")
    corners = lung[np.ix_((0, -1), (0, -1), (0, -1))]
    if share > _MOST_VOXELS or (share > 0.5 and corners.all()):
        raise ValueError(
            f"{what} marks {100 * share:.0f} % of all voxels, so it looks inverted; give 1 in the lungs and 0 elsewhere"
        )
    mean = float(np.maximum(hu[lung].astype(np.float32), AIR_HU).mean(dtype=np.float64))
    if mean < _AROUND_HU and hu.max() > BODY_HU:
        raise ValueError(
            f"{what} marks air outside the body (a mean of {mean:.0f} HU in {owner}); check that it belongs to this "
            "image, and its orientation"
        )


def litres(mask: sitk.Image) -> float:
    """The volume of a mask's voxels above 0."""
    return float(np.count_nonzero(sitk.GetArrayViewFromImage(mask) > 0) * np.prod(mask.GetSpacing()) / 1e6)
