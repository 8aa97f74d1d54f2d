"""Pairs of known truth from single CTs: one scan, seen twice.

As in the phantom, the fixed image (with contrast agent) shows the scan at the points of the grid, the moving image
(without) shows it at psi of these points. Each is sampled once from the scan itself and then gets its own contrast,
reconstruction kernel and noise.
"""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt, gaussian_filter

from mine_reg.images.ct import blood_hu, lung_mask, read_clipped, read_mask
from mine_reg.images.geometry import averaged, centred_grid, on_grid, points_to_voxels, to_image, to_tensor
from mine_reg.images.padding import doubt_about_values
from mine_reg.spatial import jacobian_determinant
from mine_reg.synthetic.motion import spread_points
from mine_reg.synthetic.phantom import SyntheticPair
from mine_reg.synthetic.scan_motion import LATTICE_MM, SimulatedMotion, Thorax
from mine_reg.synthetic.scene import NATIVE_HU
from mine_reg.synthetic.shapes import smooth_step

_ENHANCED_HU = 105.0  # a scan whose blood is brighter has contrast agent in it
_POINTS = 150
_SMALLEST_JACOBIAN = 0.02
_AERATED_HU, _AIRLESS_HU = -650.0, -150.0  # lung up to which all, and from which no density follows the volume
_DENSITY_RATIOS = (0.4, 2.0)  # beyond them lung would be emptier or fuller than between any two breaths


class ScannedThorax:
    """One CT from which pairs can be made.

    image : HU, clipped at -1024
    lungs : mask on its grid (0 or 1)
    size, spacing_mm : of the grid (D, H, W) on which pairs are made; it is centred on the lungs, axes L, P, S

    Raises ValueError when the mask is empty or the grid would hold no lung.
    """

    def __init__(self, image: sitk.Image, lungs: sitk.Image, size, spacing_mm: float):
        lungs = sitk.Cast(lungs != 0, sitk.sitkFloat32)
        inside = np.argwhere(sitk.GetArrayViewFromImage(lungs) > 0)
        if not len(inside):
            raise ValueError("the lung mask is empty")
        self.image, self.lungs = averaged(image, spacing_mm), averaged(lungs, spacing_mm)
        middle = (inside.min(0) + inside.max(0)) / 2
        centre = image.TransformContinuousIndexToPhysicalPoint(middle[::-1].tolist())
        self.grid = centred_grid(centre, size, spacing_mm)
        self.thorax = Thorax(lungs, size, spacing_mm, centre)
        self.blood_hu = blood_hu(image, lungs)

    @property
    def enhanced(self) -> bool:
        """Whether the scan was made with contrast agent."""
        return self.blood_hu > _ENHANCED_HU


def simulate_pair(
    scan: ScannedThorax,
    seed: int,
    noise: bool = True,
    contrast: bool = True,
    density: bool = True,
    motion_size: str = "mixed",
) -> SyntheticPair:
    """Make a fixed and a moving scan of the scanned subject, on the scan's grid; points in the scan's own mm.

    noise, contrast, density : False leaves out kernels and scanner noise, the change of contrast, and the lungs'
        density that follows their volume; without all three, corresponding points have equal intensity up to
        interpolation
    motion_size : of the breath: ``"deep"``, ``"tidal"``, or ``"mixed"``, see `SimulatedMotion.random`

    Raises ValueError for another size of motion, and ArithmeticError if the motion folds anywhere, which its
    construction excludes.
    """
    generator = torch.Generator().manual_seed(seed)
    motion = SimulatedMotion.random(scan.thorax, generator, motion_size)
    _check_invertible(motion)
    psi, still = motion.transform(), sitk.Transform()
    fixed, moving = (on_grid(scan.image, scan.grid, -1024.0, t) for t in (still, psi))
    masks = [on_grid(scan.lungs, scan.grid, 0.0, t) for t in (still, psi)]
    fixed_points = _points(scan, generator)
    moving_points = motion.inverse(fixed_points)
    fixed, moving = (to_tensor(i)[0] for i in (fixed, moving))
    if density:
        moving = moving + _condensed(moving, to_tensor(masks[1])[0], motion, scan.grid)
    fixed_mask, moving_mask = (to_tensor(m)[0] > 0.5 for m in masks)
    if contrast:
        agent = Agent(scan, generator)
        if scan.enhanced:
            moving = moving - agent.removed(moving, scan.grid, psi)
        else:
            fixed = fixed + agent.added(fixed, scan.grid, still)
    if noise:
        fixed, moving = (_scanner(image, scan.grid.GetSpacing()[0], generator) for image in (fixed, moving))
    return SyntheticPair(
        fixed.clamp(-1024, 3071),
        moving.clamp(-1024, 3071),
        fixed_mask,
        moving_mask,
        None,
        fixed_points.float(),
        moving_points.float(),
    )


