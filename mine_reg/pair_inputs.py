"""What a user gives for one pair (files, DICOM folders, SimpleITK images, tables of points), read and checked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mine_reg import itk
from mine_reg.ct import read_clipped, read_mask
from mine_reg.manifest import read_points

Image = str | Path | sitk.Image
Points = str | Path | Sequence


def read_ct(given: Image, name: str) -> sitk.Image:
    """A CT in HU, nothing below air. Raises FileNotFoundError, and ValueError that names the image."""
    if isinstance(given, sitk.Image):
        if given.GetDimension() != 3 or given.GetNumberOfComponentsPerPixel() != 1 or min(given.GetSize()) < 4:
            raise ValueError(f"{name} must be a scalar volume with at least 4 voxels along each axis, not {given.GetSize()}")
        if not np.isfinite(sitk.GetArrayViewFromImage(given)).all():
            raise ValueError(f"{name} holds voxels that are NaN or infinite; replace them, e.g. by -1024 HU")
        return read_clipped(name, given)
    return read_clipped(given)


def read_lung_mask(given: Image, image: sitk.Image, name: str, owner: str) -> sitk.Image:
    """0 and 1 on the grid of ``image``, which the message calls ``owner``. Raises what `read_ct` raises."""
    if isinstance(given, sitk.Image):
        if not itk.same_grid(given, image):
            raise ValueError(f"{name}_mask is on another grid than {owner}; resample it to its image")
        return sitk.Cast(given != 0, sitk.sitkFloat32)
    return read_mask(given, image, f"{name}_mask", owner)


def read_pair_points(fixed: Points | None, moving: Points | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Corresponding points, each (N, 3) in LPS mm; None when none are given. Raises FileNotFoundError, and ValueError when they do not correspond."""
    if fixed is None and moving is None:
        return None
    if fixed is None or moving is None:
        raise ValueError("points were given of one image alone; give fixed and moving points, row i to row i")
    fixed, moving = (read_points(given) if isinstance(given, str | Path) else np.asarray(given, float).reshape(-1, 3) for given in (fixed, moving))
    if len(fixed) != len(moving) or not len(fixed):
        raise ValueError(f"there are {len(fixed)} fixed and {len(moving)} moving points; row i of one must correspond to row i of the other")
    return fixed, moving
