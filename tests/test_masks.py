"""Lung masks in every usual encoding, and CTs of every type: held against numpy on known numbers."""

import itertools

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from mine_reg.images.ct import read_clipped, read_ct, read_lung_mask, read_mask
from mine_reg.images.geometry import to_image, to_tensor

SHAPE = (9, 10, 11)
PLACE = {"spacing_mm_xyz": (2, 3, 4), "origin_xyz": (5, -6, 7)}
LUNG = np.zeros(SHAPE, bool)
LUNG[2:7, 3:7, 1:5] = LUNG[2:7, 3:7, 7:10] = True
LABELS = np.where(LUNG, 1 + np.arange(SHAPE[2]) // 3, 0)  # lobes, from 1 to 4


def ct(dtype=np.float32):
    """A body of 40 HU with lungs of -850, air around it."""
    hu = np.full(SHAPE, -1000, dtype)
    hu[1:8, 2:8, :] = 40
    hu[LUNG] = -850
    return to_image(hu, **PLACE)


def write(path, array, **place):
    sitk.WriteImage(to_image(array, **(PLACE | place)), str(path))
    return path


def both_ways(path):
    """From a file, and given as an image."""
    image = ct()
    return (
        read_mask(path, image, "fixed_mask", "fixed"),
        read_lung_mask(sitk.ReadImage(str(path)), image, "fixed", "fixed"),
    )


def float_noise(array):
    return array + np.random.default_rng(0).uniform(-1e-6, 1e-6, array.shape).astype(np.float32)


ENCODINGS = {
    "0 and 1": LUNG.astype(np.uint8),
    "0 and 1, signed": LUNG.astype(np.int8),
    "0 and 255": LUNG.astype(np.uint8) * 255,
    "labels": LABELS.astype(np.uint8),
    "labels of 16 bits": LABELS.astype(np.int16) * 7,
    "labels of 32 bits": LABELS.astype(np.int32) * 70000,
    "labels of 64 bits": LABELS.astype(np.int64) * 2**40,
    "one large label": LUNG.astype(np.uint16) * 65535,
    "0.0 and 1.0": LUNG.astype(np.float32),
    "0.0 and 1.0, double": LUNG.astype(np.float64),
    "labels as floating numbers": LABELS.astype(np.float32),
    "0.0 and 255.0 with rounding": float_noise(LUNG.astype(np.float32) * 255),
    "0.0 and 1.0 with rounding": float_noise(LUNG.astype(np.float32)),
    "probabilities": np.where(LUNG, 0.5, 0.499).astype(np.float32),
    "probabilities near 0 and 1": np.where(LUNG, 0.97, 0.01).astype(np.float32),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_usual_encoding_means_the_same(tmp_path, name):
    path = write(tmp_path / "mask.nrrd", ENCODINGS[name])
    for mask in both_ways(path):
        assert mask.GetPixelID() == sitk.sitkFloat32
        np.testing.assert_array_equal(sitk.GetArrayViewFromImage(mask), LUNG)
        assert mask.GetSpacing() == (2, 3, 4) and mask.GetOrigin() == (5, -6, 7)


@pytest.mark.parametrize("slope, stored", [(1 / 255, 255), (0.5, 2), (255, 1), (2, 1)])
def test_scaling_in_the_header_of_a_mask_is_applied(tmp_path, slope, stored):
    path = write(tmp_path / "mask.nii", LUNG.astype(np.uint8) * stored)
    header = nibabel.Nifti1Header(path.read_bytes()[:348], check=False)
    header["scl_slope"], header["scl_inter"] = slope, 0
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])
    mask = read_mask(path, ct(), "fixed_mask", "fixed")
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(mask), LUNG)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flip", [(False, False, False), (True, False, True), (True, True, True)])
def test_a_mask_whose_axes_run_otherwise_is_turned_without_interpolation(tmp_path, order, flip):
    mask = sitk.Flip(sitk.PermuteAxes(to_image(LUNG.astype(np.uint8), **PLACE), order), flip)
    sitk.WriteImage(mask, str(tmp_path / "mask.nrrd"))
    for found in both_ways(tmp_path / "mask.nrrd"):
        np.testing.assert_array_equal(sitk.GetArrayViewFromImage(found), LUNG)


