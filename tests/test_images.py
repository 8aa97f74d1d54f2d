"""Physical space: every map is checked against arithmetic done by hand on oblique, anisotropic grids."""

import struct

import ants
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from mine_reg.images.geometry import (
    composite_transform,
    displacement_voxels,
    points_to_voxels,
    same_grid,
    to_image,
    to_tensor,
    voxels_to_points,
)
from mine_reg.images.reading import read_image
from mine_reg.images.transforms import read_ants_transform


def oblique(size_xyz, spacing, seed, flip=False):
    """An empty image with a random origin and orientation, left-handed when ``flip``."""
    image = sitk.Image(size_xyz, sitk.sitkInt16)
    image.SetSpacing(spacing)
    image.SetOrigin(np.random.default_rng(seed).uniform(-200, 200, 3))
    image.SetDirection((Rotation.random(random_state=seed).as_matrix() @ np.diag([1, 1, -1 if flip else 1])).ravel())
    return image


@pytest.fixture
def grids():
    return oblique((21, 17, 13), (0.8, 1.3, 2.5), 1), oblique((15, 19, 23), (1.1, 0.7, 3.0), 2, flip=True)


@pytest.fixture
def transform_parameters():
    generator = torch.Generator().manual_seed(3)
    theta = torch.eye(3, 4)[None] + 0.1 * torch.randn(1, 3, 4, generator=generator)
    return theta, 1.5 * torch.randn(1, 3, 13, 17, 21, generator=generator)


def by_hand(index_xyz, theta, dvf, fixed, moving):
    """x -> A(x + u(x)) from a fixed index to moving millimetres, one point, in x, y, z."""
    field = dvf[0].double().numpy()[::-1]  # channels x, y, z
    displaced = index_xyz + [map_coordinates(channel, index_xyz[::-1, None], order=1)[0] for channel in field]
    normalised = 2 * displaced / (np.array(fixed.GetSize()) - 1) - 1
    normalised = theta[0].double().numpy() @ [*normalised, 1]
    return moving.TransformContinuousIndexToPhysicalPoint((normalised + 1) / 2 * (np.array(moving.GetSize()) - 1))


@pytest.mark.parametrize("with_field", [False, True])
def test_composite_transform_maps_fixed_to_moving_points(grids, transform_parameters, with_field):
    fixed, moving = grids
    theta, dvf = transform_parameters
    transform = composite_transform(theta, dvf if with_field else None, fixed, moving)
    for index in np.random.default_rng(0).uniform(0, 1, (100, 3)) * (np.array(fixed.GetSize()) - 1):
        got = transform.TransformPoint(fixed.TransformContinuousIndexToPhysicalPoint(index))
        expected = by_hand(index, theta, dvf if with_field else torch.zeros_like(dvf), fixed, moving)
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_composite_transform_survives_its_file(grids, transform_parameters, tmp_path):
    transform = composite_transform(*transform_parameters, *grids)
    sitk.WriteTransform(transform, str(tmp_path / "transform.h5"))
    point = grids[0].TransformContinuousIndexToPhysicalPoint((9.3, 8.1, 6.7))
    again = sitk.ReadTransform(str(tmp_path / "transform.h5"))
    np.testing.assert_allclose(again.TransformPoint(point), transform.TransformPoint(point), atol=1e-4)


def test_composite_transform_rejects_a_field_of_another_grid(grids):
    with pytest.raises(ValueError, match=r"the fixed grid asks for \(1, 3, 13, 17, 21\)"):
        composite_transform(torch.eye(3, 4)[None], torch.zeros(1, 3, 13, 17, 20), *grids)


def test_displacement_voxels_is_the_transform_at_every_voxel_centre(grids, transform_parameters):
    fixed, moving = grids
    transform = composite_transform(*transform_parameters, fixed, moving)
    displacement = displacement_voxels(transform, fixed, moving)
    assert displacement.shape == (1, 3, 13, 17, 21) and displacement.dtype == torch.float32
    for x, y, z in np.random.default_rng(0).integers(0, fixed.GetSize(), (50, 3)).tolist():
        point = transform.TransformPoint(fixed.TransformIndexToPhysicalPoint((x, y, z)))
        expected = np.array(moving.TransformPhysicalPointToContinuousIndex(point)) - (x, y, z)
        np.testing.assert_allclose(displacement[0, :, z, y, x].flip(0), expected, atol=2e-4)


