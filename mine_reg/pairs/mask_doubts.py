"""Whether lung masks look as if they belonged to another image: swapped, mirrored, of another pair."""

import numpy as np
import SimpleITK as sitk

from mine_reg.images.ct import lung_mask
from mine_reg.images.geometry import averaged, grid_over, on_grid
from mine_reg.images.hounsfield import AIR_HU

_GRID_MM = 4.0  # on which lungs are looked for
_LITTLE = 0.9  # DSC with the lungs that a threshold finds; right masks have 0.97, those of other people up to 0.91
_BETTER = 0.02  # of DSC, by which another reading must fit better


def doubts_about_masks(images: dict[str, sitk.Image], masks: dict[str, sitk.Image]) -> list[str]:
    """Sentences about lung masks that do not fit the lungs a threshold finds in the images; none where it finds none.

    images : CTs in HU, ``fixed`` and ``moving``; masks : ``fixed_mask``, ``moving_mask`` and perhaps further ones
    """
    said, own, crossed = [], {}, {}
    for role, other in (("fixed", "moving"), ("moving", "fixed")):
        grid = grid_over(images[role], _GRID_MM)
        try:
            lungs = _values(lung_mask(on_grid(averaged(images[role], _GRID_MM), grid, AIR_HU)))
        except ValueError:
            return said
        name = f"{role}_mask"
        mask = _values(_coarse(masks[name], grid))
        own[role], crossed[role] = dice(mask, lungs), dice(_values(_coarse(masks[f"{other}_mask"], grid)), lungs)
        mirrored = dice(mask[..., ::-1], lungs)  # the grid's middle is the image's
        if mirrored > own[role] + _BETTER:
            said.append(
                f"{name} looks mirrored: the lungs that a threshold finds in the {role} image overlap with it by a DSC "
                f"of {own[role]:.2f}, and by {mirrored:.2f} with its mirror image"
            )
        elif own[role] < _LITTLE:
            said.append(
                f"{name} overlaps with the lungs that a threshold finds in the {role} image by a DSC of "
                f"{own[role]:.2f} only; check that it belongs to this image"
            )
    if all(crossed[role] > own[role] + _BETTER for role in own):
        return ["fixed_mask and moving_mask look swapped: each overlaps more with the lungs of the other image"]
    return said


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """DSC of two masks."""
    return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))


def _coarse(mask: sitk.Image, grid: sitk.Image) -> sitk.Image:
    return on_grid(averaged(sitk.Cast(mask, sitk.sitkFloat32), _GRID_MM), grid, 0) >= 0.5


def _values(mask: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(mask) > 0
