"""NIfTI files that are damaged, hold something else or contradict themselves: refused in one sentence."""

import gzip
import os
import shutil

import nibabel
import numpy as np
import pytest
from nifti_files import AFFINE, HU, appended, both_forms, cut, members, qform_only, shifted, write

from mine_reg.images.reading import image_files, read_image

SHEARED = AFFINE @ np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def damaged(path, offset, value=b"\xff"):
    content = bytearray(write(path).read_bytes())
    content[offset : offset + len(value) or None] = value
    path.write_bytes(content)
    return path


def no_image(folder, name, content):
    (folder / name).write_bytes(content)
    return folder / name


def without(path, ending):
    write(path).with_suffix(ending).unlink()
    return path


def analyze(path):
    nibabel.AnalyzeImage(HU, AFFINE).to_filename(path)
    return path


def loop(folder):
    (folder / "a.nii").symlink_to(folder / "b.nii")
    (folder / "b.nii").symlink_to(folder / "a.nii")
    return folder / "a.nii"


def folder_of(path):
    path.mkdir()
    return path


def pipe(path):
    os.mkfifo(path)
    return path


def coloured(path):
    nibabel.Nifti1Image(np.zeros((7, 6, 5), [(c, "u1") for c in "RGB"]), AFFINE).to_filename(path)
    return path