def test_displacement_voxels_gives_back_the_dvf_on_one_grid(grids, transform_parameters):
    fixed, dvf = grids[0], transform_parameters[1]
    transform = composite_transform(torch.eye(3, 4)[None], dvf, fixed, fixed)
    torch.testing.assert_close(displacement_voxels(transform, fixed, fixed), dvf, atol=1e-4, rtol=0)


def test_direction_of_a_translation():
    """The fixed point 10, 20, 30 corresponds to the moving point 14, 20, 30: u is +4 mm, 2 voxels, in x."""
    image = sitk.Image((9, 9, 9), sitk.sitkInt16)
    image.SetSpacing((2, 2, 2))
    dvf = torch.zeros(1, 3, 9, 9, 9)
    dvf[:, 2] = 2.0
    transform = composite_transform(torch.eye(3, 4)[None], dvf, image, image)
    np.testing.assert_allclose(transform.TransformPoint((10.0, 12.0, 14.0)), (14.0, 12.0, 14.0))
    half = torch.eye(3, 4)[None].clone()
    half[0, 0, 3] = 0.5  # affine_grid: half the extent between the first and the last voxel, 8 voxels of 2 mm
    transform = composite_transform(half, None, image, image)
    np.testing.assert_allclose(transform.TransformPoint((4.0, 12.0, 14.0)), (8.0, 12.0, 14.0))


def test_points_round_trip(grids):
    points = np.random.default_rng(0).uniform(-300, 300, (40, 3))
    voxels = points_to_voxels(points, grids[1])
    np.testing.assert_allclose(voxels_to_points(voxels, grids[1]), points, atol=1e-9)
    expected = grids[1].TransformPhysicalPointToContinuousIndex(points[0])
    np.testing.assert_allclose(voxels[0].flip(0), expected, atol=1e-9)
    assert points_to_voxels(np.empty((0, 3)), grids[1]).shape == (0, 3)


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
def test_image_file_round_trip(tmp_path, grids, suffix):
    volume = torch.arange(13 * 17 * 21, dtype=torch.float32).reshape(1, 13, 17, 21) + 0.6
    image = to_image(volume, grids[0].GetSpacing(), grids[0].GetOrigin(), grids[0].GetDirection(), dtype="int16")
    sitk.WriteImage(image, str(tmp_path / f"image.{suffix}"))
    again = read_image(tmp_path / f"image.{suffix}")
    assert same_grid(image, again) and not same_grid(again, grids[1])
    assert torch.equal(to_tensor(again), (volume - 0.6 + 1).floor())  # rounded, not truncated


def test_one_voxel_shift_is_another_grid(grids):
    shifted = sitk.Image(grids[0])
    shifted.SetOrigin(grids[0].TransformIndexToPhysicalPoint((0, 0, 1)))
    assert not same_grid(grids[0], shifted)


def write(array, path, **arguments):
    sitk.WriteImage(sitk.GetImageFromArray(array, **arguments), str(path))
    return path


def truncated(path):
    write(np.random.default_rng(0).integers(0, 9, (9, 9, 9)).astype(np.int16), path)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def text(path):
    path.write_text("not an image")
    return path


def filled(value, path):
    return write(np.full((4, 5, 6), value, np.float32), path)


