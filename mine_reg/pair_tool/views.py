"""What both images of a pair show on the working grid, each view made once, however often it is looked at."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from mine_reg.pair_tool.inputs import Images, inside, shown_there
from mine_reg.pair_tool.working_grid import scaled
from mine_reg.registration import halved


class Views:
    """Tensors on a device; a ``shift`` (3,) in mm is that of the moving points, see `start.Start`."""

    def __init__(self, images: Images, device: str):
        self.images, self.device, self._made = images, device, {}

    @cached_property
    def fixed(self) -> Tensor:
        """The fixed image (1, 1, D, H, W), air is 0."""
        return scaled(self.images.seen["fixed"], self.images.grid)[None].to(self.device)

    @cached_property
    def fixed_shown(self) -> np.ndarray:
        """Where the fixed image shows anything, Boolean (D, H, W)."""
        return shown_there(self.images.shown["fixed"], self.images.grid)

    def region(self, within_mm: float) -> Tensor:
        """Where the fixed image shows anything within so many mm of its region, Boolean (D, H, W)."""
        return self._once(("region", within_mm), lambda: self._region(within_mm))

    def moving(self, shift: np.ndarray, coarse: bool = False) -> Tensor:
        """The moving image (1, 1, D, H, W) after a shift, air is 0; ``coarse``: as every other voxel sees it."""
        if coarse:
            return self._once(("coarse", *shift), lambda: halved(self.moving(shift)))
        return self._once(("moving", *shift), lambda: self._moving(shift))

    def shown(self, shift: np.ndarray) -> Tensor:
        """Where the moving image shows anything after a shift, Boolean (D, H, W)."""
        return self._once(("shown", *shift), lambda: self._shown(shift))

    def _region(self, within_mm: float) -> Tensor:
        near = inside(self.images.regions["fixed"], self.images.grid, within_mm)
        return torch.from_numpy(near & self.fixed_shown).to(self.device)

    def _moving(self, shift: np.ndarray) -> Tensor:
        return scaled(self.images.seen["moving"], self.images.grid, _translation(shift))[None].to(self.device)

    def _shown(self, shift: np.ndarray) -> Tensor:
        seen = shown_there(self.images.shown["moving"], self.images.grid, _translation(shift))
        return torch.from_numpy(seen).to(self.device)

    def _once(self, key: tuple, make: Callable[[], Tensor]) -> Tensor:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def _translation(shift: np.ndarray) -> sitk.Transform:
    return sitk.TranslationTransform(3, shift.tolist())
