"""How good a transform of one pair is, whoever made it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mine_reg import itk, transforms
from mine_reg.grids import resampled
from mine_reg.metrics import field_metrics, mask_metrics
from mine_reg.pair_inputs import Image, Points, read_ct, read_lung_mask, read_pair_points


def evaluate(fixed: Image, moving: Image, transform: Sequence[str | Path] | sitk.Transform, fixed_mask: Image | None = None,
             moving_mask: Image | None = None, fixed_points: Points | None = None, moving_points: Points | None = None) -> dict[str, float]:
    """Metrics of a transform from fixed to moving points, on the grid of the fixed image.

    transform : a SimpleITK transform, or files of transforms and displacement fields (LPS mm) in ANTs' order, in which a fixed point
        meets the first one first: the transform.h5 of `mine-reg register` alone, or 1Warp.nii.gz and 0GenericAffine.mat

    ``folding_percent`` and ``sd_log_jacobian`` always; with masks ``dsc``, ``asd_mm``, ``hd_mm`` and ``hd95_mm``, with points ``tre_mm``, each also
    before registration (``_before``). Raises FileNotFoundError, and ValueError in a sentence that names the input.
    """
    names = {name: str(given) if isinstance(given, str | Path) else name for name, given in (("fixed", fixed), ("moving", moving))}
    images = {name: read_ct(given, names[name]) for name, given in (("fixed", fixed), ("moving", moving))}
    masks = {name: None if given is None else read_lung_mask(given, images[name], name, names[name])
             for name, given in (("fixed", fixed_mask), ("moving", moving_mask))}
    points = read_pair_points(fixed_points, moving_points)
    if not isinstance(transform, sitk.Transform):
        transform = transforms.read_transforms(transform)
    report = field_metrics(itk.displacement_voxels(transform, images["fixed"], images["fixed"]))
    before = measured(sitk.Transform(3, sitk.sitkIdentity), images["fixed"], masks, points)
    after = measured(transform, images["fixed"], masks, points)
    return report | {f"{name}_before": value for name, value in before.items()} | {f"{name}_after": value for name, value in after.items()}


def measured(transform: sitk.Transform, fixed: sitk.Image, masks: dict[str, sitk.Image | None], points: tuple[np.ndarray, np.ndarray] | None) -> dict[str, float]:
    """DSC, ASD, HD and HD95 of lung masks ``fixed`` and ``moving`` on the grid of the fixed image, and TRE; without masks or points not theirs."""
    values = {}
    if masks["fixed"] is not None and masks["moving"] is not None:
        moved = resampled(masks["moving"], fixed, 0, transform) > 0.5
        values |= mask_metrics(itk.to_tensor(masks["fixed"]), itk.to_tensor(moved), fixed.GetSpacing()[::-1])
    if points is not None:
        values["tre_mm"] = float(np.linalg.norm(transforms.map_points(transform, points[0]) - points[1], axis=1).mean())
    return values
