"""What a message about an image tells its reader to do is done here, and then the image is read."""

import shutil
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import HU, enhanced, moved, only, series, without
from nifti_files import AFFINE, both_forms, cut, shifted, write
from plain_files import meta, nrrd

from mine_reg.images.ct import read_lung_mask
from mine_reg.images.reading import read_image


def removed(folder, name):
    (folder / name).unlink()
    return folder


def moved_up(folder):
    for path in (folder / "more").iterdir():
        path.rename(folder / path.name)
    return folder


def in_two_folders(folder):
    series(folder)
    (folder / "more").mkdir()
    (folder / "005.dcm").rename(folder / "more" / "005.dcm")
    return folder


def series_below(folder):
    series(folder / "series")
    return folder


def with_copy(folder):
    shutil.copy(series(folder) / "002.dcm", folder / "copy.dcm")
    return folder


def with_segmentation(folder):
    """A second series in the folder, to be moved away."""
    series(folder)
    return series(folder, HU[:1], names="b{}.dcm", SeriesInstanceUID="1.2.3.5")


def with_form(path, name):
    image = nibabel.load(path)
    getattr(image, f"set_{name}")(None)
    fixed = path.with_name("mended.nii")
    image.to_filename(fixed)
    return fixed


def with_orientation(path):
    image = nibabel.load(path)
    image.set_sform(AFFINE, code=1)
    image.to_filename(path.with_name("mended.nii"))
    return path.with_name("mended.nii")


def rectangular(path):
    """A sheared image resampled to a rectangular grid with SimpleITK."""
    sheared = sitk.ReadImage(str(path))
    grid = sitk.Image(sheared.GetSize(), sheared.GetPixelID())
    grid.SetSpacing(sheared.GetSpacing())
    grid.SetOrigin(sheared.GetOrigin())
    sitk.WriteImage(sitk.Resample(sheared, grid), str(path.with_name("rectangular.nrrd")))
    return path.with_name("rectangular.nrrd")


ADVICE = {  # what the message says: (what is refused, what is done about it)
    "take out what does not belong to the volume": (
        lambda f: series(f, edit=only(5, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])),
        lambda path: removed(path, "005.dcm"),
    ),
    "take it out of the series": (
        lambda f: series(f, edit=only(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        lambda path: removed(path, "000.dcm"),
    ),
    "take out the wrong or doubled one": (with_copy, lambda path: removed(path, "copy.dcm")),
    "give the complete series": (
        lambda f: series(f, edit=without(3)),
        lambda path: series(path.with_name("whole")),
    ),
    "missing, doubled or moved": (
        lambda f: series(f, edit=moved(5, (0, 0, 2))),
        lambda path: removed(path, "005.dcm"),
    ),
    "put all into one folder": (in_two_folders, moved_up),
    "give such a folder": (series_below, lambda path: path / "series"),
    "give a folder with exactly one": (with_segmentation, lambda path: removed(path, "b0.dcm")),
    "give the folder that holds the whole series": (lambda f: series(f) / "001.dcm", lambda path: path.parent),
    "export the series as single slices or as enhanced CT": (
        lambda f: enhanced(f.with_suffix(".dcm"), HU, [(-10, -20, 30 + 4 * k) for k in range(6)], edit=no_frames),
        lambda path: enhanced(path, HU, [(-10, -20, 30 + 4 * k) for k in range(6)]),
    ),
    r"set the code of the wrong one to 0 \(nibabel: image.set_qform\(None\)": (
        lambda f: both_forms(f.with_suffix(".nii"), shifted(9)),
        lambda path: with_form(path, "qform"),
    ),
    r"or image.set_sform\(None\)": (
        lambda f: both_forms(f.with_suffix(".nii"), shifted(9)),
        lambda path: with_form(path, "sform"),
    ),
    "write the orientation into its header": (
        lambda f: write(f.with_suffix(".nii"), sform_code=0),
        with_orientation,
    ),
    "is damaged: .* export or copy it again": (
        lambda f: cut(write(f.with_suffix(".nii")), 3),
        lambda path: write(path),
    ),
    "resample the image to a rectangular grid": (
        lambda f: nrrd(f.with_suffix(".nrrd"), space_directions="(2,0,0) (0.2,3,0) (0,0,4)"),
        rectangular,
    ),
    "with space directions to match": (
        lambda f: nrrd(f.with_suffix(".nrrd"), space=None),
        lambda path: nrrd(path),
    ),
    "write it raw or gzip": (
        lambda f: nrrd(f.with_suffix(".nrrd"), data=b"1 2", encoding="ascii"),
        lambda path: nrrd(path),
    ),
    "write ElementSpacing, in mm, into its header": (
        lambda f: meta(f.with_suffix(".mha"), ElementSpacing=None),
        lambda path: meta(path),
    ),
    "CompressedDataSize says": (
        lambda f: meta(
            f.with_suffix(".mha"), data=zlib.compress(bytes(420)), CompressedData=True, CompressedDataSize=1
        ),
        lambda path: meta(path),
    ),
}


def no_frames(made):
    del made.PerFrameFunctionalGroupsSequence
    del made.SharedFunctionalGroupsSequence


@pytest.mark.parametrize("message", ADVICE)
def test_advice_can_be_followed(tmp_path, message):
    make, follow = ADVICE[message]
    path = make(tmp_path / "ct")
    with pytest.raises(ValueError, match=message):
        read_image(path)
    assert min(read_image(follow(path)).GetSize()) >= 4


def ct_and_lungs():
    hu = np.full((8, 9, 10), -1000, np.float32)
    hu[1:7, 1:8, 1:9] = 40
    hu[2:6, 3:6, 2:8] = -850
    return sitk.GetImageFromArray(hu), sitk.GetImageFromArray((hu == -850).astype(np.uint8))


def smoothed(mask):
    return sitk.RecursiveGaussian(mask * 255, 1.0)


MASKS = {  # what the message says: (what is made of a good mask, what is done about it)
    "give 1 in the lungs and 0 elsewhere": (lambda mask: 1 - mask, lambda bad, image: 1 - bad),
    "resample it to its image": (
        lambda mask: mask[1:, :, 2:],
        lambda bad, image: sitk.Resample(bad, image, sitk.Transform(), sitk.sitkNearestNeighbor),
    ),
    "or give 0 and 1": (smoothed, lambda bad, image: bad > 127),
    "give 0 outside the lungs, and 1 or labels inside": (
        lambda mask: sitk.Cast(mask, sitk.sitkInt16) * 2 - 1,
        lambda bad, image: bad == 1,
    ),
}


@pytest.mark.parametrize("message", MASKS)
def test_advice_about_masks_can_be_followed(message):
    image, mask = ct_and_lungs()
    make, follow = MASKS[message]
    bad = make(mask)
    with pytest.raises(ValueError, match=message):
        read_lung_mask(bad, image, "fixed", "fixed")
    found = read_lung_mask(follow(bad, image), image, "fixed", "fixed")
    inside = sitk.GetArrayFromImage(mask)[:, :, 2:].astype(bool)
    assert (sitk.GetArrayFromImage(found)[:, :, 2:].astype(bool) & inside).sum() > 0.9 * inside.sum()