BAD_IMAGES = {  # of formats, and of kinds of NIfTI, that the table of test_bad_data.py does not go through
    "infinity in NIfTI": (lambda f: filled(np.inf, f / "a.nii"), "120 voxels that are NaN or infinite"),
    "NaN in NRRD": (lambda f: filled(np.nan, f / "a.nrrd"), "120 voxels that are NaN"),
    "short NIfTI": (lambda f: truncated(f / "a.nii"), "is damaged: it ends 200 bytes too early"),
    "truncated NRRD": (lambda f: truncated(f / "a.nrrd"), "is damaged: it ends 200 bytes too early"),
    "truncated MetaImage": (lambda f: truncated(f / "a.mha"), "is damaged: it ends 200 bytes too early"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_image_is_named_in_one_sentence(tmp_path, kind):
    make, message = BAD_IMAGES[kind]
    path = make(tmp_path)
    with pytest.raises(ValueError, match=message) as raised:
        read_image(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def nifti(path, order, spacing):
    """A NIfTI file of 5 x 6 x 7 voxels written byte by byte: SimpleITK writes little-endian only."""
    header = bytearray(352)
    for offset, layout, *values in (
        (0, "i", 348),
        (40, "8h", 3, 5, 6, 7, 1, 1, 1, 1),
        (70, "2h", 4, 16),
        (76, "8f", 1, *spacing, 0, 0, 0, 0),
        (108, "2f", 352, 1),
        (252, "h", 1),
        (344, "4s", b"n+1\0"),
    ):
        struct.pack_into(order + layout, header, offset, *values)
    path.write_bytes(bytes(header) + np.arange(210).astype(order + "i2").tobytes())
    return path


@pytest.mark.parametrize("order", ["<", ">"])
def test_spacing_of_nifti_in_either_byte_order(tmp_path, order):
    image = read_image(nifti(tmp_path / "a.nii", order, (2, 3, 4)))
    assert image.GetSpacing() == (2, 3, 4) and sitk.GetArrayViewFromImage(image)[6, 5, 4] == 209
    for spacing, found in (((2, 0, 4), "2 x 0 x 4"), ((2, 3, np.nan), "2 x 3 x nan")):
        with pytest.raises(ValueError, match=f"a.nii has the spacing {found} in its header"):
            read_image(nifti(tmp_path / "a.nii", order, spacing))


def test_rounded_positions_of_dicom_slices_are_no_gap(tmp_path):
    """0.625 mm apart, written to a tenth: steps of 0.6 and 0.7 mm."""
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(9):
        part = sitk.Image((5, 6, 1), sitk.sitkInt16)
        for tag, value in {
            "0008|0060": "CT",
            "0020|000d": "1.2.9",
            "0020|000e": "1.2.3",
            "0008|0018": f"1.2.3.{k + 1}",
            "0020|0032": f"0\\0\\{0.625 * k:.1f}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }.items():
            part.SetMetaData(tag, value)
        writer.SetFileName(str(tmp_path / f"{k}.dcm"))
        writer.Execute(part)
    assert read_image(tmp_path).GetSpacing()[2] == pytest.approx(0.625)


def test_missing_image():
    with pytest.raises(FileNotFoundError, match="nowhere.nii.gz does not exist"):
        read_image("nowhere.nii.gz")


def test_empty_time_axis_is_dropped(tmp_path):
    path = write(np.zeros((1, 4, 5, 6), np.int16), tmp_path / "a.nii.gz", isVector=False)
    assert read_image(path).GetSize() == (6, 5, 4)


def test_ants_transforms_mean_the_same_here_and_in_ants(tmp_path):
    """SyNRA on two oblique anisotropic images: points and the warped image agree with ANTs' own answers."""
    rng = np.random.default_rng(0)
    volume = gaussian_filter(rng.normal(size=(20, 26, 24)), 2.5) * 1000
    fixed, moving = oblique((24, 26, 20), (2.0, 1.5, 2.5), 4), oblique((24, 26, 20), (2.0, 1.5, 2.5), 4)
    moving.SetOrigin(np.array(moving.GetOrigin()) + [1.0, -2.0, 1.5])
    paths = []
    for name, header, array in (("fixed", fixed, volume), ("moving", moving, np.roll(volume, 1, 2))):
        image = to_image(array, header.GetSpacing(), header.GetOrigin(), header.GetDirection(), dtype="float32")
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
        paths.append(str(tmp_path / f"{name}.nii.gz"))
    a_fixed, a_moving = map(ants.image_read, paths)
    result = ants.registration(
        a_fixed, a_moving, "SyNRA", outprefix=str(tmp_path / "t_"), random_seed=1, reg_iterations=(20, 10, 0)
    )
    transform = read_ants_transform(tmp_path / "t_1Warp.nii.gz", tmp_path / "t_0GenericAffine.mat")

    points = voxels_to_points(rng.uniform(4, 15, (30, 3)), fixed).numpy()
    frame = pd.DataFrame(points, columns=list("xyz"))
    expected = ants.apply_transforms_to_points(3, frame, result["fwdtransforms"]).to_numpy()
    got = np.array([transform.TransformPoint(point) for point in points])
    np.testing.assert_allclose(got, expected, atol=1e-3)
    assert np.abs(got - points).max() > 1  # the test would be empty if nothing had moved

    s_fixed, s_moving = map(sitk.ReadImage, paths)
    ours = sitk.GetArrayFromImage(sitk.Resample(s_moving, s_fixed, transform, sitk.sitkLinear))
    theirs = ants.apply_transforms(a_fixed, a_moving, result["fwdtransforms"], "linear").numpy().transpose(2, 1, 0)
    inside = (slice(3, -3),) * 3
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-2 * volume.std())


def test_unreadable_ants_transform_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="0GenericAffine.mat does not exist"):
        read_ants_transform(None, tmp_path / "0GenericAffine.mat")
    path = text(tmp_path / "0GenericAffine.mat")
    with pytest.raises(ValueError, match="0GenericAffine.mat (cannot be read|is damaged)"):
        read_ants_transform(None, path)
