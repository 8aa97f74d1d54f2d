"""Displacement fields in .nii.gz: what ITK would write, packed without compression."""

import gzip
import resource

import numpy as np
import pytest
import SimpleITK as sitk

from mine_reg.images.writing import write_image


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_fields_are_stored_as_itk_writes_them_but_not_compressed(tmp_path, kind):
    values = np.random.default_rng(0).normal(size=(20, 40, 30, 3)).astype(kind)
    field = sitk.GetImageFromArray(values, isVector=True)
    field.SetSpacing((1.0, 2.0, 3.0))
    field.SetOrigin((5.0, 6.0, 7.0))
    field.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    write_image(field, tmp_path / "field.nii.gz")
    sitk.WriteImage(field, str(tmp_path / "itk.nii"))
    packed = (tmp_path / "field.nii.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "itk.nii").read_bytes()
    write_image(field, tmp_path / "again.nii.gz")
    assert (tmp_path / "again.nii.gz").read_bytes() == packed
    again = sitk.ReadImage(str(tmp_path / "field.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), values)
    assert again.GetPixelID() == field.GetPixelID()


def test_a_disk_that_is_full_for_a_field_is_said(tmp_path):
    field = sitk.Image([50, 50, 50], sitk.sitkVectorFloat32)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            write_image(field, tmp_path / "field.nii.gz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.filename == str(tmp_path / "field.nii.gz")
    assert not list(tmp_path.iterdir())
