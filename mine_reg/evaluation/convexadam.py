"""convexAdam, a stronger opponent than the paper has, at its package's defaults and at its authors' settings for lungs.

Siebert et al., IEEE TMI 2024 (package convexAdam, Apache 2.0), on Heinrich's MIND-SSC features, on the CPU: it searches
displacements on a coarse grid by coupled convex optimisation and refines them by gradient descent, without training.
Rigid and affine differences are not its business, so it starts where ANTs' affine step ends.
"""

import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mine_reg.spatial import compose_dvf, warp

# The authors' for lungs at 1.75 mm: task 2 (inspiration to expiration) of their script for Learn2Reg 2021, published as
# l2r_2021_convexAdam_task2_docker.py in github.com/multimodallearning/convexAdam: grid_sp 4, disp_hw 6, lambda_weight
# 0.65, MIND-SSC of radius 1 and dilation 2 (also the package's default), and lung masks, outside of which each image is
# replaced by its nearest voxel inside. Left at the package's defaults: 80 steps of Adam (there 50), inverse consistency
# (there off; the package's "off" forgets to scale the field to voxels), no smoothing at the end (there 3 voxels).
LUNG_SETTINGS = {"grid_spacing": 4, "search_width": 6, "smoothness": 0.65}
# The package trims masks by a voxel and samples them at every second one, 1.75 to 3.5 mm for its authors. On grids
# of 5 mm that cuts the lungs' outlines off: on one phantom pair 2.9 mm of TRE with masks as they are, 1.5 with masks
# widened by what is lost.
MASK_MARGIN = 2


def run_convexadam(
    fixed: Tensor,
    moving: Tensor,
    affine: Tensor,
    grid_spacing: int = 6,
    search_width: int = 4,
    smoothness: float = 1.25,
    masks: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, float]:
    """Register ``moving`` to ``fixed``, both (1, 1, D, H, W), from the total displacement ``affine`` (1, 3, D, H, W)
    on. The package's defaults; ``**LUNG_SETTINGS`` with masks are its authors' for lungs.

    grid_spacing : voxels between the points of the coarse grid (grid_sp)
    search_width : largest displacement searched, in steps of the coarse grid (disp_hw)
    smoothness : weight of the diffusion regularisation (lambda_weight)
    masks : lungs of fixed and of moving, each (1, 1, D, H, W) on its image's grid; widened by MASK_MARGIN voxels here
    affine : in voxels, channels z, y, x, as everywhere

    Returns the total displacement (1, 3, D, H, W) of x -> A(x + u(x)) and the seconds that convexAdam took. Raises
    ValueError for a mask without lungs on the fixed grid.
    """
    from convexAdam.convex_adam_MIND import convex_adam_pt  # slow to import, and only wanted here

    images = [fixed, warp(moving, affine)]
    options = {"grid_sp": grid_spacing, "disp_hw": search_width, "lambda_weight": smoothness}
    with tempfile.TemporaryDirectory() as folder:
        if masks is not None:
            # the package's masking is right for even sizes alone
            odd = [side for n in reversed(fixed.shape[2:]) for side in (0, n % 2)]
            images = [F.pad(image, odd, mode="replicate") for image in images]
            on_grid = (masks[0], (warp(masks[1], affine) >= 0.5).float())
            options |= _mask_files([F.pad(mask, odd) for mask in on_grid], Path(folder))
        start = time.perf_counter()
        field = convex_adam_pt(
            *(image[0, 0] for image in images), **options, dtype=torch.float32, device=torch.device("cpu")
        )
        seconds = time.perf_counter() - start
    d, h, w = fixed.shape[2:]
    u = torch.from_numpy(field).float().movedim(-1, 0)[None, :, :d, :h, :w]
    return compose_dvf(affine, u, fixed.shape[2:]), seconds


def _mask_files(masks: list[Tensor], folder: Path) -> dict:
    """Options of convexAdam, which wants masks as files that hold the same array as the images."""
    options = {"use_mask": True}
    for name, mask in zip(("fixed", "moving"), masks, strict=True):
        if not mask.any():
            raise ValueError(f"the {name} lung mask is empty on the fixed grid; give masks that overlap it")
        wide = F.max_pool3d(mask, 2 * MASK_MARGIN + 1, stride=1, padding=MASK_MARGIN)
        path = folder / f"{name}.nii"
        nibabel.save(nibabel.Nifti1Image(wide[0, 0].numpy(), np.eye(4)), path)
        options[f"path_{name}_mask"] = str(path)
    return options
