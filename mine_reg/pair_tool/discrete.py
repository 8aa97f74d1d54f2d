"""A discrete search for large motion: every displacement of a lattice is tried at every node, and neighbours agree.

The coupled convex optimisation of Heinrich et al. (MICCAI 2014; convexAdam: IEEE TMI 2024) on MIND-SSC descriptors.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mine_reg.pair_tool.start import ENOUGH, Answer, Comparison
from mine_reg.pair_tool.views import Views
from mine_reg.pair_tool.working_grid import TAPER_MM, fading_border
from mine_reg.spatial import compose_dvf, jacobian_determinant, resample, smooth
from mine_reg.training.self_similarity import mind_ssc

# weights of the smooth field in the alternation, from free to stiff, as their authors have them
_COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_SEARCHES = ((4, 3), (3, 2))  # voxels between nodes, and steps tried: 30 and 15 mm at 2.5 mm
_COARSE_SEARCHES = ((2, 3), (2, 1))  # the same on a grid of 5 mm, but for the finer nodes
_BLURS = (1.2, 2.0)  # sigma, in nodes, of the Gaussian over what was found; more where less folds
_ROUGH = 0.99  # of the agreement may be lost: nodes are coarse, and what they find is smoothed by refinement
_CONSISTENT = 10  # steps by which the ways there and back are made one another's inverse
_FADING_MM = 40.0  # from the border of the grid, so that large displacements do not end in a fold


@torch.no_grad()
def searched_for_large_motion(views: Views, answer: Answer, region: Tensor) -> Answer:
    """An answer that is not good enough, completed by what two searches find, coarse and fine, where that does not make
    the images agree less.

    region : (D, H, W), where to search
    """
    if answer.agreement >= ENOUGH or not region.any():
        return answer
    moving, spacing = views.moving(answer.start.shift), views.images.grid.GetSpacing()[0]
    dvf = completed(views.fixed, moving, answer.theta, answer.dvf, region, spacing)
    agreement, overlap = Comparison(views, coarse=False)(answer.start, answer.theta, dvf)
    if agreement < _ROUGH * answer.agreement:
        return answer
    return replace(answer, dvf=dvf, agreement=agreement, overlap=overlap, by=f"{answer.by} and search")


@torch.no_grad()
def completed(
    fixed: Tensor, moving: Tensor, theta: Tensor, dvf: Tensor, region: Tensor, spacing: float, coarse: bool = False
) -> Tensor:
    """A DVF (1, 3, D, H, W), in voxels, after what two searches add to it, as far as that does not fold.

    fixed, moving : (1, 1, D, H, W), on a grid of ``spacing`` mm, that of the fine level or, if ``coarse``, one of twice
        that
    """
    size = fixed.shape[2:]
    slowly, border = (fading_border(size, spacing, mm).to(dvf) for mm in (_FADING_MM, TAPER_MM))
    for node, reach in _COARSE_SEARCHES if coarse else _SEARCHES:
        step = slowly * search(fixed, resample(moving, theta, dvf), region, node, reach)
        for blur in _BLURS:
            found = compose_dvf(dvf, smooth(step, blur * node), size)
            if (jacobian_determinant(border * found) > 0).all():
                dvf = found
                break
    return dvf


@torch.no_grad()
def search(fixed: Tensor, moved: Tensor, region: Tensor, node: int, reach: int) -> Tensor:
    """A DVF (1, 3, D, H, W) in voxels that brings ``moved`` onto ``fixed``, by nodes ``node`` voxels apart; also sought
    from ``moved`` to ``fixed``, and only what both ways agree upon stays.

    fixed, moved : (1, 1, D, H, W)
    region : (D, H, W), True for voxels that count; around their nodes the field goes on as it is at the border
    reach : steps, of ``node`` voxels each, that are tried along each axis in either direction

    Raises ValueError for a region without a voxel.
    """
    counted = F.avg_pool3d(region[None, None].to(fixed), node)
    if not counted.any():
        raise ValueError("the region has no voxel to search in")
    box = _box_of(counted[0, 0] > 0)
    count = counted[:, :, *box]
    around = [slice(own.start, own.stop + 2 * reach) for own in box]
    here, near = [], []  # descriptors of the nodes of both images, in the region alone, and of all around
    for image in (fixed, moved):
        described = mind_ssc(image)
        here.append(F.avg_pool3d(described * region.to(described), node)[:, :, *box] / count.clamp_min(1e-3))
        near.append(F.pad(F.avg_pool3d(described, node), [reach] * 6, mode="replicate")[:, :, *around])
    there = _found(here[0], near[1], count, reach)
    back = _found(here[1], near[0], count, reach)
    for _ in range(_CONSISTENT):
        there, back = (
            one - compose_dvf(other, one, one.shape[2:]) / 2 for one, other in ((there, back), (back, there))
        )
    return _at_voxels(node * there, box, node, fixed.shape[2:])


def _found(here: Tensor, near: Tensor, count: Tensor, reach: int) -> Tensor:
    """Displacements (1, 3, d, h, w), in nodes, after which what is ``near`` is like what is ``here``, and that agree
    with their neighbours."""
    cost = _costs(here, near, count, reach)
    axis = torch.arange(-reach, reach + 1, dtype=here.dtype, device=here.device)
    tried = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).flatten(1)
    field = _means(tried[:, cost.argmin(0)].reshape(1, 3, *here.shape[2:]))
    for stiffness in _COUPLING:
        far = stiffness * (tried[:, :, None] - field.reshape(3, 1, -1)).square().sum(0)
        field = _means(tried[:, (cost + far).argmin(0)].reshape(1, 3, *here.shape[2:]))
    return field


def _box_of(inside: Tensor) -> list[slice]:
    """The box of the True nodes, and one more around it."""
    places = inside.nonzero()
    low, high = (places.amin(0) - 1).clamp_min(0).tolist(), (places.amax(0) + 2).tolist()
    return [slice(a, min(b, n)) for a, b, n in zip(low, high, inside.shape, strict=True)]


def _costs(fixed: Tensor, moving: Tensor, count: Tensor, reach: int) -> Tensor:
    """(displacements, nodes): how unlike the descriptors are, averaged over the nodes around."""
    d, h, w = fixed.shape[2:]
    steps, costs = 2 * reach + 1, []
    for z in range(steps):
        for y in range(steps):
            row = moving[0, :, z : z + d, y : y + h].unfold(-1, w, 1)  # (C, d, h, steps, w)
            unlike = (row - fixed[0, :, :, :, None]).square().sum(0).movedim(2, 0) * count[0]
            costs.append(_means(_means(unlike[:, None])))
    return torch.cat(costs).flatten(1)


def _means(volume: Tensor) -> Tensor:
    """Means over a node and its neighbours."""
    return F.avg_pool3d(volume, 3, stride=1, padding=1, count_include_pad=False)


def _at_voxels(field: Tensor, box: list[slice], node: int, size: torch.Size) -> Tensor:
    """The field of the nodes of a box at every voxel, linearly interpolated, constant beyond them."""
    axes = []
    for n, own, count in zip(size, box, field.shape[2:], strict=True):
        voxels = torch.arange(n, dtype=field.dtype, device=field.device)
        axes.append(2 * ((voxels - (node - 1) / 2) / node - own.start) / max(count - 1, 1) - 1)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)[None]
    return F.grid_sample(field, grid, padding_mode="border", align_corners=True)
