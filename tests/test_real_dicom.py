"""A series as a scanner wrote it, and what happens to such series on their way; where the scan is at hand: its folder
is MINE_REG_REAL_CT, or shared/data beside the repository."""

import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import change, enhanced

from mine_reg.images.reading import read_image


@pytest.fixture(scope="module")
def scan(repository) -> Path:
    data = Path(os.environ.get("MINE_REG_REAL_CT", repository.parent / "shared" / "data"))
    if not (data / "dicom_lungdx_a0002").is_dir():
        pytest.skip(f"no real DICOM series in {data}")
    return data / "dicom_lungdx_a0002"


@pytest.fixture
def copied(scan, tmp_path) -> Path:
    return Path(shutil.copytree(scan, tmp_path / "ct"))


def slices(folder):
    """Slices from the lowest, read with pydicom alone."""
    return sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda one: float(one.ImagePositionPatient[2]))


def in_hu(one):
    return one.pixel_array.astype(np.int32) * int(one.RescaleSlope) + int(one.RescaleIntercept)


def at(number, folder):
    """The file of a slice, counted from the lowest."""
    return Path(slices(folder)[number].filename)


def test_volume_is_what_its_slices_say(scan):
    image, parts = read_image(scan), slices(scan)
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(image), [in_hu(one) for one in parts])
    np.testing.assert_allclose(image.GetOrigin(), np.array(parts[0].ImagePositionPatient, float))
    for number in (0, 13, len(parts) - 1):
        where = np.array(parts[number].ImagePositionPatient, float)
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((0, 0, number)), where, atol=1e-6)


def test_volume_is_to_the_last_digit_what_itk_s_own_reader_makes_of_a_sound_series(scan):
    ours = read_image(scan)
    theirs = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(scan)))
    assert ours.GetPixelID() == theirs.GetPixelID() and ours.GetSpacing() == theirs.GetSpacing()
    assert ours.GetOrigin() == theirs.GetOrigin() and ours.GetDirection() == theirs.GetDirection()
    assert np.array_equal(*map(sitk.GetArrayViewFromImage, (ours, theirs)))


def tilted(folder):
    """The gantry tilted by 15 degrees: patients lie as before, the planes of the slices do not."""
    c, s = np.cos(np.radians(15)), np.sin(np.radians(15))
    for path in folder.iterdir():
        change(path, ImageOrientationPatient=[1, 0, 0, 0, round(c, 6), round(s, 6)])


def drifting(folder):
    for number, one in enumerate(slices(folder)):
        x, y, z = map(float, one.ImagePositionPatient)
        change(Path(one.filename), ImagePositionPatient=[x + 0.5 * number, y, z])


def coronal(folder):
    change(at(7, folder), ImageOrientationPatient=[1, 0, 0, 0, 0, -1])


def without_positions(folder):
    for path in folder.iterdir():
        change(path, ImagePositionPatient=None)


def missing(folder):
    at(11, folder).unlink()


def truncated(folder):
    path = at(29, folder)
    path.write_bytes(path.read_bytes()[:-1000])


def empty(folder):
    at(29, folder).write_bytes(b"")


def doubled(folder):
    shutil.copy(at(3, folder), folder / "copy.dcm")


def scout(folder):
    """A localizer of the same series in the folder, as some scanners leave it."""
    shutil.copy(at(3, folder), folder / "scout.dcm")
    change(folder / "scout.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])


DAMAGED = {
    tilted: "15 degrees off their normal, as with a tilted gantry, .* resample the series to a rectangular grid",
    drifting: "degrees off their normal, .* moves the last slice by 14.5 mm",
    coronal: "is turned by 90 degrees against most slices; take out",
    without_positions: "does not say where its slice lies",
    missing: "slices are 8 to 16 mm apart .* give the complete series",
    truncated: "is damaged: .* copy it again|is a DICOM file that is cut off",
    empty: "is no DICOM file though it is named like the slices beside it; copy it again",
    doubled: "two slices at one place, .*copy.dcm",
    scout: "scout.dcm is a localizer, not a slice of the volume; take it out",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_series_is_refused_in_one_sentence(copied, damage):
    damage(copied)
    with pytest.raises(ValueError, match=DAMAGED[damage]) as raised:
        read_image(copied)
    assert str(copied) in str(raised.value) and "\n" not in str(raised.value)


def test_the_series_as_one_enhanced_file(scan, tmp_path):
    parts, image = slices(scan), read_image(scan)
    stored = np.array([one.pixel_array for one in parts])[::-1]
    path = enhanced(
        tmp_path / "enhanced.dcm",
        stored,
        [one.ImagePositionPatient for one in parts][::-1],
        rescale=(int(parts[0].RescaleSlope), int(parts[0].RescaleIntercept)),
        pixel_spacing=list(parts[0].PixelSpacing),
    )
    found = read_image(path)
    assert np.array_equal(*map(sitk.GetArrayViewFromImage, (found, image)))
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(found, name)(), getattr(image, name)(), atol=1e-6)
