"""Pairs from single CTs: invertible motion, points that follow the images, contrast in blood alone, any grid."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.spatial.transform import Rotation

from mine_reg.images.ct import blood_hu, lung_mask
from mine_reg.images.geometry import points_to_voxels, to_image
from mine_reg.spatial import compose_dvf, jacobian_determinant, sample_at
from mine_reg.synthetic.phantom import grid_origin, make_pair
from mine_reg.synthetic.scan_motion import Breath, SimulatedMotion, Thorax, breathing_velocity, exponential
from mine_reg.synthetic.scan_pairs import ScannedThorax, simulate_pair
from mine_reg.synthetic.scene import NATIVE_HU

SIZE, SPACING = (40, 40, 40), 8.0
SHIFT = np.array([35.0, -210.0, 640.0])  # where this scanner has its patients


def seen_obliquely(volume, spacing, outside=0, turned=(6, -9, 14)):
    """A phantom volume on an oblique, anisotropic, left-handed grid with an origin of its own."""
    image = to_image(
        volume, (spacing,) * 3, np.array(grid_origin(tuple(volume.shape), spacing)) + SHIFT, dtype="float32"
    )
    grid = sitk.Image((62, 80, 56), sitk.sitkFloat32)
    grid.SetSpacing((5.2, 4.1, 5.6))
    grid.SetDirection((Rotation.from_euler("xyz", turned, degrees=True).as_matrix() @ np.diag([1, 1, -1])).ravel())
    middle = grid.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in grid.GetSize()])
    grid.SetOrigin(SHIFT - np.array(middle))
    return sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, outside, sitk.sitkFloat32)


@pytest.fixture(scope="module")
def scans():
    """Contrast or not -> image and lung mask of one phantom."""
    found = {}
    for enhanced in (False, True):
        pair = make_pair((72, 72, 72), 4.5, seed=5, noise=False, contrast=enhanced)
        found[enhanced] = seen_obliquely(pair.fixed, 4.5, -1024), seen_obliquely(pair.fixed_mask, 4.5) > 0.5
    return found


@pytest.fixture(scope="module")
def scanned(scans):
    return {enhanced: ScannedThorax(*scan, SIZE, SPACING) for enhanced, scan in scans.items()}


@pytest.fixture(scope="module")
def fine(scans):
    """On a grid that interpolation between its voxels follows well."""
    return ScannedThorax(*scans[False], (84, 84, 84), 3.8)


def sampled(image, points_xyz, grid):
    return sample_at(image[None, None].double(), points_to_voxels(points_xyz, grid)[None])[0, :, 0]


@hypothesis_settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_motion_is_invertible_and_its_points_are_exact(scanned, seed):
    motion = SimulatedMotion.random(scanned[False].thorax, torch.Generator().manual_seed(seed))
    assert jacobian_determinant(motion.displacement).min() > 0.05
    inside = np.argwhere(scanned[False].thorax.lungs)[::97]
    points = torch.from_numpy(inside[:, ::-1] * 4.0 + scanned[False].thorax.origin_xyz)
    assert (motion.at(motion.inverse(points)) - points).norm(dim=1).max() < 1e-3
    moved = motion.transform()  # what resamples the images is what moves the points
    for point in points[::40].tolist():
        np.testing.assert_allclose(moved.TransformPoint(point), motion.at(torch.tensor([point]).double())[0], atol=1e-3)


@hypothesis_settings(
    max_examples=5, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32 - 1))
def test_points_follow_the_images(fine, seed):
    """Before noise and contrast, corresponding points and no others are equally bright, up to interpolation."""
    scan = fine
    pair = simulate_pair(scan, seed, noise=False, contrast=False, density=False)
    fixed, moving = pair.fixed_points_xyz, pair.moving_points_xyz
    assert len(fixed) == len(moving) >= 100
    here, there, unmoved = (
        sampled(i, p, scan.grid) for i, p in ((pair.fixed, fixed), (pair.moving, moving), (pair.moving, fixed))
    )
    assert (here - there).abs().median() < 0.6 * (here - unmoved).abs().median()
    assert torch.corrcoef(torch.stack([here, there]))[0, 1] > 0.85
    masks = [sampled(mask.float(), p, scan.grid) for mask, p in ((pair.fixed_mask, fixed), (pair.moving_mask, moving))]
    assert min(mask.mean() for mask in masks) > 0.9


def test_the_exponential_of_a_velocity_undoes_that_of_its_opposite():
    z, y, x = torch.meshgrid(*[torch.linspace(0, 2 * torch.pi, 40)] * 3, indexing="ij")
    velocity = 2.5 * torch.stack([torch.sin(y) * torch.cos(x), torch.sin(x + z), torch.cos(y - z)])[None]
    there, back = exponential(velocity), exponential(-velocity)
    rest = compose_dvf(there, back, (40, 40, 40))[..., 6:-6, 6:-6, 6:-6]
    assert there.abs().max() > 2 and rest.abs().max() < 0.1


def breath(**sizes):
    """A breath with no other motion than ``sizes`` say."""
    still = dict.fromkeys(("diaphragm", "sides", "ribs", "front", "dependent"), 0.0)
    return Breath(
        **still | {"lobes": torch.zeros(5, 3), "waves": torch.zeros(1, 7), "settling": torch.zeros(1, 7)} | sizes
    )


def test_breathing_moves_the_diaphragm_and_neither_apex_nor_spine_nor_ribs(scanned):
    """The axial velocity alone, as part of the diaphragm's 15 mm."""
    thorax = scanned[False].thorax
    axial = breathing_velocity(thorax, breath(diaphragm=15.0))[0, 0].numpy() * 4.0 / -15.0
    rows, columns = np.nonzero(thorax.lungs.any(0))
    levels = np.rint((thorax.base_z[rows, columns] - thorax.origin_xyz[2]) / 4).astype(int)
    base, top = axial[levels, rows, columns], np.argwhere(thorax.lungs)[-60:]
    spine = [round((y - thorax.origin_xyz[1]) / 4) for y in thorax.spine_y[levels.min() : levels.max()]]
    middle = round((thorax.centre_x - thorax.origin_xyz[0]) / 4)
    assert 0.5 < base.mean() < 1.1 and base.min() >= 0
    assert abs(axial[tuple(top.T)]).max() < 0.1
    assert abs(axial[np.arange(levels.min(), levels.max()), spine, middle]).max() < 0.05
    assert abs(axial[thorax.cavity_mm < -10]).max() == 0


