"""Pairs as clinics have them, made of the study's: scans that end too early, one lung alone, other windows and scanners.

Wraps training pairs so that every time one is drawn it is seen differently; the phantom and the simulated pairs already vary in
anatomy, breathing, contrast agent and noise.
"""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mine_reg.training import DISTANCE

_CUT = 0.35          # of pairs; an image ends within the lungs on one side
_DEPTH = 0.3         # of the grid's width, at most, is cut off
_BOTH = 0.5          # of cuts hit both images, at depths of their own
_STRENGTH = 0.1      # of the change of contrast
_NOISE = 0.03        # SD at most, of the window's width


class VariedPairs(Dataset):
    """``pairs`` (dictionaries of (1, D, H, W) tensors, as `pair_data.PairDataset` gives them) with random cuts, contrasts and noise.

    Random numbers are torch's own, so that they follow the seed of the training.
    """

    def __init__(self, pairs: Dataset):
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        pair = dict(self.pairs[index])
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
    return bool(torch.rand(()) < probability)


def _cut(pair: dict, name: str, axis: int, end: int, depth: float) -> None:
    """Beyond the end of a scan there is air, no lung, and nothing to look at."""
    volume = pair[name]
    n = volume.shape[axis + 1]
    count = round(depth * n)
    beyond = slice(n - count, n) if end else slice(0, count)
    where = (slice(None), *(beyond if other == axis else slice(None) for other in range(3)))
    for key, outside in ((name, 0.0), (f"{name}_mask", 0.0), *(((DISTANCE, 255.0),) if name == "fixed" else ())):
        pair[key] = pair[key].clone()
        pair[key][where] = outside


def _seen_by_another_scanner(image: Tensor) -> Tensor:
    """Another slope of soft tissue, and noise where there is a body; air stays 0."""
    gamma = 1 + _STRENGTH * (2 * float(torch.rand(())) - 1)
    noisy = image.clamp_min(0) ** gamma + float(torch.rand(())) * _NOISE * torch.randn_like(image) * (image > 0)
    return noisy.clamp(0, 1)
