"""Transforms in files: SimpleITK, ANTs and Learn2Reg's convention give the same as the transform itself, on oblique
anisotropic grids."""

import ants
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from mine_reg.images.geometry import composite_transform, same_grid, to_image, voxels_to_points
from mine_reg.images.transforms import (
    ANTS_AFFINE,
    ANTS_INVERSE_WARP,
    ANTS_WARP,
    INVERSE_FILE,
    ITK_FILE,
    LEARN2REG_FILE,
    apply_transform,
    inverse_error,
    inverted,
    map_points,
    read_transform,
    write_inverse,
    write_learn2reg,
    write_transform,
)

POINTS = 200


def grid(size_xyz, spacing, seed) -> sitk.Image:
    image = sitk.Image(size_xyz, sitk.sitkFloat32)
    image.SetSpacing(spacing)
    image.SetOrigin(np.random.default_rng(seed).uniform(-20, 20, 3))
    image.SetDirection(Rotation.from_rotvec(0.2 * np.random.default_rng(seed).standard_normal(3)).as_matrix().ravel())
    return image


@pytest.fixture(scope="module")
def fixed() -> sitk.Image:
    return grid((34, 30, 22), (2.0, 2.5, 3.5), 1)


@pytest.fixture(scope="module")
def moving() -> sitk.Image:
    """A smooth image, of which linear interpolation loses little, on another grid."""
    image = grid((40, 36, 30), (1.8, 2.2, 2.6), 2)
    values = gaussian_filter(np.random.default_rng(3).standard_normal(image.GetSize()[::-1]), 3).astype(np.float32)
    return to_image(1000 * values / values.std(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


@pytest.fixture(scope="module")
def transform(fixed, moving) -> sitk.CompositeTransform:
    """A is near the map that brings the grids' centres together; u is smooth and of a few mm."""
    field = gaussian_filter(np.random.default_rng(4).standard_normal((3, *fixed.GetSize()[::-1])), (0, 4, 4, 4))
    dvf = torch.from_numpy(1.5 * field / np.abs(field).max()).float()[None]
    theta = torch.eye(3, 4)[None] + 0.02 * torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(5))
    return composite_transform(theta, dvf, fixed, moving)


@pytest.fixture
def inside(fixed) -> np.ndarray:
    voxels = np.random.default_rng(6).uniform(0.15, 0.85, (POINTS, 3)) * (np.array(fixed.GetSize()[::-1]) - 1)
    return voxels_to_points(voxels, fixed).numpy()


@pytest.fixture
def folder(transform, fixed, moving, tmp_path):
    write_transform(transform, tmp_path)
    write_inverse(transform, tmp_path)
    write_learn2reg(transform, fixed, moving, tmp_path / LEARN2REG_FILE)
    return tmp_path


def frame(points) -> pd.DataFrame:
    return pd.DataFrame(points, columns=["x", "y", "z"])


def in_ants(image: sitk.Image, path):
    sitk.WriteImage(image, str(path))
    return ants.image_read(str(path))


def test_points_map_alike_in_itk_and_ants(transform, folder, inside):
    ours = map_points(transform, inside)
    assert np.linalg.norm(ours - inside, axis=1).mean() > 1
    again = map_points(read_transform(folder / ITK_FILE), inside)
    np.testing.assert_allclose(again, ours, atol=1e-4)
    pair = [str(folder / ANTS_WARP), str(folder / ANTS_AFFINE)]
    theirs = ants.apply_transforms_to_points(3, frame(inside), pair)[["x", "y", "z"]].to_numpy()
    np.testing.assert_allclose(theirs, ours, atol=0.01)


def test_images_come_out_alike_in_itk_and_ants(transform, folder, fixed, moving):
    moved = apply_transform(moving, fixed, transform, label=False)
    assert same_grid(moved, fixed)
    pair = [str(folder / ANTS_WARP), str(folder / ANTS_AFFINE)]
    theirs = ants.apply_transforms(in_ants(fixed, folder / "f.nii.gz"), in_ants(moving, folder / "m.nii.gz"), pair)
    ours, theirs = sitk.GetArrayFromImage(moved), theirs.numpy().T  # ANTs' arrays are x, y, z
    both = np.zeros(ours.shape, bool)
    both[3:-3, 3:-3, 3:-3] = True
    both &= theirs != 0  # outside the moving image
    assert both.mean() > 0.2
    assert np.abs(ours - theirs)[both].max() < 1.0  # of a standard deviation of 1000


def test_the_inverse_leads_back_in_itk_and_ants(transform, folder, inside):
    there = map_points(transform, inside)
    back = map_points(read_transform(folder / INVERSE_FILE), there)
    np.testing.assert_allclose(back, inside, atol=0.05)
    pair = [str(folder / ANTS_AFFINE), str(folder / ANTS_INVERSE_WARP)]
    theirs = ants.apply_transforms_to_points(3, frame(there), pair, whichtoinvert=[True, False])[
        ["x", "y", "z"]
    ].to_numpy()
    np.testing.assert_allclose(theirs, back, atol=0.01)
    error = inverse_error(transform, read_transform(folder / INVERSE_FILE))
    assert 0 < error["inverse_mean_error_mm"] <= error["inverse_max_error_mm"] < 0.1


def test_learn2reg_moves_the_image_in_voxels(transform, folder, fixed, moving):
    displacement = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / LEARN2REG_FILE)))  # 3, Z, Y, X
    assert displacement.shape == (3, *fixed.GetSize()[::-1])
    voxels = np.stack(np.meshgrid(*map(np.arange, fixed.GetSize()[::-1]), indexing="ij")) + displacement[::-1]
    values = map_coordinates(sitk.GetArrayFromImage(moving), voxels, order=1, cval=np.nan)
    ours = sitk.GetArrayFromImage(apply_transform(moving, fixed, transform, label=False))
    assert np.isfinite(values).mean() > 0.2
    assert np.nanmax(np.abs(values - ours)) < 1.0


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_values_keep_their_type_and_are_not_biased(kind):
    """Half a voxel between a and b gives (a + b) / 2, rounded to the nearest; values and their minimum stay exact."""
    lowest, highest = (0, 250) if kind == "uint8" else (-30000, 30000) if kind == "int16" else (0, 60000)
    if kind.endswith(("32", "64")) and kind != "float32":
        highest = 2**31 - 1  # which float32 does not hold
    rng = np.random.default_rng(0)
    values = rng.integers(lowest, highest, (8, 8, 8)).astype(kind)
    image = sitk.GetImageFromArray(values)
    same = apply_transform(image, image, sitk.Transform(), label=False)
    assert same.GetPixelID() == image.GetPixelID()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(same), values)
    half = apply_transform(image, image, sitk.TranslationTransform(3, (0.5, 0.0, 0.0)), label=False)
    expected = (values[..., :-1].astype(np.float64) + values[..., 1:]) / 2
    found = sitk.GetArrayFromImage(half)[..., :-1].astype(np.float64)
    tolerance = 0.5 if np.dtype(kind).kind in "iu" else expected.max() * np.finfo(kind).eps
    assert np.abs(found - expected).max() <= tolerance
    away = apply_transform(image, image, sitk.TranslationTransform(3, (100.0, 0.0, 0.0)), label=False)
    assert (sitk.GetArrayFromImage(away) == values.min()).all()


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"])
def test_every_label_stays_itself(kind):
    values = np.random.default_rng(0).choice([0, 1, 2, 7, 100], (8, 8, 8)).astype(kind)
    image = sitk.GetImageFromArray(values)
    moved = apply_transform(image, image, sitk.TranslationTransform(3, (1.3, -0.4, 2.0)), label=True)
    found = sitk.GetArrayFromImage(moved)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found[:6, 1:, :6], values[2:, 1:, 1:7])