def test_lungs_slide_along_the_ribs_which_hardly_move(scanned):
    """A breath's own motion: 15 mm down beside the wall, nothing 10 mm outside it, and nothing through it."""
    thorax = scanned[False].thorax
    velocity = breathing_velocity(thorax, breath(diaphragm=15.0, dependent=6.0, lobes=torch.full((5, 3), 4.0)))[0] * 4.0
    assert velocity[:, torch.from_numpy(thorax.cavity_mm < -12)].abs().max() < 0.5
    low = thorax.positions()[2] < thorax.dome_z + 40
    beside = torch.from_numpy((thorax.cavity_mm > 4) & (thorax.cavity_mm < 13) & thorax.lungs) & low
    assert velocity[0, beside].abs().median() > 6  # axes z, y, x
    normal = np.stack(np.gradient(gaussian_filter(thorax.cavity_mm, 1.5)))[:, beside]
    through = (velocity[:, beside].numpy() * normal / np.linalg.norm(normal, axis=0)).sum(0)
    assert np.median(np.abs(through)) < 2


def test_ribs_move_the_chest_forwards_and_outwards(scanned):
    thorax = scanned[False].thorax
    velocity = breathing_velocity(thorax, breath(front=8.0, ribs=3.0))[0] * 4.0  # z, y, x
    inside = np.argwhere(thorax.lungs)
    y, x = (thorax.origin_xyz[i] + 4.0 * inside[:, 2 - i] for i in (1, 0))
    _, forward, left = velocity[(slice(None), *inside.T)].numpy()
    front, back = (forward[part].mean() for part in (y < np.quantile(y, 0.05), y > np.quantile(y, 0.9)))
    assert front < -4 and abs(back) < 2  # y grows to the back
    assert left[x > np.quantile(x, 0.95)].mean() > 1 > -1 > left[x < np.quantile(x, 0.05)].mean()


def test_sizes_of_motion(scanned):
    """Deep breaths move the lungs as far as real ones do, median 10 mm, and tidal ones less; mixed draws both."""
    thorax = scanned[False].thorax
    nodes = np.argwhere(thorax.lungs)[::61]
    points = torch.from_numpy(nodes[:, ::-1] * 4.0 + thorax.origin_xyz)

    def millimetres(size):
        motions = [SimulatedMotion.random(thorax, torch.Generator().manual_seed(s), size) for s in range(12)]
        return np.array([(m.at(points) - points).norm(dim=1).mean() for m in motions])

    deep, tidal, mixed = (millimetres(size) for size in ("deep", "tidal", "mixed"))
    assert 7 < np.median(deep) < 14 and 4.5 < np.median(tidal) < 9.5
    same = np.isclose(mixed, deep), np.isclose(mixed, tidal)
    assert (same[0] | same[1]).all() and same[0].any() and same[1].any()
    with pytest.raises(ValueError, match="one of mixed, deep, tidal, not 'huge'"):
        millimetres("huge")


