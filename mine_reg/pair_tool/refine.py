"""Instance optimisation: the objective of eq. 5 and a self-similarity term descended for one pair, from the networks'
answer on."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mine_reg.losses import MineLoss, scores, total_variation
from mine_reg.models import StatisticNet
from mine_reg.pair_tool.sampling import ChannelsTogether
from mine_reg.pair_tool.undisturbed import undisturbed
from mine_reg.spatial import jacobian_determinant, smooth, total_displacement, transform_points
from mine_reg.training.self_similarity import mind_ssc
from mine_reg.training.similarity import DESCRIPTORS, describe

NEAR_MM = 2.5  # of the region, for ``region`` of `refine`: further out the wall, which slides, pulls the lungs along
# the field is a sum of fields on grids so much coarser than its own: coarse parts move fast, fine ones follow
_LEVELS = (8, 4, 2, 1)
_EVERY = 10  # steps between looks at the objective
_PATIENCE = 2  # looks without a better one
_STATISTIC_RATE = 1e-3
_BLURS = (1.0, 2.0)  # sigma, in voxels of the DVF, of the Gaussians that a best answer that folds is tried with

Watch = Callable[[int, Tensor, Tensor], None]


@dataclass(frozen=True)
class RefinementSettings:
    """mu : weight of TV; a fifth of training's, which has to hold for all pairs at once
    self_similarity : weight of the mean squared difference of MIND-SSC descriptors; 0 leaves them out
    mine : weight of MINE; 0 leaves it out
    smoothing : sigma, in voxels of the DVF, of the Gaussian over what is added to it
    samples : voxels that a step looks at
    mine_samples : of these, the voxels that MINE looks at
    rate : learning rate of the field, at the start; it fades to 0
    """

    mu: float = 5.0
    self_similarity: float = 100.0
    mine: float = 1.0
    smoothing: float = 1.0
    samples: int = 16_000
    mine_samples: int = 8_000
    rate: float = 0.02
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
    shown: Tensor | None = None,
) -> tuple[Tensor, Tensor, dict]:
    """theta (1, 3, 4) and DVF (1, 3, d, h, w) after at most ``steps`` steps of Adam on MINE, MIND-SSC and TV, at a
    fading rate; and what happened.

    fixed, moving : (1, 1, D, H, W); dvf : (1, 3, d, h, w) in voxels of that grid, at its resolution or a coarser one
    statistic : T of the networks' training; a copy goes on learning, so that nothing of one pair reaches the next
    region : (D, H, W), True where the similarities look
    watch : called with step, theta and DVF at every look
    shown : (D, H, W), True where the moving image shows anything; voxels that are mapped elsewhere do not count. None:
        within its bounds

    The first half of the steps moves the affine map too. Every `_EVERY` steps the objective is measured on voxels that
    stay the same; the best answer so far is kept, and two looks without a better one end it. One that folds where the
    given one did not is never taken: it is smoothed, or an earlier one takes its place. The same pair gives the same
    answer, whatever else draws random numbers.
    """
    # what was made in inference mode can take no part in a descent
    fixed, moving, theta, dvf = (x.clone() if x.is_inference() else x for x in (fixed, moving, theta, dvf))
    objective = _Objective(
        fixed, moving, theta, dvf, copy.deepcopy(statistic).train(), region, shown, settings or RefinementSettings()
    )
    return _descend(objective, steps, watch or (lambda *_: None))


class _Objective:
    """The similarities and TV of one pair as a function of what is added to the given map.

    parts : fields on coarser and coarser grids, whose sum, smoothed, is added to the DVF
    turn : is added to theta
    """

    def __init__(self, fixed, moving, theta, dvf, statistic, region, shown, settings):
        self.theta, self.dvf, self.statistic, self.settings = theta, dvf, statistic, settings
        self.size, self.mine = fixed.shape[2:], MineLoss()
        self.random = {name: torch.Generator(name).manual_seed(settings.seed) for name in {"cpu", str(fixed.device)}}
        descriptor = next(name for name, channels in DESCRIPTORS.items() if channels == statistic.inputs)
        self.channels = DESCRIPTORS[descriptor]  # of a voxel that T sees; those of MIND-SSC come after them

        def described(image: Tensor) -> Tensor:
            seen = [describe(image, descriptor)]
            return torch.cat(seen + [mind_ssc(image)] if settings.self_similarity else seen, dim=1)

        region = region.to(fixed.device)
        self.inside = region.nonzero().float()  # (N, 3) in voxels
        self.fixed = described(fixed)[0][:, region].T.contiguous()  # of the region alone
        everywhere = torch.ones_like(moving) if shown is None else shown.to(moving)[None, None]
        self.moving = ChannelsTogether(torch.cat([described(moving), everywhere], dim=1))
        sizes = ([max(2, n // level) for n in dvf.shape[2:]] for level in _LEVELS)
        self.parts = [dvf.new_zeros(1, 3, *size).requires_grad_() for size in sizes]
        self.turn = torch.zeros_like(theta).requires_grad_()

    def answer(self) -> tuple[Tensor, Tensor]:
        """theta and DVF as they are now."""
        added = self.parts[0]
        for part in self.parts[1:]:
            added = part + F.interpolate(added, size=part.shape[2:], mode="trilinear", align_corners=True)
        return self.theta + self.turn, self.dvf + smooth(added, self.settings.smoothing)

    def draw(self) -> Tensor:
        """Random voxels of the region, as their places among these."""
        return torch.randperm(len(self.inside), generator=self.random["cpu"])[: self.settings.samples]

    def __call__(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Its value at voxels ``chosen`` of the region, theta and DVF."""
        theta, dvf = self.answer()
        return self.value(chosen, theta, dvf), theta, dvf

    def value(self, chosen: Tensor, theta: Tensor, dvf: Tensor) -> Tensor:
        """What it is for a given map."""
        chosen = chosen.to(self.fixed.device)
        points = transform_points(self.inside[chosen][None], self.size, theta, dvf)
        moved, there = self.moving.at(points), self.fixed[chosen][None]
        kept = moved[0, :, -1].detach() > 0.99
        value = self.settings.mu * total_variation(dvf, self.size)
        if kept.any():
            value = value + self._dissimilarity(moved[:, kept, :-1], there[:, kept])
        return value

    def _dissimilarity(self, moved: Tensor, there: Tensor) -> Tensor:
        """MINE's loss and that of MIND-SSC for voxels (1, N, C) of both images, in random order."""
        count, own, value = self.settings.mine_samples, self.channels, moved.new_zeros(())
        if self.settings.mine:
            seen = moved[:, :count, :own], there[:, :count, :own]
            joint, marginal = scores(self.statistic, *seen, self.random[str(there.device)])
            value = self.settings.mine * self.mine(joint, marginal)
        if self.settings.self_similarity:
            value = value + self.settings.self_similarity * (moved[..., own:] - there[..., own:]).square().mean()
        return value

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
    better, worse = [(before, 0, objective.theta, objective.dvf)], 0
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
        worse = 0 if float(value) < better[-1][0] else worse + 1
        if not worse:
            better.append((float(value), step, theta.clone(), dvf.clone()))
        if worse == _PATIENCE:
            break
    best, best_at, theta, dvf = _unfolded(objective, better, same)
    return theta, dvf, {"objective_before": before, "objective_after": best, "best_step": best_at, "steps": step}


def _unfolded(objective: _Objective, better: list[tuple], same: Tensor) -> tuple:
    """The best of better and better answers, smoothed if need be, or one before it, that folds no more than the
    first."""
    if len(better) == 1:
        return better[0]
    first, (_, step, theta, dvf) = better[0], better[-1]
    allowed = objective.folded(*first[2:])
    if objective.folded(theta, dvf) > allowed:
        for blur in _BLURS:
            smoother = smooth(dvf, blur)
            with torch.no_grad():
                value = float(objective.value(same, theta, smoother))
            if value < first[0] and objective.folded(theta, smoother) <= allowed:
                return value, step, theta, smoother
    return next(answer for answer in reversed(better) if objective.folded(*answer[2:]) <= allowed)
