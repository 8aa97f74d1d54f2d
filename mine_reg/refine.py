"""Instance optimisation: the objective of eq. 5 descended for one pair, from the networks' answer on."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mine_reg.losses import MineLoss, scores, total_variation
from mine_reg.models import StatisticNet
from mine_reg.similarity import DESCRIPTORS, describe
from mine_reg.spatial import jacobian_determinant, sample_at, smooth, total_displacement, transform_points, voxel_points

_LEVELS = (8, 4, 2, 1)  # the field is a sum of fields on grids so much coarser than its own: coarse parts move fast, fine ones follow
_EVERY = 10             # steps between looks at the objective
_PATIENCE = 2           # looks without a better one


def refine(fixed: Tensor, moving: Tensor, theta: Tensor, dvf: Tensor, statistic: StatisticNet, region: Tensor, steps: int, mu: float = 5.0,
           smoothing: float = 1.0, samples: int = 80_000, rate: float = 0.015, seed: int = 0,
           watch: Callable[[int, Tensor, Tensor], None] | None = None) -> tuple[Tensor, Tensor, dict]:
    """theta (1, 3, 4) and DVF (1, 3, d, h, w) after at most ``steps`` steps of Adam on MINE and TV, at a fading rate; and what happened.

    fixed, moving : (1, 1, D, H, W); dvf : (1, 3, d, h, w) in voxels of that grid, at its resolution or a coarser one
    statistic : T of the networks' training; a copy goes on learning, so that nothing of one pair reaches the next
    region : (D, H, W), True where MINE looks
    mu : weight of TV; a fifth of training's, which has to hold for all pairs at once
    smoothing : sigma, in voxels of the DVF, of the Gaussian over what is added to it
    watch : called with step, theta and DVF at every look

    The first half of the steps moves the affine map too. Every `_EVERY` steps the objective is measured on voxels that stay the same; the best
    answer so far is kept, one that folds where the given one did not is never taken, and two looks without a better one end it.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # the same pair gives the same answer
        return _descend(fixed, moving, theta, dvf, copy.deepcopy(statistic).train(), region, steps, mu, smoothing, samples, rate, watch)


def _descend(fixed, moving, theta, dvf, statistic, region, steps, mu, smoothing, samples, rate, watch) -> tuple[Tensor, Tensor, dict]:
    size = fixed.shape[2:]
    descriptor = next(name for name, channels in DESCRIPTORS.items() if channels == statistic.inputs)
    fixed_maps, moving_maps = describe(fixed, descriptor), describe(moving, descriptor)
    inside = torch.nonzero(region.flatten())[:, 0].cpu()
    parts = [dvf.new_zeros(1, 3, *(max(2, n // level) for n in dvf.shape[2:])).requires_grad_() for level in _LEVELS]
    turn = torch.zeros_like(theta).requires_grad_()
    optimiser = torch.optim.Adam([{"params": parts, "lr": rate}, {"params": [turn], "lr": 0.01 * rate}, {"params": statistic.parameters(), "lr": 1e-3}])
    fade = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)  # what is left of the noise of drawing voxels fades
    criterion = MineLoss()

    def answer() -> tuple[Tensor, Tensor]:
        added = sum(F.interpolate(part, size=dvf.shape[2:], mode="trilinear", align_corners=True) for part in parts)
        return theta + turn, dvf + smooth(added, smoothing)

    def objective(chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, u = answer()
        points = voxel_points(chosen[None].to(fixed.device), size)
        moved = sample_at(moving_maps, transform_points(points, size, a, u))
        joint, marginal = scores(statistic, moved, fixed_maps.flatten(2)[:, :, chosen].transpose(1, 2))
        return criterion(joint, marginal) + mu * total_variation(u, size), a, u

    def draw() -> Tensor:
        return inside[torch.randperm(len(inside))[:samples]]

    def folded(a: Tensor, u: Tensor) -> int:
        return int((jacobian_determinant(total_displacement(a, u, size)) <= 0).sum())

    same = draw()
    with torch.no_grad():
        before = float(objective(same)[0])
        allowed = folded(theta, dvf)
    best, best_at, kept, worse = before, 0, (theta, dvf), 0
    for step in range(1, steps + 1):
        turn.requires_grad_(step <= steps // 2)
        optimiser.zero_grad()
        objective(draw())[0].backward()
        optimiser.step()
        fade.step()
        if step % _EVERY and step != steps:
            continue
        with torch.no_grad():
            value, a, u = objective(same)
            if watch:
                watch(step, a, u)
            if float(value) < best and folded(a, u) <= allowed:
                best, best_at, kept, worse = float(value), step, (a.clone(), u.clone()), 0
            else:
                worse += 1
        if worse == _PATIENCE:
            break
    return *kept, {"objective_before": before, "objective_after": best, "best_step": best_at, "steps": step}
