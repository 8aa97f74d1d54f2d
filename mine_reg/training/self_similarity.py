"""MIND-SSC: what a voxel's surroundings look like, whatever their intensities (Heinrich et al., MICCAI 2013)."""

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

_NEIGHBOURS = ((0, 0, -1), (0, 0, 1), (0, -1, 0), (0, 1, 0), (-1, 0, 0), (1, 0, 0))  # z, y, x
# neighbours next to each other, 12 pairs; opposite ones and the voxel itself are left out, which noise would dominate
_PAIRS = [(a, b) for a, b in combinations(_NEIGHBOURS, 2) if sum((i - j) ** 2 for i, j in zip(a, b, strict=True)) == 2]
_SPREAD = 1e-3  # of the variance estimate around its mean, at most, down and up


def mind_ssc(image: Tensor, radius: int = 1, dilation: int = 2) -> Tensor:
    """Modality-independent neighbourhood descriptors (B, 12, D, H, W) in (0, 1] of images (B, 1, D, H, W).

    exp(-d / v) for the mean squared difference d of the patches around two neighbours, less the smallest d of the
    voxel, and v, the mean of all twelve. Images continue beyond their border with its values.

    radius : of the patches, in voxels
    dilation : distance of the neighbours, in voxels
    """
    size = image.shape[2:]
    padded = F.pad(image, [dilation] * 6, mode="replicate")

    def neighbour(step: tuple[int, int, int]) -> Tensor:
        starts = [dilation * (1 + s) for s in step]
        return padded[:, :, *(slice(start, start + n) for start, n in zip(starts, size, strict=True))]

    found = []
    for a, b in _PAIRS:  # one at a time: the averages of all at once would take three times the memory
        squared = F.pad((neighbour(a) - neighbour(b)).square(), [radius] * 6, mode="replicate")
        for axis in (2, 3, 4):
            squared = _means(squared, axis, 2 * radius + 1)
        found.append(squared)
    distances = torch.cat(found, dim=1)
    distances -= distances.amin(dim=1, keepdim=True)
    variance = distances.mean(dim=1, keepdim=True)
    typical = variance.mean(dim=(2, 3, 4), keepdim=True).clamp_min(1e-12)  # a constant image has none
    variance = variance.clamp(typical * _SPREAD, typical / _SPREAD)
    return distances.div_(variance).neg_().exp_()


def _means(volume: Tensor, axis: int, width: int) -> Tensor:
    """Means of ``width`` voxels in a row along an axis, which becomes shorter by ``width`` - 1."""
    count = volume.shape[axis] - width + 1
    return sum(volume.narrow(axis, start, count) for start in range(width)) / width
