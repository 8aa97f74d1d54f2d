"""An affine map by iterations of a conventional optimiser, for what AffineNet has not been trained on."""

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from mine_reg.images.itk_state import one_itk_thread

_BINS = 32
_SAMPLED = 0.3  # of the region's voxels
_STEPS = 300
_LARGEST_STEP, _SMALLEST_STEP = 2.0, 0.01  # voxels
_RELAXATION = 0.9  # of the step after a turn; at 0.6 it stops on the way
_RIGID_LEVELS, _AFFINE_LEVELS = ([4, 2, 1], [2.0, 1.0, 0.0]), ([2, 1], [1.0, 0.0])  # shrinking, and sigma in voxels


@one_itk_thread
def conventional_affine(fixed: Tensor, moving: Tensor, region: Tensor) -> Tensor | None:
    """theta (1, 3, 4) by Mattes' mutual information, a rigid map first, from the identity on; None where the images
    come apart.

    fixed, moving : (1, 1, D, H, W) on one grid
    region : Boolean (D, H, W), where the fixed image is compared

    In one thread: several add up in no fixed order, and the same images would give another map each time.
    """
    images = [sitk.GetImageFromArray(image[0, 0].cpu().numpy()) for image in (fixed, moving)]
    marked = sitk.GetImageFromArray(region.cpu().numpy().astype(np.uint8))
    centre = [(n - 1) / 2 for n in images[0].GetSize()]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricFixedMask(marked)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(_SAMPLED, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(_LARGEST_STEP, _SMALLEST_STEP, _STEPS, relaxationFactor=_RELAXATION)
    method.SetOptimizerScalesFromPhysicalShift()
    rigid, affine = sitk.Euler3DTransform(), sitk.AffineTransform(3)
    rigid.SetCenter(centre)
    affine.SetCenter(centre)
    try:
        _descend(method, images, rigid, *_RIGID_LEVELS)
        affine.SetMatrix(rigid.GetMatrix())
        affine.SetTranslation(rigid.GetTranslation())
        _descend(method, images, affine, *_AFFINE_LEVELS)
    except RuntimeError:  # ITK's, when no voxel of the region meets the moving image any more
        return None
    return torch.from_numpy(_theta(affine, images[0].GetSize())).to(fixed)[None]


def _descend(
    method: sitk.ImageRegistrationMethod,
    images: list[sitk.Image],
    transform: sitk.Transform,
    shrinking: list[int],
    sigmas: list[float],
) -> None:
    """Change the transform, on coarse images first."""
    method.SetShrinkFactorsPerLevel(shrinking)
    method.SetSmoothingSigmasPerLevel(sigmas)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(*images)


def _theta(affine: sitk.AffineTransform, size: tuple[int, int, int]) -> np.ndarray:
    """(3, 4) of a map of voxels, x, y, z, in the coordinates of ``affine_grid``, -1 and 1 at the outermost voxels."""
    whole, to_voxels = np.eye(4), np.eye(4)
    whole[:3, :3] = np.reshape(affine.GetMatrix(), (3, 3))
    whole[:3, 3] = affine.TransformPoint((0.0, 0.0, 0.0))
    half = (np.array(size) - 1) / 2
    to_voxels[:3, :3], to_voxels[:3, 3] = np.diag(half), half
    return (np.linalg.inv(to_voxels) @ whole @ to_voxels)[:3]