def _condensed(hu: torch.Tensor, lungs: torch.Tensor, motion: SimulatedMotion, grid: sitk.Image) -> torch.Tensor:
    """HU (D, H, W) to add to the moving image where ``lungs`` (0 to 1) have another volume than in the fixed image.

    The tissue in a piece of lung stays the same, so HU + 1000, the part of tissue in the air, goes with one over the
    volume, which psi's Jacobian determinant tells. Vessels and consolidations, which hold no air, keep their density.
    """
    volumes = F.pad(jacobian_determinant(motion.displacement), (1,) * 6, value=1.0)[0].clamp(*_DENSITY_RATIOS)
    image = to_image(volumes, (LATTICE_MM,) * 3, motion.thorax.origin_xyz)
    ratio = to_tensor(on_grid(image, grid, 1.0))[0]
    aerated = 1 - smooth_step((hu - _AERATED_HU) / (_AIRLESS_HU - _AERATED_HU))
    return lungs * aerated * (ratio - 1) * (hu + 1000).clamp(min=0)


class Agent:
    """Where contrast agent goes (as part of a voxel) and how much: a bolus reaches left and right at other times."""

    def __init__(self, scan: ScannedThorax, generator: torch.Generator):
        self.thorax = thorax = scan.thorax
        rise, tilt, liver = torch.rand(3, generator=generator).tolist()
        self.rise_hu, self.tilt, self.liver_hu = 130 + 200 * rise, 0.8 * (tilt - 0.5), 10 + 40 * liver
        self.blood_hu = scan.blood_hu if scan.enhanced else NATIVE_HU
        outside_spine = np.hypot(self._across()[None, None], self._back()) > 27.0
        z = thorax.origin_xyz[2] + LATTICE_MM * np.arange(thorax.size[0])
        above = z[:, None, None] > thorax.base_z[None]
        # 8 mm inside the rib cage: ribs and their muscles are left as they are
        pool = (thorax.cavity_mm > 8) & above & outside_spine
        below = (thorax.cavity_mm > 8) & ~above & outside_spine
        self.pool, self.organs = (gaussian_filter(part.astype(np.float32), 0.8) for part in (pool, below))
        self.lungs = gaussian_filter(thorax.lungs.astype(np.float32), 0.5)

    def added(self, hu: torch.Tensor, grid: sitk.Image, psi: sitk.Transform) -> torch.Tensor:
        """HU that the agent adds to an image without it, (D, H, W), on ``grid`` through ``psi``."""
        pool, organs, lungs, across = self._through(psi, grid)
        # in the mediastinum all soft tissue counts as blood or as supplied by it, in the lungs that part of a voxel
        # which is vessel
        blood = pool * (1 - lungs) * ((hu + 20) / 50).clamp(0, 1) * (1 - ((hu - 150) / 150).clamp(0, 1))
        vessels = lungs * ((hu + 720) / 760).clamp(0, 1)
        phase = 1 + self.tilt * torch.tanh(across / 40)
        return self.rise_hu * phase * (0.75 * blood + vessels) + self.liver_hu * organs * ((hu + 20) / 50).clamp(0, 1)

    def removed(self, hu: torch.Tensor, grid: sitk.Image, psi: sitk.Transform) -> torch.Tensor:
        """HU that the agent has added to an image with it, (D, H, W), on ``grid`` through ``psi``.

        That is by how much blood is brighter than without agent, and in voxels partly of vessel a part of that.
        """
        pool, organs, lungs, _ = self._through(psi, grid)
        blood = pool * (1 - lungs) * 0.92 * (hu - NATIVE_HU).clamp(min=0) * (1 - ((hu - 600) / 200).clamp(0, 1))
        vessels = lungs * ((hu + 720) / (720 + self.blood_hu)).clamp(0, 1) * (self.blood_hu - NATIVE_HU)
        return blood + vessels + organs * 0.5 * self.liver_hu * ((hu - 40) / 60).clamp(0, 1)

    def _across(self) -> np.ndarray:
        """mm to the left of the middle of the chest, (W,)."""
        return self.thorax.origin_xyz[0] + LATTICE_MM * np.arange(self.thorax.size[2]) - self.thorax.centre_x

    def _back(self) -> np.ndarray:
        """mm behind the vertebral bodies, (D, H, 1)."""
        y = self.thorax.origin_xyz[1] + LATTICE_MM * np.arange(self.thorax.size[1])
        return (y[None, :] - self.thorax.spine_y[:, None])[:, :, None]

    def _through(self, psi: sitk.Transform, grid: sitk.Image) -> list[torch.Tensor]:
        """What the agent reaches and `_across`, from the lattice to the grid, each (D, H, W)."""
        across = np.broadcast_to(self._across()[None, None].astype(np.float32), self.thorax.size)
        lattice = [
            to_image(part, (LATTICE_MM,) * 3, self.thorax.origin_xyz)
            for part in (self.pool, self.organs, self.lungs, across)
        ]
        return [to_tensor(on_grid(part, grid, 0.0, psi))[0] for part in lattice]


