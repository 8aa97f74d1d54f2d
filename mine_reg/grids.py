"""Bringing images onto the study's grid: where it lies, and resampling to it without aliasing."""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk


def centred_grid(centre_xyz: Sequence[float], size: Sequence[int], spacing_mm: float) -> sitk.Image:
    """An empty image of ``size`` (D, H, W) isotropic voxels, axes L, P, S, whose centre is at ``centre_xyz`` (mm)."""
    grid = sitk.Image(list(size[::-1]), sitk.sitkUInt8)
    grid.SetSpacing([spacing_mm] * 3)
    grid.SetOrigin([c - spacing_mm * (n - 1) / 2 for c, n in zip(centre_xyz, size[::-1], strict=True)])
    return grid


def averaged(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """The image as voxels of ``spacing_mm`` would see it, still on its own grid.

    From 0.78 mm to 1 mm linear interpolation still reads every voxel. From 0.78 x 0.78 x 1.25 mm to 5 mm it would read
    8 of about 160 and pass on their noise and aliased vessels. So along axes that become much coarser, the image is
    blurred first, by the Gaussian that turns voxels as wide as the image's into voxels as wide as the grid's (full
    width at half maximum; Cardoso et al., MICCAI 2015). Masks are treated alike: a voxel is lung when half of it is.
    """
    for axis, spacing in enumerate(image.GetSpacing()):
        if spacing_mm > 1.5 * spacing:
            sigma = np.sqrt((spacing_mm**2 - spacing**2) / (8 * np.log(2)))
            image = sitk.RecursiveGaussian(image, sigma, direction=axis)
    return image


def resampled(image: sitk.Image, grid: sitk.Image, outside: float, transform: sitk.Transform | None = None) -> sitk.Image:
    """``image`` at the points of ``grid``, or at those ``transform`` maps them to, by linear interpolation, as in the paper; float32."""
    return sitk.Resample(image, grid, transform or sitk.Transform(), sitk.sitkLinear, outside, sitk.sitkFloat32)