def test_labels_stay_labels_and_integers_stay_integers(transform, fixed, moving):
    label = sitk.Cast(moving > 0, sitk.sitkUInt8) * 7
    moved = apply_transform(label, fixed, transform, label=True)
    assert set(np.unique(sitk.GetArrayFromImage(moved))) == {0, 7} and moved.GetPixelID() == sitk.sitkUInt8
    integer = apply_transform(sitk.Cast(moving, sitk.sitkInt16), fixed, transform, label=False)
    exact = apply_transform(moving, fixed, transform, label=False)
    assert integer.GetPixelID() == sitk.sitkInt16
    assert np.abs(sitk.GetArrayFromImage(integer) - sitk.GetArrayFromImage(exact)).max() <= 1.5


def test_what_has_no_inverse_or_is_no_transform_is_said(fixed, tmp_path):
    dvf = torch.zeros(1, 3, *fixed.GetSize()[::-1])
    dvf[0, 2, :, :, 10:20] = -3 * torch.arange(10.0)
    with pytest.raises(ValueError, match="folds space at [0-9]+ voxels"):
        inverted(composite_transform(torch.eye(3, 4)[None], dvf, fixed, fixed))
    with pytest.raises(ValueError, match="not an affine map after a displacement field"):
        write_transform(sitk.CompositeTransform([sitk.TranslationTransform(3)]), tmp_path)
