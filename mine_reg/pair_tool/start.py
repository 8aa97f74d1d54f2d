"""Where a registration starts: several maps are tried, and mutual information of the images themselves decides.

A start is an affine map in mm, from fixed to moving points, through which the networks see the moving image. Headers
may be wrong, lungs cut off, and the networks' answer to what they have not been trained on worse than none; so the
header, the centres, boxes and ends of what is brought together, and the bodies, are compared; the best two are tried
with both networks and with DeformNet alone, where that is not enough after a conventional affine registration, too,
and the best of all is taken. By that measure it is never worse than the header alone.
"""

from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from mine_reg.evaluation.mutual_information import entropy
from mine_reg.images.geometry import voxels_to_points
from mine_reg.models import DeformNet
from mine_reg.pair_tool.conventional_affine import conventional_affine
from mine_reg.pair_tool.inputs import BODY, Images
from mine_reg.pair_tool.views import Views
from mine_reg.registration import PASSES_OF_THE_COARSE, Registration, halved, predict_fine
from mine_reg.spatial import sample_at, transform_points, upsample

_SAME_MM = 8.0  # starts nearer to each other than this are one
AROUND_MM = 8.0  # of the fixed region: where images are compared, so that its border counts
_LEAST_OVERLAP = 0.3  # of the fixed region that the moving image must show
_BINS = 48
_WITH_NETWORKS = 2  # starts, the best without them, that are tried with networks
_GAIN = 1.002  # of the measure, for which the finer answer is taken
_CLEAR_GAIN = 1.1  # for which networks are believed at all: on cropped scans they gained less and were wrong
ENOUGH = 0.36  # agreement with networks; below it a conventional affine registration is tried, too
_LOST = 0.25  # below which it is tried from all starts


@dataclass
class Start:
    """An affine map x -> x + shift, in mm, and what it is made from."""

    name: str
    shift: np.ndarray

    def transform(self) -> sitk.Transform:
        return sitk.TranslationTransform(3, self.shift.tolist())


@dataclass
class Answer:
    """theta (1, 3, 4) and DVF (1, 3, d, h, w) in voxels of the working grid, after a start; and how good it is.

    agreement : see `Comparison`
    overlap : share of the fixed region that the moving image shows
    by : what it is from beside the start: ``none``, ``networks`` (both), ``deformnet`` (alone) or ``affine`` (a
        conventional one and DeformNet), ``and search``
    """

    start: Start
    theta: Tensor
    dvf: Tensor
    agreement: float
    overlap: float
    by: str
    tried: list[dict] = field(default_factory=list)


def candidate_starts(images: Images) -> list[Start]:
    """The header, and shifts that bring regions or bodies together, without those that are nearly the same."""
    pairs = [("body", images.bodies)]
    if BODY not in images.kinds.values():
        pairs.insert(0, ("region", images.regions))
    starts = [Start("header", np.zeros(3))]
    for what, masks in pairs:
        places = {role: _places(mask) for role, mask in masks.items()}
        for place in places["fixed"] if what == "region" else ("centre",):
            shift = places["moving"][place] - places["fixed"][place]
            if all(np.linalg.norm(shift - known.shift) > _SAME_MM for known in starts):
                starts.append(Start(f"{place} of the {'bodies' if what == 'body' else 'regions'}", shift))
    return starts


def _places(mask: sitk.Image) -> dict[str, np.ndarray]:
    """Points (3,) in LPS mm: the centre of mass, the middle of the box, and the middle of its upper and lower end."""
    voxels = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)
    points = voxels_to_points(voxels, mask).numpy()
    low, high = points.min(0), points.max(0)
    middle = (low + high) / 2
    return {
        "centre": points.mean(0),
        "box": middle,
        "top": np.array([*middle[:2], high[2]]),
        "bottom": np.array([*middle[:2], low[2]]),
    }


class Comparison:
    """How well a map makes the images agree: mutual information near the fixed region, where both show anything, as a
    share of the smaller entropy: 0 for unrelated images, 1 for one that is a function of the other.

    coarse : on every other voxel of the working grid
    """

    def __init__(self, views: Views, coarse: bool):
        self.views, self.coarse = views, coarse
        self.fixed = halved(views.fixed) if coarse else views.fixed
        self.region = self._thin(views.region(AROUND_MM))
        self.points = self.region.nonzero()[None].float()
        self.values = self.fixed[0, 0][self.region]

    def _thin(self, volume: Tensor) -> Tensor:
        return volume[..., ::2, ::2, ::2] if self.coarse else volume

    def moving(self, start: Start) -> Tensor:
        """The moving image (1, 1, D, H, W) after a start."""
        return self.views.moving(start.shift, self.coarse)

    @torch.no_grad()
    def __call__(self, start: Start, theta: Tensor | None = None, dvf: Tensor | None = None) -> tuple[float, float]:
        """Agreement and overlap, the share of the region that the moving image shows, after a start and a map; the DVF
        is in this grid's voxels."""
        if not self.points.numel():
            return 0.0, 0.0
        shown = self._thin(self.views.shown(start.shift)).to(self.fixed)[None, None]
        both = torch.cat([self.moving(start), shown], dim=1)
        moved, seen = sample_at(both, transform_points(self.points, both.shape[2:], theta, dvf))[0].unbind(-1)
        seen = seen > 0.99
        overlap = float(seen.float().mean())
        if overlap < _LEAST_OVERLAP:
            return 0.0, overlap
        return normalised_information(*(values[seen].cpu().numpy() for values in (self.values, moved))), overlap


