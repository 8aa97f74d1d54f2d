"""Training of the DeformNet of the fine level, on top of both networks of the coarse one, which stay as they are."""

from types import SimpleNamespace

import torch
from torch import Tensor

from mine_reg.fine_level import coarse_answer, completed, halved
from mine_reg.models import StatisticNet
from mine_reg.registration import Registration
from mine_reg.training import DeformTraining


class FineTraining(DeformTraining):
    """The same loss and optimiser as DeformNet's, for volumes whose axes are odd; see `fine_level`.

    statistic : the T of the coarse DeformNet, which goes on learning
    """

    def __init__(self, cfg: SimpleNamespace, registration: Registration, statistic: StatisticNet | None):
        super().__init__(cfg, registration.affinenet, statistic)
        self.below = registration.eval().requires_grad_(False)

    def register(self, fixed: Tensor, moving: Tensor, passes: int | None = None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            theta, dvf = coarse_answer(self.below, halved(fixed), halved(moving))
        return theta, completed(self.network, fixed, moving, theta, dvf, passes)

    def register_training(self, batch: dict) -> tuple[Tensor, Tensor]:
        return self.register(batch["fixed"], batch["moving"], self.draw_passes())
