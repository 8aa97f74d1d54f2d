"""Random changes of a training pair: shifts and flips (section 2.4 of the paper), affine maps, cuts, other scanners.

With `AsInClinics` the study's pairs look as those of clinics do: scans that end too early, one lung alone, other
windows and scanners.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

DISTANCE = "fixed_lung_distance_mm"
VOLUMES = ("fixed", "moving", "fixed_mask", "moving_mask", DISTANCE)
VALIDATION_POINTS = ("fixed_points", "moving_points", "spacing_mm")  # not for batches: pairs differ in their number


def shift_and_flip(volume: Tensor, shift: list[int], flips: list[int], outside: float = 0.0) -> Tensor:
    """A volume (B, C, D, H, W) shifted by voxels and flipped along axes, as in section 2.4.

    That is: padded with ``outside`` (air) on one side, cropped on the other.
    """
    # negative padding crops, so one call shifts by padding and cropping
    padding = [amount for step in reversed(shift) for amount in (step, -step)]
    return F.pad(volume, padding, value=outside).flip([axis + 2 for axis in flips])


def augment(batch: dict, shift_voxels: int, flip_axes: list[int]) -> dict:
    """All volumes (B, C, D, H, W) of a batch under one random shift and flip, so that pairs stay pairs."""
    shift = torch.randint(-shift_voxels, shift_voxels + 1, (3,)).tolist()
    flips = [axis for axis in flip_axes if torch.rand(()) < 0.5]
    return {
        name: shift_and_flip(volume, shift, flips, outside=255.0 if name == DISTANCE else 0.0)
        for name, volume in batch.items()
    }


def random_affine(
    count: int, degrees: float, translation: float, scale: float, generator: torch.Generator | None = None
) -> Tensor:
    """Random affine maps (count, 3, 4) in `affine_grid` coordinates, on the CPU.

    degrees, translation, scale : largest rotation about each axis, shift in half widths of the grid, and change of
        scale along each axis
    generator : None: torch's own random numbers
    """

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, 3, generator=generator) * 2 - 1) * limit

    angles = uniform(torch.pi * degrees / 180)
    skew = torch.zeros(count, 3, 3)
    for (i, j), angle in zip(((1, 2), (2, 0), (0, 1)), angles.unbind(1), strict=True):
        skew[:, i, j], skew[:, j, i] = -angle, angle
    matrix = torch.linalg.matrix_exp(skew) * (1 + uniform(scale))[:, None]
    return torch.cat([matrix, uniform(translation)[:, :, None]], dim=2)


_CUT = 0.35  # share of pairs in which an image ends within the lungs on one side
_DEPTH = 0.45  # part of the grid's width that is cut off at most
_BOTH = 0.5  # share of cuts that hit both images, at depths of their own
_ONE_LUNG = 0.2  # share of pairs that show one lung alone
_LUNG_MARGINS = (0.02, 0.09)  # from the lung to the borders of such a scan, as parts of the grid's width
_STRENGTH = 0.1  # largest change of the exponent of contrast
_NOISE = 0.03  # largest SD, as part of the window's width


class AsInClinics(Dataset):
    """Training pairs with random cuts, contrasts and noise, some of them of one lung alone.

    pairs : dictionaries of tensors (1, D, H, W), as `datasets.PairDataset` gives them

    Random numbers are torch's own, so that they follow the seed of the training.
    """

    def __init__(self, pairs: Dataset):
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        pair = dict(self.pairs[index])
        if _chance(_ONE_LUNG):
            pair |= _one_lung(pair)
        if _chance(_CUT):
            axis, end = int(torch.randint(3, ())), int(torch.randint(2, ()))
            first = int(torch.randint(2, ()))
            for number, name in enumerate(("fixed", "moving")):
                if number == first or _chance(_BOTH):
                    _cut(pair, name, axis, end, float(torch.rand(())) * _DEPTH)
        for name in ("fixed", "moving"):
            pair[name] = _seen_by_another_scanner(pair[name])
        return pair


def _chance(probability: float) -> bool:
    """True with this probability."""
    return bool(torch.rand(()) < probability)


def _cut(pair: dict, name: str, axis: int, end: int, depth: float) -> None:
    """End image ``name`` of a pair too early: beyond there is air, no lung, and nothing to look at.

    axis : 0 to 2 for z, y, x; end : 1 cuts at the upper end, 0 at the lower; depth : part of the axis cut off
    """
    volume = pair[name]
    n = volume.shape[axis + 1]
    count = round(depth * n)
    beyond = slice(n - count, n) if end else slice(0, count)
    where = (slice(None), *(beyond if other == axis else slice(None) for other in range(3)))
    for key, outside in ((name, 0.0), (f"{name}_mask", 0.0), *(((DISTANCE, 255.0),) if name == "fixed" else ())):
        pair[key] = pair[key].clone()
        pair[key][where] = outside


def _one_lung(pair: dict) -> dict:
    """The volumes of a pair as if both scans ended around one of the lungs, which lies in the middle of the grid.

    The lungs are those that a threshold finds in the fixed image, without which nothing changes; each image has margins
    of its own.
    """
    found = torch.nonzero(pair[DISTANCE][0] == 0)
    if not len(found):
        return {}
    low, high = found.min(dim=0).values.tolist(), found.max(dim=0).values.tolist()
    middle = (low[2] + high[2]) // 2
    low[2], high[2] = (low[2], middle) if _chance(0.5) else (middle, high[2])
    size = pair[DISTANCE].shape[1:]
    shift = [(n - 1 - i - j) // 2 for n, i, j in zip(size, low, high, strict=True)]
    seen = {}
    for names in (("fixed", "fixed_mask", DISTANCE), ("moving", "moving_mask")):
        least, most = _LUNG_MARGINS
        margins = least + (most - least) * torch.rand(2, 3)
        beyond = torch.ones(size, dtype=torch.bool, device=pair[DISTANCE].device)
        box = [
            slice(max(0, i - round(n * before)), j + 1 + round(n * after))
            for n, i, j, before, after in zip(size, low, high, *margins.tolist(), strict=True)
        ]
        beyond[*box] = False
        for name in names:
            outside = 255.0 if name == DISTANCE else 0.0
            seen[name] = shift_and_flip(pair[name].masked_fill(beyond, outside)[None], shift, [], outside)[0]
    return seen


def _seen_by_another_scanner(image: Tensor) -> Tensor:
    """An image with another contrast of soft tissue, and noise where there is a body; air stays 0."""
    gamma = 1 + _STRENGTH * (2 * float(torch.rand(())) - 1)
    noisy = image.clamp_min(0) ** gamma + float(torch.rand(())) * _NOISE * torch.randn_like(image) * (image > 0)
    return noisy.clamp(0, 1)