def normalised_information(fixed: np.ndarray, moving: np.ndarray) -> float:
    """I / min(H, H) of two lists of values in [0, 1], from their joint histogram."""
    bins = [np.minimum((values * _BINS).astype(np.int64), _BINS - 1) for values in (fixed, moving)]
    joint = np.bincount(bins[0] * _BINS + bins[1], minlength=_BINS * _BINS).reshape(_BINS, _BINS)
    own, other = entropy(joint.sum(1)), entropy(joint.sum(0))
    return (own + other - entropy(joint)) / max(min(own, other), 1e-6)


@torch.no_grad()
def best_start(views: Views, registration: Registration, fine: DeformNet | None) -> Answer:
    """The best of all starts, with both networks, with DeformNet alone or without any, and completed on the fine grid
    where that helps."""
    coarse = Comparison(views, coarse=True)
    answers = [_alone(coarse, start) for start in candidate_starts(views.images)]
    starts = [answer.start for answer in sorted(answers, key=lambda answer: answer.agreement, reverse=True)]
    for start in starts[:_WITH_NETWORKS]:
        answers += _with_networks(registration, coarse, start)
    for number, start in enumerate(starts):
        enough = ENOUGH if number < _WITH_NETWORKS else _LOST
        if max(answer.agreement for answer in answers) < enough:
            answers += _after_conventional_affine(registration, coarse, start)
    best = max(answers, key=lambda answer: answer.agreement / (1 if answer.by == "none" else _CLEAR_GAIN))
    network, passes = (fine, None) if fine is not None else (registration.deformnet, PASSES_OF_THE_COARSE)
    compare = Comparison(views, coarse=False)
    best = _on_fine_grid(network, passes, compare, best)
    if best.start.shift.any():  # on the fine grid, too, nothing worse than the header is taken
        best = max(best, _alone(compare, Start("header", np.zeros(3))), key=lambda answer: answer.agreement)
    best.tried = [
        {"start": a.start.name, "by": a.by, "agreement": round(a.agreement, 4), "overlap": round(a.overlap, 3)}
        for a in answers
    ]
    return best


def _with_networks(registration: Registration, compare: Comparison, start: Start) -> list[Answer]:
    """A start with both networks, and with DeformNet alone, on the coarse grid."""
    theta = registration.affinenet.predict(compare.fixed, compare.moving(start))
    return [
        _with_deformnet(registration, compare, start, theta, "networks"),
        _with_deformnet(registration, compare, start, _still(compare.fixed), "deformnet"),
    ]


def _after_conventional_affine(registration: Registration, compare: Comparison, start: Start) -> list[Answer]:
    """A start with DeformNet after `conventional_affine`, on the coarse grid, where that comes to an end."""
    theta = conventional_affine(compare.fixed, compare.moving(start), compare.region)
    return [] if theta is None else [_with_deformnet(registration, compare, start, theta, "affine")]


def _with_deformnet(registration: Registration, compare: Comparison, start: Start, theta: Tensor, by: str) -> Answer:
    dvf = registration.deformnet.predict(compare.fixed, compare.moving(start), theta)
    return Answer(start, theta, 2 * dvf, *compare(start, theta, dvf), by)


def _alone(compare: Comparison, start: Start) -> Answer:
    """A start without any network."""
    fixed = compare.fixed
    return Answer(start, _still(fixed), fixed.new_zeros(1, 3, *fixed.shape[2:]), *compare(start), "none")


def _still(like: Tensor) -> Tensor:
    return torch.eye(3, 4, dtype=like.dtype, device=like.device)[None]


def _on_fine_grid(network: DeformNet, passes: int | None, compare: Comparison, answer: Answer) -> Answer:
    """The answer with what DeformNet adds on the fine grid, or without where that does not make images agree better;
    the start alone where even that is better."""
    fixed, moving = compare.fixed, compare.moving(answer.start)
    dvf = predict_fine(network, fixed, moving, answer.theta, answer.dvf, passes)
    best, least = _alone(compare, answer.start), _CLEAR_GAIN
    for own in (answer.dvf, dvf):
        agreement, overlap = compare(answer.start, answer.theta, own)
        if agreement > least * best.agreement:
            least = _GAIN
            own = upsample(own, fixed.shape[2:])
            best = Answer(answer.start, answer.theta, own, agreement, overlap, answer.by)
    return best
