"""What `register` is given: two CTs, masks, and the regions of both that are to be brought together."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from mine_reg.images.ct import OFFSET, Image, read_ct
from mine_reg.images.geometry import averaged, on_grid
from mine_reg.images.masks import litres
from mine_reg.images.padding import doubt_about_values, lowest_shown, without_padding
from mine_reg.pair_tool.cropped_lungs import lungs_of_crop
from mine_reg.pair_tool.report import read_masks
from mine_reg.pair_tool.working_grid import found_body, marked_region, on_lungs_grid, thinned, working_grid

ROLES = ("fixed", "moving")
LUNGS, MASK, BODY = "lungs", "mask", "body"


@dataclass
class Images:
    """By role, ``fixed`` and ``moving``.

    full : the CTs
    masks : those given, None where there is none
    regions : what is brought together, 0 or 1 on a grid of 4 mm: what the mask marks, else the lungs, else the body
    kinds : which of these, ``mask``, ``lungs`` or ``body``
    lungs_l : litres of the lungs, None where they are not the region
    bodies : on the same grids
    seen : the CTs as voxels of the working grid would see them, each on its own grid, air where they show nothing
    shown : 1 where they show anything and 0 in padding, on the same grids
    grid : the working grid
    doubts : sentences about all this
    """

    full: dict[str, sitk.Image]
    masks: dict[str, sitk.Image | None]
    regions: dict[str, sitk.Image]
    kinds: dict[str, str]
    lungs_l: dict[str, float | None]
    bodies: dict[str, sitk.Image]
    seen: dict[str, sitk.Image]
    shown: dict[str, sitk.Image]
    grid: sitk.Image
    doubts: list[str]


@dataclass
class _One:
    full: sitk.Image
    seen: sitk.Image
    with_padding: sitk.Image  # the same, with what may be all that there is of the 0 of raw values
    shown: sitk.Image
    padding: float | None
    body: sitk.Image
    lungs: sitk.Image | None
    raw_lungs: sitk.Image | None  # that would be found if the offset of raw values were taken away


def read_images(
    fixed: Image, moving: Image, fixed_mask: Image | None, moving_mask: Image | None, names: dict[str, str]
) -> Images:
    """Both images at once: SimpleITK works outside Python's lock.

    Raises what `ct.read_ct` and `ct.read_lung_mask` raise, and ValueError for HU with an offset and for a mask that
    marks next to nothing.
    """
    with ThreadPoolExecutor(2) as both:
        read = dict(zip(ROLES, both.map(_read, (fixed, moving), names.values()), strict=True))
    masks = read_masks({role: one.full for role, one in read.items()}, names, fixed_mask, moving_mask)
    regions, kinds = {}, {}
    for role, one in read.items():
        if masks[role] is not None:
            regions[role], kinds[role] = marked_region(masks[role], f"{role}_mask"), MASK
        elif one.lungs is not None:
            regions[role], kinds[role] = one.lungs, LUNGS
        else:
            regions[role], kinds[role] = one.body, BODY
    doubts = _doubts_about_hu(read, names) + _doubts_about_regions(kinds)
    doubts += [
        f"{names[role]} is padded with {one.padding:g} HU, which was taken for nothing shown"
        for role, one in read.items()
        if one.padding is not None
    ]
    grid = working_grid(regions["fixed"], shrinking=kinds["fixed"] == MASK)
    spacing = grid.GetSpacing()[0]
    return Images(
        {role: one.full for role, one in read.items()},
        masks,
        regions,
        kinds,
        {role: litres(region) if kinds[role] == LUNGS else None for role, region in regions.items()},
        {role: one.body for role, one in read.items()},
        {role: averaged(one.seen, spacing) for role, one in read.items()},
        {role: one.shown for role, one in read.items()},
        grid,
        doubts,
    )


def _read(given: Image, name: str) -> _One:
    image = read_ct(given, name)
    bare, shown, padding = without_padding(image)
    thin = thinned(bare)
    with_padding = thin if padding is None else thinned(image)
    coarse = on_lungs_grid(thin)
    shown = sitk.Cast(thin > -np.inf if shown is None else thinned(shown) > 0.99, sitk.sitkUInt8)
    lungs = _lungs(coarse, thin)
    may_be_raw = lungs is None and lowest_shown(with_padding) >= 0
    raw = _lungs(on_lungs_grid(with_padding - OFFSET), with_padding) if may_be_raw else None
    return _One(image, thin, with_padding, shown, padding, found_body(coarse, name), lungs, raw)


def _lungs(coarse: sitk.Image, image: sitk.Image) -> sitk.Image | None:
    try:
        return lungs_of_crop(coarse, image)
    except ValueError:
        return None


def _doubts_about_hu(read: dict[str, _One], names: dict[str, str]) -> list[str]:
    doubts = []
    for role, one in read.items():
        lungs = one.lungs or one.raw_lungs
        odd = doubt_about_values(one.with_padding, None if lungs is None else on_grid(lungs, one.with_padding, 0))
        if odd and odd.endswith("subtract 1024"):
            raise ValueError(f"{names[role]} {odd}")
        doubts += [f"{names[role]} {odd}"] if odd else []
    return doubts


def _doubts_about_regions(kinds: dict[str, str]) -> list[str]:
    without = [role for role, kind in kinds.items() if kind == BODY]
    if not without:
        return []
    where, masks = " and ".join(without), " and ".join(f"{role}_mask" for role in without)
    return [
        f"no lungs could be found in the {where} image, so the whole body took their place; if it shows lungs, give "
        f"lung masks as {masks}"
    ]


def inside(
    region: sitk.Image, grid: sitk.Image, within_mm: float = 0.0, transform: sitk.Transform | None = None
) -> np.ndarray:
    """Voxels of ``grid`` that are, after a transform, within so many mm of a region, Boolean (D, H, W)."""
    if not within_mm:
        return sitk.GetArrayFromImage(on_grid(region, grid, 0, transform)) > 0.5
    distance = sitk.SignedMaurerDistanceMap(region, squaredDistance=False, useImageSpacing=True)
    return sitk.GetArrayFromImage(on_grid(distance, grid, 255.0, transform)) <= within_mm


def shown_there(image: sitk.Image, grid: sitk.Image, transform: sitk.Transform | None = None) -> np.ndarray:
    """Voxels of ``grid`` where ``image``, 1 where anything is shown, is 1 after a transform, Boolean (D, H, W)."""
    return sitk.GetArrayFromImage(on_grid(image, grid, 0, transform)) > 0.99
