"""What is computed in slabs equals what is computed at once, wherever the slabs end."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.spatial.transform import Rotation

from mine_reg.evaluation.metrics import field_metrics, field_metrics_of_slabs
from mine_reg.images import slabs as module
from mine_reg.images.geometry import displacement_voxels, on_grid
from mine_reg.images.slabs import slabs, warped_mask
from mine_reg.images.transforms import write_learn2reg
from mine_reg.pair_tool.report import evaluate


@pytest.fixture(scope="module")
def grid():
    """Oblique and anisotropic."""
    grid = sitk.Image(23, 19, 29, sitk.sitkUInt8)
    grid.SetSpacing((1.5, 2.25, 1.75))
    grid.SetOrigin((-20.0, 13.0, -7.5))
    grid.SetDirection(Rotation.from_rotvec([0.2, -0.1, 0.4]).as_matrix().ravel())
    return grid


@pytest.fixture(scope="module")
def transform(grid):
    """An affine map after a field with folds."""
    random = np.random.default_rng(0)
    field = sitk.GetImageFromArray(4 * random.normal(size=(9, 9, 9, 3)), isVector=True)
    field.SetSpacing((6.0, 6.0, 6.0))
    field.SetOrigin((-25.0, 5.0, -12.0))
    affine = sitk.AffineTransform([1.02, 0.03, 0, 0, 0.97, 0.02, 0.01, 0, 1.01], [2.0, -1.0, 3.0])
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])


@pytest.mark.parametrize("voxels", [1, 23 * 19, 4 * 23 * 19, 5 * 23 * 19 + 7, 10**6])
@pytest.mark.parametrize("halo", [0, 1])
def test_slabs_are_the_grid(grid, voxels, halo):
    covered = []
    for slices, slab in slabs(grid, halo, voxels):
        assert slab.GetSize() == (23, 19, slices.stop - slices.start) and slab.GetDirection() == grid.GetDirection()
        for index in ((0, 0, 0), (3, 4, slices.stop - slices.start - 1)):
            own = slab.TransformIndexToPhysicalPoint(index)
            whole = grid.TransformIndexToPhysicalPoint((*index[:2], index[2] + slices.start))
            np.testing.assert_allclose(own, whole, atol=1e-9)
        covered += range(slices.start + halo, slices.stop - halo)
        assert slices.stop - slices.start - 2 * halo <= max(1, voxels // (23 * 19))
    assert covered == list(range(halo, 29 - halo))


@pytest.mark.parametrize("voxels", [1, 5 * 23 * 19, 10**6])
def test_field_metrics_of_slabs_are_those_of_the_field(grid, transform, voxels):
    whole = field_metrics(displacement_voxels(transform, grid, grid))
    parts = (displacement_voxels(transform, slab, slab) for _, slab in slabs(grid, 1, voxels))
    assert 0.1 < whole["folding_percent"] < 60 and whole["sd_log_jacobian"] > 0.1
    assert field_metrics_of_slabs(parts) == pytest.approx(whole, rel=1e-6)


def test_masks_and_learn2reg_do_not_depend_on_where_slabs_end(grid, transform, tmp_path, monkeypatch):
    z, y, x = np.indices((29, 19, 23))
    mask = sitk.GetImageFromArray(((z - 14) ** 2 + (y - 9) ** 2 + (x - 11) ** 2 < 64).astype(np.uint8))
    mask.CopyInformation(grid)
    moving = sitk.Image(30, 31, 32, sitk.sitkInt16)
    moving.SetSpacing((1.25, 1.5, 2.0))
    moving.SetOrigin((-30.0, 2.0, -20.0))
    whole_mask = on_grid(sitk.Cast(mask, sitk.sitkFloat32), grid, 0, transform) > 0.5
    whole_field = displacement_voxels(transform, grid, moving)[0].flip(0).numpy()
    for voxels in (1, 3 * 23 * 19, 10**6):
        monkeypatch.setattr(module.slabs, "__defaults__", (0, voxels))
        np.testing.assert_array_equal(warped_mask(mask, grid, transform), sitk.GetArrayFromImage(whole_mask) > 0)
        write_learn2reg(transform, grid, moving, tmp_path / "field.nii.gz")
        written = sitk.ReadImage(str(tmp_path / "field.nii.gz"))
        assert written.GetSize() == (23, 19, 29, 3)
        np.testing.assert_allclose(sitk.GetArrayFromImage(written), whole_field, atol=2e-5)


def test_evaluate_measures_on_the_whole_fixed_grid(grid, transform):
    hu = sitk.GetImageFromArray(np.random.default_rng(1).integers(-1000, 400, (29, 19, 23)).astype(np.int16))
    hu.CopyInformation(grid)
    found = evaluate(hu, hu, transform)
    assert found == pytest.approx(field_metrics(displacement_voxels(transform, grid, grid)), rel=1e-6)
    assert torch.tensor(list(found.values())).isfinite().all()
