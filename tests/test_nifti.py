"""NIfTI files under all their names: read as nibabel reads them, or refused in one sentence."""

import gzip
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from mine_reg.images.reading import image_files, read_image

HU = np.random.default_rng(0).integers(-1000, 1500, (7, 6, 5)).astype(np.int16)  # x, y, z
AFFINE = np.array([[-2.0, 0, 0, 10], [0, 3, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]])  # RAS
OBLIQUE = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.2, -0.1, 0.3)) @ AFFINE
NAMES = ("a.nii", "a.nii.gz", "a.hdr", "a.img", "a.hdr.gz", "a.NII", "A.NII.GZ", "a.HDR", "no_ending")


def write(path, array=HU, affine=AFFINE, kind=nibabel.Nifti1Image, **fields):
    """A NIfTI file with fields of its header as given; scl_slope and scl_inter too, which nibabel would choose."""
    end = next((end for end in (".hdr", ".img", ".hdr.gz", ".img.gz") if path.name.lower().endswith(end)), "")
    pairs = {nibabel.Nifti1Image: nibabel.Nifti1Pair, nibabel.Nifti2Image: nibabel.Nifti2Pair}
    image = (pairs[kind] if end else kind)(array, affine)
    image.header.set_xyzt_units("mm")
    plain = path.with_name("w.hdr" if end else "w.nii")
    image.to_filename(plain)
    edit(plain, **fields)
    packed = gzip.compress if path.name.lower().endswith(".gz") else bytes
    if not end:
        path.write_bytes(packed(plain.read_bytes()))
    else:
        stem, zipped = path.name[: -len(end)], path.name[len(path.name) - len(end) + 4 :]
        for part in (".hdr", ".img"):
            name = stem + (part.upper() if path.name[-len(end) :].isupper() else part) + zipped
            path.with_name(name).write_bytes(packed(plain.with_suffix(part).read_bytes()))
            plain.with_suffix(part).unlink()
    plain.unlink(missing_ok=True)
    return path


def edit(path, **fields):
    content = path.read_bytes()
    kind = nibabel.Nifti2Header if int.from_bytes(content[:4], "little") == 540 else nibabel.Nifti1Header
    size = kind.template_dtype.itemsize
    header = kind(content[:size], check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + content[size:])
    return path


def voxels_of(path) -> Path:
    """The file that holds the voxels."""
    return image_files(path)[-1] if path.name.lower().endswith((".hdr", ".hdr.gz")) else path


def cut(path, count):
    voxels = voxels_of(path)
    content = voxels.read_bytes()
    packed = content[:2] == b"\x1f\x8b"
    voxels.write_bytes(gzip.compress(gzip.decompress(content)[:-count]) if packed else content[:-count])
    return path


def hold(image, array=HU, affine=AFFINE):
    """Voxels and places are those of nibabel."""
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(image).T, array)
    for index in ((0, 0, 0), (6, 5, 4), (1, 4, 2)):
        expected = (affine @ [*index, 1])[:3] * [-1, -1, 1]
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), expected, atol=2e-4)


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


def big_endian(path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nibabel.Nifti1Image(HU, AFFINE, header).to_filename(path)
    return path


def members(path):
    """gzip in two members, as bgzip and parallel programs write it."""
    content = gzip.decompress(write(path).read_bytes())
    path.write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    return path


def extended(path):
    image = nibabel.Nifti1Image(HU, AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"somebody's notes" * 5))
    image.to_filename(path)
    return path


def unpacked(path):
    """Unpacked on its way, its name as before."""
    path.write_bytes(gzip.decompress(write(path).read_bytes()))
    return path


def appended(path, content):
    path.write_bytes(write(path).read_bytes() + content)
    return path


def qform_only(path, array=HU, affine=AFFINE, **fields):
    """As the standard's method 2."""
    image = nibabel.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(None)
    image.to_filename(path)
    return edit(path, **fields) if fields else path


def both_forms(path, qform):
    image = nibabel.Nifti1Image(HU, AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(qform, 1)
    image.to_filename(path)
    return path


def shifted(mm):
    return AFFINE + np.array([[0, 0, 0, mm], [0] * 4, [0] * 4, [0] * 4])


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
