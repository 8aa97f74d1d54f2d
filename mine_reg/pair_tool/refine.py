"""Instance optimisation: the objective of eq. 5 descended for one pair, from the networks' answer on."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mine_reg.losses import MineLoss, scores, total_variation
from mine_reg.models import StatisticNet
from mine_reg.pair_tool.undisturbed import undisturbed
from mine_reg.spatial import jacobian_determinant, sample_at, smooth, total_displacement, transform_points, voxel_points
from mine_reg.training.similarity import DESCRIPTORS, describe

_LEVELS = (
    8,
    4,
    2,
    1,
)  # the field is a sum of fields on grids so much coarser than its own: coarse parts move fast, fine ones follow
_EVERY = 10  # steps between looks at the objective
_PATIENCE = 2  # looks without a better one
_STATISTIC_RATE = 1e-3

Watch = Callable[[int, Tensor, Tensor], None]


@dataclass(frozen=True)
class RefinementSettings:
    """mu : weight of TV; a fifth of training's, which has to hold for all pairs at once
    smoothing : sigma, in voxels of the DVF, of the Gaussian over what is added to it
    samples : voxels that MINE looks at in a step
    rate : learning rate of the field, at the start; it fades to 0
    """

    mu: float = 5.0
    smoothing: float = 1.0
    samples: int = 80_000
    rate: float = 0.015
    seed: int = 0


@undisturbed
def refine(
    fixed: Tensor,
    moving: Tensor,
    theta: Tensor,
    dvf: Tensor,
    statistic: StatisticNet,
    region: Tensor,
    steps: int,
    settings: RefinementSettings | None = None,
    watch: Watch | None = None,
) -> tuple[Tensor, Tensor, dict]:
    """theta (1, 3, 4) and DVF (1, 3, d, h, w) after at most ``steps`` steps of Adam on MINE and TV, at a fading rate;
    and what happened.

    fixed, moving : (1, 1, D, H, W); dvf : (1, 3, d, h, w) in voxels of that grid, at its resolution or a coarser one
    statistic : T of the networks' training; a copy goes on learning, so that nothing of one pair reaches the next
    region : (D, H, W), True where MINE looks
    watch : called with step, theta and DVF at every look

    The first half of the steps moves the affine map too. Every `_EVERY` steps the objective is measured on voxels that
    stay the same; the best answer so far is kept, one that folds where the given one did not is never taken, and two
    looks without a better one end it. The same pair gives the same answer, whatever else draws random numbers.
    """
    # what was made in inference mode can take no part in a descent
    fixed, moving, theta, dvf = (x.clone() if x.is_inference() else x for x in (fixed, moving, theta, dvf))
    objective = _Objective(
        fixed, moving, theta, dvf, copy.deepcopy(statistic).train(), region, settings or RefinementSettings()
    )
    return _descend(objective, steps, watch or (lambda *_: None))


class _Objective:
    """MINE and TV of one pair as a function of what is added to the given map.

    parts : fields on coarser and coarser grids, whose sum, smoothed, is added to the DVF
    turn : is added to theta
    """

    def __init__(self, fixed, moving, theta, dvf, statistic, region, settings):
        self.theta, self.dvf, self.statistic, self.settings = theta, dvf, statistic, settings
        self.size, self.mine = fixed.shape[2:], MineLoss()
        self.random = {name: torch.Generator(name).manual_seed(settings.seed) for name in {"cpu", str(fixed.device)}}
        descriptor = next(name for name, channels in DESCRIPTORS.items() if channels == statistic.inputs)
        self.fixed, self.moving = describe(fixed, descriptor), describe(moving, descriptor)
        self.inside = torch.nonzero(region.flatten())[:, 0].cpu()
        sizes = ([max(2, n // level) for n in dvf.shape[2:]] for level in _LEVELS)
        self.parts = [dvf.new_zeros(1, 3, *size).requires_grad_() for size in sizes]
        self.turn = torch.zeros_like(theta).requires_grad_()

    def answer(self) -> tuple[Tensor, Tensor]:
        """theta and DVF as they are now."""
        grid = self.dvf.shape[2:]
        added = sum(F.interpolate(part, size=grid, mode="trilinear", align_corners=True) for part in self.parts)
        return self.theta + self.turn, self.dvf + smooth(added, self.settings.smoothing)

    def draw(self) -> Tensor:
        """Flat indices of random voxels of the region."""
        return self.inside[torch.randperm(len(self.inside), generator=self.random["cpu"])[: self.settings.samples]]

    def __call__(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Its value at voxels ``chosen``, theta and DVF."""
        theta, dvf = self.answer()
        points = voxel_points(chosen[None].to(self.fixed.device), self.size)
        moved = sample_at(self.moving, transform_points(points, self.size, theta, dvf))
        there = self.fixed.flatten(2)[:, :, chosen].transpose(1, 2)
        joint, marginal = scores(self.statistic, moved, there, self.random[str(there.device)])
        tv = total_variation(dvf, self.size)
        return self.mine(joint, marginal) + self.settings.mu * tv, theta, dvf

    def folded(self, theta: Tensor, dvf: Tensor) -> int:
        """Number of voxels at which a map folds."""
        return int((jacobian_determinant(total_displacement(theta, dvf, self.size)) <= 0).sum())


def _descend(objective: _Objective, steps: int, watch: Watch) -> tuple[Tensor, Tensor, dict]:
    rate = objective.settings.rate
    optimiser = torch.optim.Adam(
        [
            {"params": objective.parts, "lr": rate},
            {"params": [objective.turn], "lr": 0.01 * rate},
            {"params": objective.statistic.parameters(), "lr": _STATISTIC_RATE},
        ]
    )
    # what is left of the noise of drawing voxels fades
    fade = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    same = objective.draw()
    with torch.no_grad():
        before = float(objective(same)[0])
        allowed = objective.folded(objective.theta, objective.dvf)
    best, best_at, kept, worse = before, 0, (objective.theta, objective.dvf), 0
    for step in range(1, steps + 1):
        objective.turn.requires_grad_(step <= steps // 2)
        optimiser.zero_grad()
        objective(objective.draw())[0].backward()
        optimiser.step()
        fade.step()
        if step % _EVERY and step != steps:
            continue
        with torch.no_grad():
            value, theta, dvf = objective(same)
            watch(step, theta, dvf)
            if float(value) < best and objective.folded(theta, dvf) <= allowed:
                best, best_at, kept, worse = float(value), step, (theta.clone(), dvf.clone()), 0
            else:
                worse += 1
        if worse == _PATIENCE:
            break
    return *kept, {"objective_before": before, "objective_after": best, "best_step": best_at, "steps": step}
