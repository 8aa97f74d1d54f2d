"""NIfTI files under all their names: read as nibabel and ITK read them, or noticed to be damaged."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nifti_files import (
    AFFINE,
    HU,
    OBLIQUE,
    appended,
    big_endian,
    both_forms,
    cut,
    extended,
    hold,
    members,
    qform_only,
    shifted,
    unpacked,
    write,
)

from mine_reg.images.reading import read_image

NAMES = ("a.nii", "a.nii.gz", "a.hdr", "a.img", "a.hdr.gz", "a.NII", "A.NII.GZ", "a.HDR", "no_ending")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE])
@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_read_alike(tmp_path, name, affine, kind):
    path = write(tmp_path / name, affine=affine, kind=kind)
    hold(read_image(path), affine=affine)
    hold(read_image(path), nibabel.load(path).get_fdata() if "." in name else HU, affine)


@pytest.mark.parametrize("name", NAMES)
def test_truncation_is_noticed_under_every_name(tmp_path, name):
    path = cut(write(tmp_path / name), 2)
    with pytest.raises(ValueError, match=f"{name} is damaged: it ends 2 bytes too early"):
        read_image(path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_noticed_under_every_name(tmp_path, name, value):
    array = HU.astype(np.float32)
    array[2, 3, 1:3] = value
    with pytest.raises(ValueError, match=f"{name} holds 2 voxels that are NaN or infinite; replace them"):
        read_image(write(tmp_path / name, array))


READ = {  # situation: what makes the file of HU
    "big endian": lambda f: big_endian(f / "a.nii"),
    "several members": lambda f: members(f / "a.nii.gz"),
    "an extension between header and voxels": lambda f: extended(f / "a.nii.gz"),
    "no gzip in spite of its name": lambda f: unpacked(f / "a.nii.gz"),
    "a few bytes after the voxels": lambda f: appended(f / "a.nii", b"\0" * 60),
    "qform alone": lambda f: qform_only(f / "a.nii"),
    "qform with pixdim[0] 0": lambda f: (
        qform_only(f / "a.nii", affine=AFFINE, pixdim=[0, 2, 3, 4, 0, 0, 0, 0])
        if np.linalg.det(AFFINE) > 0
        else qform_only(f / "a.nii")
    ),
    "sform and qform alike": lambda f: both_forms(f / "a.nii", AFFINE),
    "sform and qform a hundredth of a millimetre apart": lambda f: both_forms(f / "a.nii", shifted(0.01)),
    "an empty time axis": lambda f: write(f / "a.nii", HU[..., None]),
    "two empty axes": lambda f: write(f / "a.nii", HU[..., None, None]),
    "a unit that is not given": lambda f: write(f / "a.nii", xyzt_units=0),
    "time in seconds": lambda f: write(f / "a.nii", xyzt_units=2 + 8),
    "slope 0 with an intercept": lambda f: write(f / "a.nii", scl_slope=0, scl_inter=-1024),
    "slope NaN": lambda f: write(f / "a.nii", scl_slope=np.nan, scl_inter=np.nan),
    "slope NaN with an intercept": lambda f: write(f / "a.nii", scl_slope=np.nan, scl_inter=-1024),
    "slope 1": lambda f: write(f / "a.nii", scl_slope=1, scl_inter=0),
    "an intercept of 24": lambda f: write(f / "a.nii", HU - 24, scl_slope=1, scl_inter=24),
    "a slope of a half": lambda f: write(f / "a.nii.gz", HU * 2, scl_slope=0.5, scl_inter=0),
    "unsigned with -1024": lambda f: write(f / "a.hdr", (HU + 1024).astype(np.uint16), scl_slope=1, scl_inter=-1024),
    "32 bits": lambda f: write(f / "a.nii", HU.astype(np.int32)),
    "32 bits with an intercept": lambda f: write(f / "a.nii", HU.astype(np.int32) - 9, scl_slope=1, scl_inter=9),
    "64 bits": lambda f: int64(f / "a.nii"),
    "single precision": lambda f: write(f / "a.nii", HU.astype(np.float32)),
    "double precision": lambda f: write(f / "a.nii", HU.astype(np.float64)),
    "blanks and ünïcode": lambda f: write(f / "Größe 1 (größer).nii.gz"),
    "a link": lambda f: linked(f),
}


def int64(path):
    nibabel.Nifti1Image(HU.astype(np.int64), AFFINE, dtype=np.int64).to_filename(path)
    return path


def linked(folder):
    (folder / "b.nii").symlink_to(write(folder / "a.nii"))
    return folder / "b.nii"


@pytest.mark.parametrize("name", READ)
def test_voxels_and_their_places_are_right(tmp_path, name):
    hold(read_image(READ[name](tmp_path)))


def test_a_handedness_of_0_means_1(tmp_path):
    """pixdim[0], as the standard asks and many writers rely on."""
    affine = np.diag([2.0, 3, 4, 1])
    path = qform_only(tmp_path / "a.nii", affine=affine, pixdim=[0, 2, 3, 4, 0, 0, 0, 0])
    hold(read_image(path), affine=affine)


@pytest.mark.parametrize("unit, factor", [(1, 1000), (3, 0.001)])
def test_lengths_in_metres_and_micrometres(tmp_path, unit, factor):
    affine = np.diag([1 / factor] * 3 + [1]) @ AFFINE
    image = read_image(write(tmp_path / "a.nii", affine=affine, xyzt_units=unit))
    hold(image)
    np.testing.assert_allclose(image.GetSpacing(), (2, 3, 4), atol=1e-5)


@pytest.mark.parametrize("slope, inter", [(0.5, -1024), (0.1, 3.25), (-1, 0), (2, 0)])
@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "float32"])
def test_scaling_is_nibabel_s_and_itk_s(tmp_path, slope, inter, kind):
    array = (HU % 200).astype(kind)
    path = write(tmp_path / "a.nii", array, scl_slope=slope, scl_inter=inter)
    got = sitk.GetArrayFromImage(read_image(path)).T
    np.testing.assert_allclose(got, nibabel.load(path).get_fdata(), rtol=1e-6)
    np.testing.assert_allclose(got, sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, rtol=1e-6)


@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE, np.diag([1.0, 1, 1, 1]), AFFINE @ np.diag([1.0, -1, 1, 1])])
@pytest.mark.parametrize("make", [write, qform_only])
def test_places_are_itk_s(tmp_path, affine, make):
    path = make(tmp_path / "a.nii", affine=affine)
    ours, theirs = read_image(path), sitk.ReadImage(str(path))
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(ours, name)(), getattr(theirs, name)(), atol=2e-6)


def test_a_file_that_simpleitk_writes_is_read_to_the_last_digit(tmp_path):
    image = sitk.GetImageFromArray(HU.T)
    image.SetSpacing((0.7, 0.7, 1.25))
    image.SetOrigin((-173.123, -294.4, 80.1))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    ours, theirs = read_image(tmp_path / "a.nii.gz"), sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert ours.GetOrigin() == theirs.GetOrigin() and ours.GetSpacing() == theirs.GetSpacing()
    assert ours.GetDirection() == theirs.GetDirection() and ours.GetPixelID() == theirs.GetPixelID()
    assert np.array_equal(*map(sitk.GetArrayViewFromImage, (ours, theirs)))