def _scanner(image: torch.Tensor, spacing_mm: float, generator: torch.Generator) -> torch.Tensor:
    """The image (D, H, W) after a reconstruction kernel of random softness (0 to 0.9 mm), and with noise.

    The SD of the noise falls with the size of the voxels.
    """
    softness, level = torch.rand(2, generator=generator).tolist()
    blurred = torch.from_numpy(gaussian_filter(image.numpy(), 0.9 * softness / spacing_mm)) if softness else image
    sd = (12 + 22 * level) * (1.3 - 0.6 * softness) / (1 + spacing_mm / 3)
    return blurred + sd * torch.randn(image.shape, generator=generator)


def _points(scan: ScannedThorax, generator: torch.Generator) -> torch.Tensor:
    """Points (N, 3), x, y, z mm, spread over the lungs at least 4 mm inside them."""
    depth = distance_transform_edt(scan.thorax.lungs) * LATTICE_MM
    nodes = np.argwhere(depth > 2 * LATTICE_MM)
    chosen = nodes[torch.randint(len(nodes), (12000,), generator=generator).numpy()] if len(nodes) else nodes
    jitter = torch.rand(len(chosen), 3, generator=generator).numpy() - 0.5
    pool = torch.from_numpy((chosen + jitter)[:, ::-1] * LATTICE_MM + scan.thorax.origin_xyz)
    index = points_to_voxels(pool.numpy(), scan.grid).numpy()[:, ::-1]
    inside = ((index >= 0) & (index <= np.array(scan.grid.GetSize()) - 1)).all(1)
    if inside.sum() < 10:
        raise ValueError("fewer than 10 places inside the lungs lie in the grid; is the lung mask right?")
    return spread_points(pool[torch.from_numpy(inside)], _POINTS)


def _check_invertible(motion: SimulatedMotion) -> None:
    """Raise ArithmeticError for a motion that folds."""
    smallest = jacobian_determinant(motion.displacement).min().item()
    if smallest <= _SMALLEST_JACOBIAN:
        raise ArithmeticError(f"the simulated motion folds: its smallest Jacobian determinant is {smallest:.3f}")


def read_scan(path: str | Path, mask: str | Path | None, size, spacing_mm: float) -> ScannedThorax:
    """Read a CT, and its lung mask or, where ``mask`` is None, find the lungs in it; other arguments as of the class.

    Raises FileNotFoundError or ValueError, one sentence that names the file.
    """
    image = read_clipped(path)
    try:
        lungs = read_mask(mask, image, "mask", path) if mask else lung_mask(image)
        if odd := doubt_about_values(image, lungs):
            raise ValueError(odd)
        return ScannedThorax(image, lungs, size, spacing_mm)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
