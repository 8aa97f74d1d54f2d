"""Pairs of known truth made hard, in the ways in which real scans are: parts missing, headers wrong, lungs filled.

Each function takes a pair and returns another one, with the same truth in what both of its images still show.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import binary_closing, binary_dilation, gaussian_filter, gaussian_filter1d

from mine_reg.images.geometry import points_to_voxels, to_image, voxels_to_points
from mine_reg.synthetic.phantom import SyntheticPair
from mine_reg.synthetic.scan_pairs import ScannedThorax, simulate_pair

AIR_HU = -1000
_BODY_HU = -500
_FEWEST_POINTS = 10


@dataclass(frozen=True)
class KnownPair:
    """Images (int16 HU) and lung masks (uint8) with headers; points (N, 3), x, y, z, LPS mm, row i to row i."""

    fixed: sitk.Image
    moving: sitk.Image
    fixed_mask: sitk.Image
    moving_mask: sitk.Image
    fixed_points: np.ndarray
    moving_points: np.ndarray

    @classmethod
    def of(cls, pair: SyntheticPair, grid: sitk.Image) -> "KnownPair":
        """A pair as `simulate_pair` returns it, on ``grid``."""
        where = grid.GetSpacing(), grid.GetOrigin()
        images = [to_image(image, *where, dtype="int16") for image in (pair.fixed, pair.moving)]
        masks = [to_image(mask, *where, dtype="uint8") for mask in (pair.fixed_mask, pair.moving_mask)]
        points = [points.double().numpy() for points in (pair.fixed_points_xyz, pair.moving_points_xyz)]
        return cls(*images, *masks, *points)

    def with_points(self, kept: np.ndarray) -> "KnownPair":
        """Only the points of the rows ``kept`` (N,) bool; ValueError when hardly any are left."""
        if kept.sum() < _FEWEST_POINTS:
            raise ValueError(f"only {kept.sum()} points lie in what both images show; take another scan or seed")
        return replace(self, fixed_points=self.fixed_points[kept], moving_points=self.moving_points[kept])


def whole_scan(image: sitk.Image, lungs: sitk.Image, spacing_mm: float) -> ScannedThorax:
    """A scan (HU, its lung mask) on a grid of ``spacing_mm`` that covers all of it; raises as `ScannedThorax`."""
    inside = np.argwhere(sitk.GetArrayViewFromImage(lungs) > 0)
    if not len(inside):
        raise ValueError("the lung mask is empty")
    middle = ((inside.min(0) + inside.max(0)) / 2)[::-1]
    centre = np.array(image.TransformContinuousIndexToPhysicalPoint(middle.tolist()))
    reach = np.abs(_corners(image) - centre).max(0)
    size = np.ceil(2 * reach / spacing_mm).astype(int) + 1
    return ScannedThorax(image, lungs, tuple(size[::-1].tolist()), spacing_mm)


def known_pair(scan: ScannedThorax, seed: int, motion_size: str = "mixed") -> KnownPair:
    """Simulate a pair of ``scan`` and cut it to the scan's own field of view.

    The moving image also ends where a twelfth of the body would be missing because the scan it is made of ends.
    """
    pair = KnownPair.of(simulate_pair(scan, seed, motion_size=motion_size), scan.grid)
    corners = points_to_voxels(_corners(scan.image), scan.grid).numpy()[:, ::-1]  # x, y, z
    low, high = np.ceil(corners.min(0) - 1e-3).astype(int), np.floor(corners.max(0) + 1e-3).astype(int) + 1
    low, high = np.maximum(low, 0), np.minimum(high, scan.grid.GetSize())
    pair = _in_view(_cut(pair, "fixed", low, high), "moving", low, high)
    hu = [sitk.GetArrayViewFromImage(image) for image in (pair.fixed, pair.moving)]
    body = [((a > _BODY_HU) | _array(pair, n)).sum((1, 2)) for a, n in zip(hu, ("fixed", "moving"), strict=True)]
    shown = np.flatnonzero(body[1] > 11 / 12 * body[0])
    low, high = np.zeros(3, int), np.array(pair.moving.GetSize())
    low[2], high[2] = shown[0], shown[-1] + 1
    return _in_view(pair, "moving", low, high)


def plain(pair: KnownPair, seed: int) -> KnownPair:
    """As it is."""
    return pair


def one_lung(pair: KnownPair, seed: int, margin_mm: float = 15.0, shift_mm=(15.0, -20.0, 25.0)) -> KnownPair:
    """Both images in the box of the right or the left lung; the moving header is ``shift_mm`` (x, y, z) off."""
    right = np.random.default_rng(seed).random() < 0.5
    for name in ("fixed", "moving"):
        pair = _in_view(pair, name, *_box(_side(getattr(pair, f"{name}_mask"), right), getattr(pair, name), margin_mm))
    return _shifted(pair, shift_mm)


def half_lungs(pair: KnownPair, seed: int) -> KnownPair:
    """The lower or the upper half of the lungs is missing in one image, whose header is right."""
    draw = np.random.default_rng(seed)
    name, upper = draw.choice(["fixed", "moving"]), draw.random() < 0.5
    image = getattr(pair, name)
    slices = np.flatnonzero(_array(pair, name).any((1, 2)))
    low, high = np.zeros(3, int), np.array(image.GetSize())
    (low if upper else high)[2] = (slices[0] + slices[-1]) // 2
    return _in_view(pair, name, low, high)


def effusion(pair: KnownPair, seed: int) -> KnownPair:
    """In one image the lower third to half of one lung, more of it at the back, is fluid, which its mask leaves out."""
    draw = np.random.default_rng(seed)
    name, right, share = draw.choice(["fixed", "moving"]), draw.random() < 0.5, draw.uniform(0.35, 0.5)
    mask, lung = _array(pair, name), _side(getattr(pair, f"{name}_mask"), right)
    z, y, _ = np.nonzero(lung)
    level = np.quantile(z - 0.4 * (np.ptp(z) + 1) / (np.ptp(y) + 1) * y, share)
    heights, depths = (np.arange(n) for n in mask.shape[:2])
    low = heights[:, None] - 0.4 * (np.ptp(z) + 1) / (np.ptp(y) + 1) * depths[None] < level
    fluid = binary_closing(lung & low[:, :, None], iterations=3) | (lung & low[:, :, None])
    hu = sitk.GetArrayFromImage(getattr(pair, name)).astype(np.float32)
    rim = binary_dilation(fluid, iterations=2) & low[:, :, None] & ((hu < -50) | fluid)  # half of lung, or not in it
    part = np.maximum(gaussian_filter(rim.astype(np.float32), 0.7), rim)
    filled = (1 - part) * hu + part * (12 + 18 * draw.standard_normal(hu.shape))
    pair = _with_arrays(pair, name, filled, mask & ~rim)
    return pair.with_points(~_at_points(rim, pair, name))


def zero_padding(pair: KnownPair, seed: int) -> KnownPair:
    """0 HU outside the scanner's round field of view, or outside a box around the lungs, and in slices at both ends."""
    draw = np.random.default_rng(seed)
    in_a_box = draw.random() < 0.5
    for name in ("fixed", "moving"):
        image = getattr(pair, name)
        depth, height, width = image.GetSize()[::-1]
        shown = np.zeros((depth, height, width), bool)
        if in_a_box:
            low, high = _box(_array(pair, name), image, draw.uniform(15, 30))
            shown[low[2] : high[2], low[1] : high[1], low[0] : high[0]] = True
        else:
            y, x = np.ogrid[:height, :width]
            radius = min(height, width) / 2
            shown[:] = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2 <= radius**2
        below, above = draw.integers(2, max(3, depth // 16), 2)
        shown[:below] = shown[depth - above :] = False
        hu = sitk.GetArrayViewFromImage(image)
        pair = _with_arrays(pair, name, np.where(shown, hu, 0), _array(pair, name) & shown)
        pair = pair.with_points(_at_points(shown, pair, name))
    return pair


def cropped_to_lungs(pair: KnownPair, seed: int, margin_mm: float = 5.0) -> KnownPair:
    """Both images in the box of their lungs."""
    for name in ("fixed", "moving"):
        pair = _in_view(pair, name, *_box(_array(pair, name), getattr(pair, name), margin_mm))
    return pair


TURNS = {  # numpy axes (z, y, x) of a turn and quarter turns, or one axis to mirror
    "90 degrees about x": ((0, 1), 1),
    "90 degrees about y": ((0, 2), 1),
    "90 degrees about z": ((1, 2), 1),
    "180 degrees about x": ((0, 1), 2),
    "180 degrees about y": ((0, 2), 2),
    "180 degrees about z": ((1, 2), 2),
    "mirrored along x": ((2,), 1),
    "mirrored along y": ((1,), 1),
    "mirrored along z": ((0,), 1),
}


def turned(pair: KnownPair, seed: int, how: str | None = None) -> KnownPair:
    """The moving voxels turned or mirrored, with the header they had before; ``how`` of `TURNS`, None: by seed."""
    how = list(TURNS)[np.random.default_rng(seed).integers(len(TURNS))] if how is None else how
    if how not in TURNS:
        raise ValueError(f"{how!r} is no way to turn an image; take one of {', '.join(TURNS)}")
    axes, times = TURNS[how]
    moving, index = pair.moving, points_to_voxels(pair.moving_points, pair.moving).numpy().copy()
    size = list(moving.GetSize()[::-1])
    arrays = [sitk.GetArrayFromImage(image) for image in (moving, pair.moving_mask)]
    for _ in range(times):
        if len(axes) == 1:
            index[:, axes[0]] = size[axes[0]] - 1 - index[:, axes[0]]
        else:
            i, j = axes
            index[:, i], index[:, j] = size[j] - 1 - index[:, j], index[:, i].copy()
            size[i], size[j] = size[j], size[i]
    arrays = [np.flip(a, axes) if len(axes) == 1 else np.rot90(a, times, axes) for a in arrays]
    image, mask = (_like(np.ascontiguousarray(a), moving) for a in arrays)
    points = voxels_to_points(index, image).numpy()
    return replace(pair, moving=image, moving_mask=mask, moving_points=points)


def identical(pair: KnownPair, seed: int) -> KnownPair:
    """The fixed image twice."""
    return replace(pair, moving=pair.fixed, moving_mask=pair.fixed_mask, moving_points=pair.fixed_points)


def far_headers(pair: KnownPair, seed: int, distance_mm: float = 150.0) -> KnownPair:
    """The moving header ``distance_mm`` off, in any direction."""
    direction = np.random.default_rng(seed).standard_normal(3)
    return _shifted(pair, distance_mm * direction / np.linalg.norm(direction))


def other_field_of_view(pair: KnownPair, seed: int) -> KnownPair:
    """The moving image much smaller, the box of its lungs, or much larger, with 120 mm of air around it."""
    if np.random.default_rng(seed).random() < 0.5:
        return _in_view(pair, "moving", *_box(_array(pair, "moving"), pair.moving, 8.0))
    width = [round(120 / spacing) for spacing in pair.moving.GetSpacing()]
    fill = (("moving", AIR_HU), ("moving_mask", 0))
    padded = {name: sitk.ConstantPad(getattr(pair, name), width, width, value) for name, value in fill}
    return replace(pair, **padded)


def tilted(pair: KnownPair, seed: int) -> KnownPair:
    """The moving header turned by 20 to 30 degrees about any axis through the middle of the image."""
    draw = np.random.default_rng(seed)
    axis, degrees = draw.standard_normal(3).tolist(), draw.uniform(20, 30)
    return _placed(pair, sitk.VersorTransform(axis, np.deg2rad(degrees), _corners(pair.moving).mean(0).tolist()))


HARD: dict[str, Callable[[KnownPair, int], KnownPair]] = {
    make.__name__: make
    for make in (plain, one_lung, half_lungs, effusion, zero_padding, cropped_to_lungs)
    + (turned, identical, far_headers, other_field_of_view, tilted)
}


def _array(pair: KnownPair, name: str) -> np.ndarray:
    """The mask of one image, (D, H, W) bool."""
    return sitk.GetArrayFromImage(getattr(pair, f"{name}_mask")) > 0


def _corners(image: sitk.Image) -> np.ndarray:
    """(8, 3), x, y, z mm: centres of the corner voxels."""
    ends = np.array(image.GetSize()) - 1
    return np.array([image.TransformIndexToPhysicalPoint((ends * c).tolist()) for c in np.ndindex(2, 2, 2)])


def _side(mask: sitk.Image, right: bool) -> np.ndarray:
    """The right or left lung (D, H, W) of a mask with the axes L, P, S: what lies beside the thinnest sagittal slice.

    It is looked for in the middle third of the lungs.
    """
    lungs = sitk.GetArrayFromImage(mask) > 0
    areas = gaussian_filter1d(lungs.sum((0, 1)).astype(float), 2)
    columns = np.flatnonzero(lungs.any((0, 1)))
    first, third = columns[0], (columns[-1] + 1 - columns[0]) // 3
    middle = first + third + int(areas[first + third : first + 2 * third].argmin())
    side = np.arange(lungs.shape[2]) < middle
    return lungs & (side if right else ~side)


def _box(lungs: np.ndarray, image: sitk.Image, margin_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """First and past-the-last index (x, y, z) of a mask with a margin, within the image."""
    inside = np.argwhere(lungs)[:, ::-1]
    margin = np.round(margin_mm / np.array(image.GetSpacing())).astype(int)
    return np.maximum(inside.min(0) - margin, 0), np.minimum(inside.max(0) + margin + 1, image.GetSize())


def _cut(pair: KnownPair, name: str, low: np.ndarray, high: np.ndarray) -> KnownPair:
    """One image and its mask, of the indices ``low`` to before ``high`` (x, y, z)."""
    box = [int(n) for n in high - low], [int(n) for n in low]
    return replace(pair, **{n: sitk.RegionOfInterest(getattr(pair, n), *box) for n in (name, f"{name}_mask")})


def _in_view(pair: KnownPair, name: str, low: np.ndarray, high: np.ndarray) -> KnownPair:
    """`_cut`, and without the points that either image no longer shows."""
    pair = _cut(pair, name, low, high)
    return pair.with_points(_shows(pair.fixed, pair.fixed_points) & _shows(pair.moving, pair.moving_points))


def _shows(image: sitk.Image, points: np.ndarray) -> np.ndarray:
    index = points_to_voxels(points, image).numpy()
    return ((index >= 0) & (index <= np.array(image.GetSize()[::-1]) - 1)).all(1)


def _at_points(region: np.ndarray, pair: KnownPair, name: str) -> np.ndarray:
    """Whether the voxel nearest to each point of one image is in ``region`` (D, H, W)."""
    index = points_to_voxels(getattr(pair, f"{name}_points"), getattr(pair, name)).numpy()
    return region[tuple(np.rint(index).astype(int).T)]


def _with_arrays(pair: KnownPair, name: str, hu: np.ndarray, mask: np.ndarray) -> KnownPair:
    image = getattr(pair, name)
    parts = _like(np.rint(hu).astype(np.int16), image), _like(mask.astype(np.uint8), image)
    return replace(pair, **dict(zip((name, f"{name}_mask"), parts, strict=True)))


def _like(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    """``array`` with the spacing, origin and direction of ``image``; sizes may differ."""
    made = sitk.GetImageFromArray(array)
    made.SetSpacing(image.GetSpacing())
    made.SetOrigin(image.GetOrigin())
    made.SetDirection(image.GetDirection())
    return made


def _placed(pair: KnownPair, transform: sitk.Transform) -> KnownPair:
    """The moving header and points where ``transform`` leads them."""
    names, back = ("moving", "moving_mask"), transform.GetInverse()  # which TransformGeometry applies
    moved = {name: sitk.TransformGeometry(getattr(pair, name), back) for name in names}
    points = np.array([transform.TransformPoint(point) for point in pair.moving_points.tolist()])
    return replace(pair, **moved, moving_points=points)


def _shifted(pair: KnownPair, shift_mm) -> KnownPair:
    return _placed(pair, sitk.TranslationTransform(3, np.array(shift_mm, float).tolist()))