def test_a_mask_whose_axes_run_otherwise_on_an_oblique_grid():
    image, mask = ct(), to_image(LUNG.astype(np.uint8), **PLACE)
    turn = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix()
    for one in (image, mask):
        one.SetDirection(turn)
    other = sitk.Flip(sitk.PermuteAxes(mask, (2, 0, 1)), (False, True, False))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_lung_mask(other, image, "a", "a")), LUNG)


def soft(top):
    """0 and ``top``, smoothed as by linear resampling."""
    mask = LUNG.astype(np.float32) * top
    mask[:, :, 5] = 0.37 * top
    return mask


REFUSED = {  # situation: (voxels, what the user reads)
    "empty": (LUNG * np.uint8(0), "is empty; it must mark the lungs with values other than 0"),
    "everything": (LUNG * np.uint8(0) + 1, "marks every voxel; it must mark the lungs only, and be 0 elsewhere"),
    "inverted": (
        (~LUNG).astype(np.uint8),
        "marks 86 % of all voxels, so it looks inverted; give 1 in the lungs and 0 elsewhere",
    ),
    "inverted, 255": ((~LUNG).astype(np.uint8) * 255, "so it looks inverted"),
    "inverted labels": (np.where(LUNG, 0, 3).astype(np.int16), "so it looks inverted"),
    "low probabilities": (LUNG * np.float32(0.3), "is empty: its highest value is 0.3, and lung begins at 0.5; give 0"),
    "smoothed 255": (
        soft(255),
        "holds values such as 94.35, neither labels nor prob.* by nearest neighbour, or",
    ),
    "smoothed labels": (soft(3), "holds values such as 1.11, neither labels nor probabilities"),
    "percent": (
        np.linspace(0, 100, LUNG.size).reshape(SHAPE).astype(np.uint8),
        "holds 100 different values, so it is no mask of lungs; give 0 outside the lungs, and 1 or labels inside",
    ),
    "-1 outside": (
        np.where(LUNG, 1, -1).astype(np.int16),
        "holds values down to -1, and a mask has none below 0; give 0",
    ),
    "255 stored as -1": (LUNG.astype(np.int8) * -1, "holds values down to -1"),
    "the CT itself": (sitk.GetArrayFromImage(ct()), "holds values down to -1000"),
    "the CT with 1024 added": (
        np.random.default_rng(0).integers(0, 2000, SHAPE).astype(np.uint16),
        "different values, so it is no mask",
    ),
    "NaN outside": (np.where(LUNG, 1, np.nan).astype(np.float32), "voxels that are NaN or infinite; replace them"),
    "air": (
        (sitk.GetArrayFromImage(ct()) == -1000).astype(np.uint8) * (np.arange(SHAPE[0]) < 2)[:, None, None],
        r"marks air outside the body \(a mean of -1000 HU in fixed\); check that it belongs to this image, and its ori",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_tell_lung_from_the_rest_is_refused(tmp_path, name):
    array, message = REFUSED[name]
    path = write(tmp_path / "mask.nrrd", np.asarray(array))
    with pytest.raises(ValueError, match=f"mask.nrrd .*{message}") as raised:
        read_mask(path, ct(), "fixed_mask", "fixed")
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=f"fixed_mask .*{message}"):
        read_lung_mask(sitk.ReadImage(str(path)), ct(), "fixed", "fixed")


def test_other_grids_are_refused():
    for wrong in (ct()[1:], sitk.Image(ct()), sitk.PermuteAxes(ct()[1:], (1, 2, 0))):
        wrong = sitk.Cast(wrong < -500, sitk.sitkUInt8)
        wrong.SetOrigin((5, -6, 7.5))
        with pytest.raises(ValueError, match="fixed_mask is on another grid than fixed: .* against .*; resample it"):
            read_lung_mask(wrong, ct(), "fixed", "fixed")


def test_masks_given_as_images_are_volumes():
    with pytest.raises(ValueError, match="fixed_mask must be a scalar volume, not 11 x 10 voxels of 8-bit unsigned"):
        read_lung_mask(to_image(LUNG.astype(np.uint8))[:, :, 0], ct(), "fixed", "fixed")
    colour = sitk.Compose([to_image(LUNG.astype(np.uint8), **PLACE)] * 3)
    with pytest.raises(ValueError, match="fixed_mask must be a scalar volume, not .* vector of 8-bit"):
        read_lung_mask(colour, ct(), "fixed", "fixed")


TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("given", ["file", "image"])
def test_values_of_every_type_are_clipped_and_never_wrap(tmp_path, dtype, given):
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    values = [v for v in (info.min, -3024, -1025, -1024, -1000, -1, 0, 1, 100, 127) if v >= info.min]
    values += [v for v in (200, 255, 3071, 32767, 32768, 40000, 65535, 70000, 2**31, info.max) if v <= info.max]
    array = np.zeros(SHAPE, dtype)
    array.ravel()[: len(values)] = values
    image = to_image(array, **PLACE)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    found = read_ct(tmp_path / "a.nrrd" if given == "file" else image, "fixed")
    assert found.GetPixelID() == sitk.sitkFloat32
    expected = np.array([min(max(float(v), -1024), 32767) for v in values])
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(found).ravel()[: len(values)], expected)


