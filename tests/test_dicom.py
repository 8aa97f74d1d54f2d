"""DICOM series as they come from hospitals: voxels and their places, held against known numbers and pydicom."""

import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import (
    AXIAL,
    HU,
    LAST,
    ORIGIN,
    SPACING,
    at,
    change,
    encoded,
    enhanced,
    frames,
    positions,
    series,
    slice_of,
    volume,
)
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from mine_reg.images.reading import image_files, read_image


def per_slice_rescale(k, made):
    """Every second slice as unsigned numbers with another slope and intercept."""
    if k % 2:
        stored = (HU[k].astype(int) + 1024) * 2
        made.PixelData, made.PixelRepresentation = stored.astype(np.uint16).tobytes(), 0
        made.RescaleSlope, made.RescaleIntercept = 0.5, -1024


def signed_and_unsigned(k, made):
    if k > 2:
        made.PixelData, made.PixelRepresentation = (HU[k] + 1024).astype(np.uint16).tobytes(), 0
        made.RescaleIntercept = -1024


def run_lengths(k, made):
    made.compress(RLELossless)


def big_endian(folder):
    folder.mkdir()
    for k, stored in enumerate(HU):
        made = slice_of(stored, at(k))
        made.PixelData = stored.astype(">i2").tobytes()
        made.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        pydicom.dcmwrite(folder / f"{k}.dcm", made, little_endian=False, implicit_vr=False, force_encoding=True)
    return folder


def without_preamble(folder):
    series(folder)
    for path in folder.iterdir():
        made = pydicom.dcmread(path)
        made.preamble, made.file_meta = None, pydicom.dataset.FileMetaDataset()
        pydicom.dcmwrite(path, made, implicit_vr=True, little_endian=True, enforce_file_format=False)
    return folder


def twelve_bits(k, made):
    """Unsigned, 12 of 16 bits, an overlay in the other four."""
    made.PixelData = ((HU[k] + 1024) | 0x5000).astype(np.uint16).tobytes()
    made.PixelRepresentation, made.BitsStored, made.HighBit, made.RescaleIntercept = 0, 12, 11, -1024


def twelve_bits_signed(k, made):
    """The sign is bit 11, the bits above it are 0."""
    made.PixelData = (HU[k] & 0x0FFF).astype(np.uint16).tobytes()
    made.BitsStored, made.HighBit = 12, 11


def twelve_high_bits(k, made):
    made.PixelData = ((HU[k] + 1024) << 4).astype(np.uint16).tobytes()
    made.PixelRepresentation, made.BitsStored, made.HighBit, made.RescaleIntercept = 0, 12, 15, -1024


def thirty_two_bits(k, made):
    made.PixelData = HU[k].astype(np.int32).tobytes()
    made.BitsAllocated, made.BitsStored, made.HighBit = 32, 32, 31


def clutter(folder):
    """What lies beside slices on discs and in shared folders."""
    series(folder, names="IM{:06}")
    (folder / "README").write_text("Thorax of somebody\n")
    (folder / "thumbs.db").write_bytes(bytes(range(256)))
    (folder / ".DS_Store").write_bytes(bytes(range(256)))
    (folder / "._IM000003").write_bytes(bytes(range(256)))
    shutil.copy(get_testdata_file("dicomdirtests/DICOMDIR"), folder / "DICOMDIR")
    for name in ("rtstruct", "test-SR"):
        shutil.copy(get_testdata_file(f"{name}.dcm"), folder / f"{name}.dcm")
    (folder / "viewer").mkdir()
    (folder / "viewer" / "viewer.exe").write_bytes(bytes(range(256)))
    return folder


def shuffled(folder):
    """Neither names nor instance numbers follow the positions."""
    order = np.random.default_rng(0).permutation(len(HU))
    series(folder, edit=lambda k, made: setattr(made, "InstanceNumber", int(order[k])))
    for k, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"slice {order[k]} of a ünïcode name.ima")
    return folder