REFUSED = {  # situation: (what makes the file, what the user reads)
    "NIfTI-2, truncated": (
        lambda f: cut(write(f / "a.nii", kind=nibabel.Nifti2Image), 9),
        "a.nii is damaged: it ends 9 bytes too early; export or copy it again",
    ),
    "checksum": (lambda f: damaged(f / "a.nii.gz", -6), "a.nii.gz is damaged: CRC check failed"),
    "compressed data cut": (
        lambda f: no_image(f, "a.nii.gz", write(f / "a.nii.gz").read_bytes()[:-9]),
        "a.nii.gz is damaged: Compressed file ended before",
    ),
    "compressed header cut": (
        lambda f: no_image(f, "a.nii.gz", write(f / "a.nii.gz").read_bytes()[:40]),
        "a.nii.gz is damaged: Compressed file ended before",
    ),
    "second member damaged": (
        lambda f: no_image(f, "a.nii.gz", members(f / "a.nii.gz").read_bytes()[:-20]),
        "a.nii.gz is damaged: ",
    ),
    "garbage after the compressed data": (
        lambda f: no_image(f, "a.nii.gz", write(f / "a.nii.gz").read_bytes() + b"garbage"),
        "a.nii.gz is damaged: Not a gzipped file",
    ),
    "a slice more than the header says": (
        lambda f: appended(f / "a.nii", bytes(84)),
        "a.nii holds 84 bytes more than the size in its header asks for, so the header is wrong or cut",
    ),
    "a slice less in the header": (
        lambda f: write(f / "a.nii.gz", dim=[3, 7, 6, 4, 1, 1, 1, 1]),
        "a.nii.gz holds 84 bytes more than the size in its header asks for",
    ),
    "4D named 3D": (
        lambda f: write(f / "a.nii", np.stack([HU] * 2, -1), dim=[3, 7, 6, 5, 1, 1, 1, 1]),
        "a.nii holds 420 bytes more than the size in its header asks for",
    ),
    "a size in the header that no memory holds": (
        lambda f: write(f / "a.nii.gz", dim=[3, 32000, 32000, 32000, 1, 1, 1, 1]),
        "a.nii.gz is damaged: it is far too short for the size in its header",
    ),
    "a size below 1": (lambda f: write(f / "a.nii", dim=[3, 7, -6, 5, 1, 1, 1, 1]), "the size in its header is 7 x -6"),
    "no dimensions": (lambda f: write(f / "a.nii", dim=[0] * 8), "a.nii is damaged: the size in its header is 0"),
    "several volumes": (
        lambda f: write(f / "a.nii", np.stack([HU] * 2, -1)),
        r"a.nii has 4 dimensions \(7 x 6 x 5 x 2\); give a file with a single 3D volume",
    ),
    "vectors": (
        lambda f: write(f / "a.nii", np.stack([HU] * 3, -1)[:, :, :, None], intent_code=1007),
        "a.nii holds a vector of 3 values per voxel; give a scalar image",
    ),
    "colour": (lambda f: coloured(f / "a.nii"), "a.nii holds a colour per voxel; give a scalar image"),
    "complex": (lambda f: write(f / "a.nii", HU.astype(np.complex64)), "a.nii holds a complex number per voxel"),
    "a type that is not known": (lambda f: write(f / "a.nii", datatype=77), "a.nii has a type of voxels .* not known"),
    "one bit per voxel": (lambda f: write(f / "a.nii", datatype=1), "a.nii holds a bit per voxel"),
    "sform and qform disagree": (
        lambda f: both_forms(f / "a.nii", shifted(5)),
        "a.nii contradicts itself: its sform and its qform place voxels up to 5 mm apart; set the code of the wrong",
    ),
    "sform and qform mirrored": (
        lambda f: both_forms(f / "a.nii", np.diag([-1, 1, 1, 1]) @ AFFINE),
        "a.nii contradicts itself",
    ),
    "no orientation": (
        lambda f: write(f / "a.nii", sform_code=0, qform_code=0),
        r"a.nii does not say how its voxels lie in space \(sform_code and qform_code are 0\)",
    ),
    "sheared": (lambda f: write(f / "a.nii", affine=SHEARED), "a.nii cannot be used: the axes .* not at right angles"),
    "flat": (
        lambda f: write(f / "a.nii", srow_z=[0, 0, 0, 0], pixdim=[1, 2, 3, 1e-9, 0, 0, 0, 0]),
        "a.nii .* mend its header",
    ),
    "sform NaN": (lambda f: write(f / "a.nii", srow_x=[np.nan, 0, 0, 0]), "a sform in its header that is not finite"),
    "qform that is no rotation": (
        lambda f: qform_only(f / "a.nii", quatern_b=3, quatern_c=3),
        "a.nii has a qform in its header that is no rotation; mend it",
    ),
    "sform and pixdim disagree": (
        lambda f: write(f / "a.nii", pixdim=[1, 1, 1, 1, 0, 0, 0, 0]),
        "a.nii has voxels of 2 x 3 x 4 mm by its sform and of 1 x 1 x 1 mm by its pixdim; mend",
    ),
    "micrometres that should be millimetres": (
        lambda f: write(f / "a.nii", xyzt_units=3),
        "a.nii has voxels of 0.002 x 0.003 x 0.004 mm, which no CT of a chest has",
    ),
    "a unit of time for lengths": (
        lambda f: write(f / "a.nii", xyzt_units=5),
        r"is not known \(xyzt_units 5",
    ),
    "infinite slope": (lambda f: write(f / "a.nii", scl_slope=np.inf), "a slope inf and an intercept .* give finite"),
    "infinite intercept": (lambda f: write(f / "a.nii", scl_slope=1, scl_inter=np.inf), "an intercept inf in its he"),
    "voxels that begin in the header": (lambda f: write(f / "a.nii", vox_offset=100), "a.nii is damaged: its voxels b"),
    "voxels that begin nowhere": (lambda f: write(f / "a.nii", vox_offset=np.nan), "voxels begin at byte nan by its h"),
    "voxels that begin late": (lambda f: write(f / "a.nii", vox_offset=400), "a.nii is damaged: it ends 48 bytes too"),
    "no .img": (lambda f: without(f / "a.hdr", ".img"), "a.hdr cannot be read: the file a.img beside it is missing"),
    "no .hdr": (lambda f: without(f / "a.img", ".hdr"), "a.img cannot be read: the file a.hdr beside it is missing"),
    "raw .img": (
        lambda f: no_image(f, "a.hdr", b"ENVI\nlines = 3\n") and no_image(f, "a.img", bytes(99)),
        "a.img cannot be read: its header a.hdr is no header of NIfTI",
    ),
    "a pair named .nii": (
        lambda f: shutil.move(write(f / "a.hdr"), f / "a.nii") and f / "a.nii",
        "a.nii is named unlike its kind of NIfTI",
    ),
    "Analyze": (
        lambda f: analyze(f / "a.img").with_suffix(".hdr"),
        "a.hdr is an Analyze 7.5 image, which",
    ),
    "a text": (lambda f: no_image(f, "a.nii", b"no image"), "a.nii cannot be read: it is no image of a known kind"),
    "a text named .gz": (lambda f: no_image(f, "a.nii.gz", b"no image"), "it is no image of a known kind"),
    "a gzipped text": (lambda f: no_image(f, "a.nii.gz", gzip.compress(b"none")), "it is no image of a known kind"),
    "a picture": (lambda f: no_image(f, "a.png", b"\x89PNG\r\n\x1a\n" + bytes(99)), "it is no image of a known kind"),
    "an empty file": (lambda f: no_image(f, "a.nii", b""), r"a.nii is an empty file \(0 bytes\)"),
    "a folder in its place": (lambda f: folder_of(f / "a.nii.gz"), "a.nii.gz holds 0 DICOM series"),
    "a pipe": (lambda f: pipe(f / "a.nii"), "a.nii is no regular file; give the path of an image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_believed_is_refused_in_one_sentence(tmp_path, name):
    make, message = REFUSED[name]
    path = make(tmp_path)
    with pytest.raises(ValueError, match=message) as raised:
        read_image(path)
    assert str(path.parent) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("make", [loop, lambda f: f / "none.nii", lambda f: f / ("x" * 300 + ".nii")])
def test_what_is_not_there(tmp_path, make):
    with pytest.raises((FileNotFoundError, ValueError), match="does not exist|File name too long"):
        read_image(make(tmp_path))


def test_a_file_that_may_not_be_read(tmp_path):
    path = write(tmp_path / "a.nii")
    path.chmod(0)
    root = os.geteuid() == 0
    try:
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
        if root:
            os.seteuid(65534)
        with pytest.raises(ValueError, match="a.nii cannot be read: Permission denied; check the path and its permiss"):
            read_image(path)
    finally:
        if root:
            os.seteuid(0)


def test_files_of_an_image(tmp_path):
    """What a digest of an image must cover."""
    write(tmp_path / "a.hdr"), write(tmp_path / "b.nii.gz"), write(tmp_path / "A.HDR")
    assert image_files(tmp_path / "a.hdr") == [tmp_path / "a.hdr", tmp_path / "a.img"]
    assert image_files(tmp_path / "a.img") == [tmp_path / "a.img", tmp_path / "a.hdr"]
    assert image_files(tmp_path / "b.nii.gz") == [tmp_path / "b.nii.gz"]


def test_flipped_bits_never_end_in_a_traceback(tmp_path):
    """A header damaged at random: one sentence, or the image."""
    path = write(tmp_path / "a.nii")
    whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(400):
        content = bytearray(whole)
        content[random.integers(352)] ^= 1 << random.integers(8)
        path.write_bytes(content)
        try:
            assert read_image(path).GetSize() == (7, 6, 5)
        except ValueError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            refused += 1
    assert refused > 30