@pytest.mark.parametrize("seed", [0, 126, 130436, 7])
def test_density_follows_the_volume_of_the_lungs(fine, seed):
    """The mass of lung tissue is the same in both images, and nothing outside the lungs changes."""
    followed, kept = (
        simulate_pair(fine, seed, noise=False, contrast=False, density=density, motion_size="deep")
        for density in (True, False)
    )
    mass, uncorrected = (
        (image[mask] + 1000).clamp(0, 400).sum() / (pair.fixed[pair.fixed_mask] + 1000).clamp(0, 400).sum()
        for pair, image, mask in ((p, p.moving, p.moving_mask) for p in (followed, kept))
    )
    volume = followed.moving_mask.sum() / followed.fixed_mask.sum()
    assert abs(mass - 1) < max(0.03, 0.5 * abs(uncorrected - 1)), (mass, uncorrected)
    change = followed.moving - kept.moving
    assert torch.equal(followed.fixed, kept.fixed) and (change[kept.moving > -150] == 0).all()
    inside = kept.moving_mask & (kept.moving < -700)
    assert abs(volume - 1) < 0.05 or (change[inside].mean() > 0) == (volume < 1)  # less air, denser lung
    near = torch.from_numpy(binary_dilation(kept.moving_mask.numpy(), iterations=4))
    assert change[inside].abs().max() > 50 and change[~near].abs().max() < 1


@pytest.mark.parametrize("enhanced", [False, True])
def test_the_fixed_image_has_contrast_and_the_moving_one_has_not(scanned, scans, enhanced):
    """Blood is brightened in one image or darkened in the other, as the scan needs; lung, fat and bone stay."""
    scan = scanned[enhanced]
    assert scan.enhanced == enhanced == (blood_hu(*scans[enhanced]) > 100)
    changed, plain = (simulate_pair(scan, 8, noise=False, contrast=c) for c in (True, False))
    gain = {name: getattr(changed, name) - getattr(plain, name) for name in ("fixed", "moving")}
    if enhanced:
        assert (gain["fixed"] == 0).all() and gain["moving"].min() < -60 and gain["moving"].max() < 1
    else:
        assert (gain["moving"] == 0).all() and gain["fixed"].max() > 60 and gain["fixed"].min() >= 0
    named = "moving" if enhanced else "fixed"
    hu, mask = getattr(plain, named), getattr(plain, f"{named}_mask")
    assert gain[named][mask & (hu < -800)].abs().max() < 10  # lung without vessels
    assert gain[named][(hu < -120) & ~mask].abs().mean() < 3  # air, fat, partial volume of the skin
    # bone: no more than the half of the liver's 50 HU that ribs beside it get
    assert (hu > 250).sum() > 20 and gain[named][hu > 250].abs().median() < 26
    if enhanced:
        heart = (plain.moving > 150) & (changed.moving < 110)
        assert heart.sum() * SPACING**3 / 1000 > 100  # ml of blood that are dark now
        assert changed.moving[heart].median() == pytest.approx(NATIVE_HU, abs=25)


def test_seed_decides_the_pair_and_noise_is_independent(scanned):
    first, again, other, clean = (
        simulate_pair(scanned[False], seed, noise=noise)
        for seed, noise in ((3, True), (3, True), (4, True), (3, False))
    )
    for name in ("fixed", "moving", "moving_mask", "fixed_points_xyz", "moving_points_xyz"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
        assert not torch.equal(getattr(first, name), getattr(other, name)), name
    middle = clean.fixed > -600
    noise = torch.stack([(first.fixed - clean.fixed)[middle], (first.moving - clean.moving)[middle]])
    assert noise.std(1).min() > 2 and abs(torch.corrcoef(noise)[0, 1]) < 0.1


def test_cropped_scans_and_single_lungs_work(scans):
    image, mask = scans[False]
    for crop in ((slice(None), slice(None), slice(0, 34)), (slice(0, 34), slice(None), slice(None))):
        thorax = ScannedThorax(image[crop], mask[crop], SIZE, SPACING)
        pair = simulate_pair(thorax, 1)
        assert pair.fixed_mask.any() and torch.isfinite(pair.moving).all() and len(pair.fixed_points_xyz) >= 100


def test_a_mask_without_lung_is_refused(scans):
    image, mask = scans[False]
    with pytest.raises(ValueError, match="the lung mask is empty"):
        ScannedThorax(image, mask * 0, SIZE, SPACING)
    with pytest.raises(ValueError, match="next to nothing inside the grid"):
        Thorax(mask, (8, 8, 8), 4.0, SHIFT + 900)


def test_lungs_are_found_without_a_mask(scans):
    for image, mask in scans.values():
        found = lung_mask(image)
        assert found.GetSize() == image.GetSize() and found.GetDirection() == image.GetDirection()
        a, b = (sitk.GetArrayFromImage(m) > 0 for m in (found, mask))
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.96


@pytest.mark.parametrize("value", [-1000.0, 40.0])
def test_no_lungs_no_mask(value):
    image = sitk.Image((40, 40, 40), sitk.sitkFloat32) + value
    image.SetSpacing((6, 6, 6))
    with pytest.raises(ValueError, match="litres of air inside a body; is it a chest CT in HU"):
        lung_mask(image)