# situation: what makes the series of HU in a folder that is not there yet
READ = {
    "plain": series,
    "no rescale at all": lambda f: series(f, RescaleSlope=None, RescaleIntercept=None),
    "unsigned with an intercept": lambda f: series(f, (HU + 1024).astype(np.uint16), RescaleIntercept=-1024),
    "an intercept without a slope": lambda f: series(
        f, (HU + 1024).astype(np.uint16), RescaleIntercept=-1024, RescaleSlope=None
    ),
    "slope and intercept of each slice": lambda f: series(f, edit=per_slice_rescale),
    "the first slice signed, others not": lambda f: series(f, edit=signed_and_unsigned),
    "MONOCHROME1": lambda f: series(f, PhotometricInterpretation="MONOCHROME1"),
    "12 bits with overlays": lambda f: series(f, edit=twelve_bits),
    "12 bits signed": lambda f: series(f, edit=twelve_bits_signed),
    "the 12 high bits": lambda f: series(f, edit=twelve_high_bits),
    "32 bits": lambda f: series(f, edit=thirty_two_bits),
    "implicit VR": lambda f: series(f, edit=encoded(ImplicitVRLittleEndian)),
    "deflated": lambda f: series(f, edit=encoded(DeflatedExplicitVRLittleEndian)),
    "run lengths": lambda f: series(f, edit=run_lengths),
    "run lengths, 12 bits with overlays": lambda f: series(
        f, edit=lambda k, made: (twelve_bits(k, made), run_lengths(k, made))
    ),
    "run lengths, 12 bits signed": lambda f: series(
        f, edit=lambda k, made: (twelve_bits_signed(k, made), run_lengths(k, made))
    ),
    "run lengths, MONOCHROME1, one intercept per slice": lambda f: series(
        f,
        PhotometricInterpretation="MONOCHROME1",
        edit=lambda k, made: (signed_and_unsigned(k, made), run_lengths(k, made)),
    ),
    "big endian": big_endian,
    "without preamble": without_preamble,
    "clutter": clutter,
    "shuffled": shuffled,
    "descending": lambda f: series(f, edit=lambda k, made: setattr(made, "InstanceNumber", LAST - k)),
    "positions with noise": lambda f: series(
        f,
        edit=positions(lambda k: (at(k) + np.random.default_rng(k).uniform(-0.01, 0.01, 3) * (0 < k < LAST)).round(6)),
    ),
    "numbers longer than the standard allows": lambda f: series(
        f, edit=positions(lambda k: at(k) + (0, 0, 1e-13 * (k == 3)))
    ),
    "distances unlike SpacingBetweenSlices and SliceThickness": lambda f: series(
        f, SpacingBetweenSlices=1.25, SliceThickness=10
    ),
    "blocks of slices, one acquisition after the other": lambda f: series(
        f, edit=lambda k, made: setattr(made, "AcquisitionNumber", 1 + k // 3)
    ),
    "no frame of reference": lambda f: series(f, FrameOfReferenceUID=None),
    "enhanced": lambda f: frames(f.with_suffix(".dcm")),
    "enhanced in a folder": lambda f: f.mkdir() or frames(f / "IM1").parent,
    "enhanced, one rescale for all": lambda f: enhanced(
        f.with_suffix(".dcm"), (HU + 1024).astype(np.uint16), [at(k) for k in range(6)], rescale=(1, -1024)
    ),
    "enhanced, a rescale for each frame": lambda f: enhanced(
        f.with_suffix(".dcm"),
        np.array([(hu.astype(int) + 1024) * (1 + k % 2) for k, hu in enumerate(HU)]).astype(np.uint16),
        [at(k) for k in range(6)],
        rescale=[(1 / (1 + k % 2), -1024) for k in range(6)],
    ),
    "enhanced, frames in any order": lambda f: enhanced(
        f.with_suffix(".dcm"), HU[[3, 0, 5, 1, 4, 2]], [at(k) for k in (3, 0, 5, 1, 4, 2)]
    ),
    "enhanced, run lengths": lambda f: frames(f.with_suffix(".dcm"), edit=lambda made: made.compress(RLELossless)),
}


@pytest.mark.parametrize("name", READ)
def test_voxels_and_their_places_are_right(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, which writes what breaks the standard
        path = READ[name](tmp_path / "ct")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(path)
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(image), HU)
    np.testing.assert_allclose(image.GetSpacing(), SPACING, atol=1e-9)
    np.testing.assert_allclose(image.GetOrigin(), ORIGIN, atol=1e-9)
    np.testing.assert_allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-9)


def test_slopes_that_are_no_whole_numbers(tmp_path):
    series(tmp_path / "ct", RescaleSlope=0.1, RescaleIntercept=-24.5)
    image = read_image(tmp_path / "ct")
    assert image.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_allclose(sitk.GetArrayViewFromImage(image), HU * 0.1 - 24.5, atol=1e-4)