def test_fractions_of_hu_are_kept():
    array = np.random.default_rng(0).uniform(-1024, 3000, SHAPE)
    found = read_clipped("a", to_image(array, **PLACE))
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(found), array.astype(np.float32))
    np.testing.assert_array_equal(to_tensor(found)[0].numpy(), array.astype(np.float32))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_tensors_and_images_keep_values(dtype):
    array = np.random.default_rng(0).integers(0, 200, SHAPE).astype(dtype)
    np.testing.assert_array_equal(to_tensor(to_image(array))[0].numpy(), array.astype(np.float32))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
@pytest.mark.parametrize("source", ["float32", "float64", "int64"])
def test_numbers_too_large_for_the_type_asked_for_do_not_wrap(source, dtype):
    array = np.zeros((4, 4, 4), source)
    array[0, 0] = [-1e12, 1e12, 2.5, 3.5]
    info, middle = np.iinfo(dtype), [2, 4] if source != "int64" else [2, 3]  # to even
    found = sitk.GetArrayFromImage(to_image(array, dtype=dtype))
    np.testing.assert_array_equal(found[0, 0], [info.min, info.max, *middle])


def test_no_integer_stands_for_nan():
    with pytest.raises(ValueError, match="holds voxels that are NaN, which int16 cannot; replace them"):
        to_image(np.full((4, 4, 4), np.nan), dtype="int16")


def test_images_that_are_no_volume_of_ct():
    image = ct()
    image.SetSpacing((2, 3, 400))
    with pytest.raises(ValueError, match="fixed has voxels of 2 x 3 x 400 mm, which no CT of a chest has"):
        read_ct(image, "fixed")
    image = ct()
    image.SetDirection((1, 0.2, 0, 0, 1, 0, 0, 0, 1))
    with pytest.raises(ValueError, match="fixed cannot be used: the axes in its header are not at right angles"):
        read_ct(image, "fixed")
    with pytest.raises(ValueError, match="fixed has only 3 x 10 x 9 voxels; a volume needs at least 4"):
        read_ct(ct()[:3], "fixed")
    hu = sitk.GetArrayFromImage(ct())
    hu[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="fixed holds 1 voxels that are NaN or infinite; replace them"):
        read_ct(to_image(hu), "fixed")