def test_values_beyond_16_bits_do_not_wrap(tmp_path):
    stored = np.full((4, 5, 7), 65535, np.uint16)
    stored[0] = 0
    series(tmp_path / "ct", stored, RescaleIntercept=-1024)
    array = sitk.GetArrayFromImage(read_image(tmp_path / "ct"))
    assert array.min() == -1024 and array.max() == 64511
    series(tmp_path / "steep", np.full((4, 5, 7), 30000, np.int16), RescaleSlope=200000)
    assert sitk.GetArrayFromImage(read_image(tmp_path / "steep")).max() == 6_000_000_000


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_bigendian", "MR_small_implicit"],
)
@pytest.mark.parametrize("intercept", [0, -24])
def test_compressed_slices_hold_what_pydicom_says(tmp_path, name, intercept):
    """pydicom's own test files, the same slice in many encodings, made slices of a CT."""
    expected = pydicom.dcmread(get_testdata_file("MR_small.dcm")).pixel_array
    (tmp_path / "ct").mkdir()
    for k in range(4):
        made = pydicom.dcmread(get_testdata_file(f"{name}.dcm"))
        made.Modality, made.ImagePositionPatient, made.ImageOrientationPatient = "CT", [0, 0, 5 * k], list(AXIAL)
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        made.RescaleSlope, made.RescaleIntercept = 1, intercept
        made.save_as(tmp_path / "ct" / f"{k}.dcm")
    array = sitk.GetArrayFromImage(read_image(tmp_path / "ct"))
    np.testing.assert_array_equal(array, np.broadcast_to(expected + intercept, array.shape))


@pytest.mark.parametrize("value", [3000, 0, -2000])
def test_padding_around_the_field_of_view_is_air(tmp_path, value):
    """The corners are padded; one voxel inside has the same value and is tissue."""
    hu = np.full((4, 9, 9), 50, np.int16)
    hu[:, :2, :2] = hu[:, -2:, -3:] = hu[:, 4, 4] = value
    series(tmp_path / "ct", hu, PixelPaddingValue=value)
    expected = hu.copy()
    if value > -1024:
        expected[:, :2, :2] = expected[:, -2:, -3:] = -1024
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(tmp_path / "ct")), expected)


def test_padding_of_signed_voxels_given_as_an_unsigned_number(tmp_path):
    """63536 is -2000, as GE writes it: below air, so nothing is to be done."""
    hu = HU.copy()
    hu[:, 0] = -2000
    series(tmp_path / "ct", hu, edit=lambda k, made: made.add_new("PixelPaddingValue", "US", 63536))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(tmp_path / "ct")), hu)


def test_padding_range(tmp_path):
    hu = np.full((4, 9, 9), 50, np.int16)
    hu[:, 0] = np.arange(2990, 2999)
    series(tmp_path / "ct", hu, PixelPaddingValue=2990, PixelPaddingRangeLimit=3000)
    assert (sitk.GetArrayFromImage(read_image(tmp_path / "ct"))[:, 0] == -1024).all()


def test_reading_leaves_pydicom_as_it_was(tmp_path):
    before = pydicom.config.settings.reading_validation_mode, list(warnings.filters)
    read_image(series(tmp_path / "ct"))
    assert (pydicom.config.settings.reading_validation_mode, list(warnings.filters)) == before


def test_several_series_read_at_once(tmp_path):
    """As `register` reads fixed and moving: pydicom's settings are the process's."""
    before = pydicom.config.settings.reading_validation_mode
    others = [volume(seed=seed) for seed in range(8)]
    folders = [series(tmp_path / str(seed), hu) for seed, hu in enumerate(others)]
    with ThreadPoolExecutor(4) as at_once:
        for image, hu in zip(at_once.map(read_image, folders), others, strict=True):
            np.testing.assert_array_equal(sitk.GetArrayFromImage(image), hu)
    assert pydicom.config.settings.reading_validation_mode == before


def test_files_of_an_image(tmp_path):
    assert image_files(series(tmp_path / "ct")) == [tmp_path / "ct"]
    assert image_files(tmp_path / "ct" / "001.dcm") == [tmp_path / "ct" / "001.dcm"]


def test_slices_changed_behind_the_header(tmp_path):
    """One tag after another, changed in a file that lies there."""
    folder = series(tmp_path / "ct")
    change(folder / "004.dcm", SliceThickness=99, InstanceNumber=None)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(folder)), HU)
    change(folder / "004.dcm", ImagePositionPatient=[0, 0, 0])
    with pytest.raises(ValueError, match="004.dcm"):
        read_image(folder)
