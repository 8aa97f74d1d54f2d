"""NRRD and MetaImage: what their headers say and ITK passes over is refused in one sentence; what is whole is read."""

import gzip
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from plain_files import HU, flipped, hold, meta, nrrd, without_data, write

from mine_reg.images.reading import image_files, read_image

NAMES = ("a.nrrd", "a.nhdr", "a.mha", "a.mhd")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_form_is_read_or_noticed_to_be_damaged(tmp_path, capfd, name, packed):
    path = write(tmp_path / name, packed)
    hold(read_image(path))
    assert len(image_files(path)) == (2 if name in ("a.nhdr", "a.mhd") else 1)
    voxels = image_files(path)[-1]
    whole = voxels.read_bytes()
    for count in (1, 2, 9, 100, len(whole) - 20 if voxels != path else 200):
        voxels.write_bytes(whole[:-count])
        with pytest.raises(ValueError, match=f"{name} is damaged: ") as raised:
            read_image(path)
        assert "\n" not in str(raised.value)
    if packed:
        voxels.write_bytes(whole)
        with pytest.raises(ValueError, match=f"{name} (is damaged|cannot be read): ") as raised:
            read_image(flipped(path, -40))
        assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")  # nothing printed by the library


@pytest.mark.parametrize("name", NAMES)
def test_numbers_that_are_none(tmp_path, name):
    array = HU.astype(np.float32)
    array[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=f"{name} holds 1 voxels that are NaN or infinite"):
        read_image(write(tmp_path / name, array=array))


READ = {
    "NRRD in RAS": lambda f: nrrd(
        f / "a.nrrd", space="RAS", **{"space directions": "(-2,0,0) (0,-3,0) (0,0,4)", "space origin": "(-7,-8,9)"}
    ),
    "NRRD with units": lambda f: nrrd(f / "a.nrrd", space_units='"mm" "mm" "mm"'),
    "NRRD of one component": lambda f: nrrd(
        f / "a.nrrd",
        dimension=4,
        sizes="1 7 6 5",
        kinds="vector domain domain domain",
        space_directions="none (2,0,0) (0,3,0) (0,0,4)",
    ),
    "NRRD of one volume": lambda f: nrrd(
        f / "a.nrrd",
        dimension=4,
        sizes="7 6 5 1",
        kinds="domain domain domain list",
        space_directions="(2,0,0) (0,3,0) (0,0,4) none",
    ),
    "NRRD packed by hand": lambda f: nrrd(f / "a.nrrd", data=gzip.compress(HU.tobytes()), encoding="gz"),
    "NRRD with comments and keys": lambda f: nrrd(f / "a.nrrd", **{"# old min": 3, "Segment0:=lung; old min": 3}),
    "MetaImage with ElementSize alone": lambda f: meta(f / "a.mha", ElementSpacing=None, ElementSize="2 3 4"),
    "MetaImage with neutral scaling": lambda f: meta(
        f / "a.mha", ElementToIntensityFunctionSlope=1, ElementToIntensityFunctionOffset=0
    ),
    "MetaImage with mm": lambda f: meta(f / "a.mha", DistanceUnits="mm"),
    "MetaImage packed by hand": lambda f: meta(
        f / "a.mha",
        data=zlib.compress(HU.tobytes()),
        CompressedData=True,
        CompressedDataSize=len(zlib.compress(HU.tobytes())),
    ),
    "MetaImage packed by gzip": lambda f: meta(
        f / "a.mha",
        data=gzip.compress(HU.tobytes()),
        CompressedData=True,
        CompressedDataSize=len(gzip.compress(HU.tobytes())),
    ),
    "MetaImage with a header to skip": lambda f: (
        (f / "a.raw").write_bytes(b"12345" + HU.tobytes())
        and meta(f / "a.mhd", data=b"", ElementDataFile="a.raw", HeaderSize=5)
    ),
    "MetaImage with voxels at the end": lambda f: (
        (f / "a.raw").write_bytes(b"12345" + HU.tobytes())
        and meta(f / "a.mhd", data=b"", ElementDataFile="a.raw", HeaderSize=-1)
    ),
    "MetaImage, big endian": lambda f: meta(f / "a.mha", HU.astype(">i2"), BinaryDataByteOrderMSB=True),
}


def test_a_metaimage_that_does_not_say_how_its_axes_lie_is_read_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"a\.mha does not say how its axes lie \(TransformMatrix in its header\)"):
        hold(read_image(meta(tmp_path / "a.mha", TransformMatrix=None)))


@pytest.mark.parametrize("name", READ)
def test_voxels_and_their_places_are_right(tmp_path, name):
    found = read_image(READ[name](tmp_path))
    hold(found)
    assert found.GetPixelID() == sitk.sitkInt16


REFUSED = {
    "NRRD in centimetres": (
        lambda f: nrrd(f / "a.nrrd", space_units='"cm" "cm" "cm"'),
        "a.nrrd gives lengths in cm; write mm into its header, with the lengths to match",
    ),
    "NRRD quantised": (lambda f: nrrd(f / "a.nrrd", old_min=-1000), r"a.nrrd holds quantised values \(old min"),
    "NRRD without orientation": (
        lambda f: nrrd(f / "a.nrrd", space=None, space_directions=None, space_origin=None, spacings="2 3 4"),
        r"a.nrrd does not say how its voxels lie in space \(space in its header\); write left-posterior-superior",
    ),
    "NRRD in the scanner's axes": (
        lambda f: nrrd(f / "a.nrrd", space="scanner-xyz"),
        "does not say how its voxels lie",
    ),
    "NRRD of space dimension 3": (
        lambda f: nrrd(f / "a.nrrd", space=None, space_dimension=3),
        "does not say how its voxels lie",
    ),
    "NRRD with two directions": (
        lambda f: nrrd(f / "a.nrrd", space_directions="(2,0,0) (0,3,0) none"),
        "a.nrrd needs three space directions of three finite numbers",
    ),
    "NRRD with NaN in a direction": (
        lambda f: nrrd(f / "a.nrrd", space_directions="(2,0,0) (0,nan,0) (0,0,4)"),
        "needs three space directions",
    ),
    "NRRD with NaN in the origin": (
        lambda f: nrrd(f / "a.nrrd", space_origin="(7,nan,9)"),
        "needs a space origin of three finite",
    ),
    "sheared NRRD": (
        lambda f: nrrd(f / "a.nrrd", space_directions="(2,0,0) (0.2,3,0) (0,0,4)"),
        "a.nrrd cannot be used: the axes in its header are not at right angles",
    ),
    "NRRD as text": (
        lambda f: nrrd(f / "a.nrrd", data=b"1 2 3", encoding="ascii"),
        "a.nrrd holds its voxels in the encoding ascii, in which damage goes unnoticed or .* write it raw or gzip",
    ),
    "NRRD in bzip2": (lambda f: nrrd(f / "a.nrrd", encoding="bzip2"), "in the encoding bzip2, .* write it raw or gzip"),
    "NRRD longer than its sizes": (
        lambda f: nrrd(f / "a.nrrd", sizes="7 6 4"),
        "a.nrrd holds 84 bytes more than the size in its header asks for",
    ),
    "packed NRRD longer than its sizes": (
        lambda f: nrrd(f / "a.nrrd", data=gzip.compress(HU.tobytes()), sizes="7 6 4", encoding="gzip"),
        "a.nrrd holds 84 bytes more",
    ),
    "NRRD of vectors": (
        lambda f: nrrd(
            f / "a.nrrd",
            dimension=4,
            sizes="7 6 1 5",
            kinds="vector domain domain domain",
            space_directions="none (2,0,0) (0,3,0) (0,0,4)",
        ),
        "a.nrrd holds a vector of 16-bit signed integer per voxel",
    ),
    "NRRD without its voxels": (lambda f: without_data(f / "a.nhdr"), "a.nhdr keeps its voxels in a.raw, which is not"),
    "NRRD cut in its header": (
        lambda f: (f / "a.nrrd").write_bytes(nrrd(f / "a.nrrd").read_bytes()[:60]) and f / "a.nrrd",
        "a.nrrd .*header",
    ),
    "MetaImage in centimetres": (
        lambda f: meta(f / "a.mha", DistanceUnits="cm"),
        "a.mha gives lengths in cm; write",
    ),
    "scaled MetaImage": (
        lambda f: meta(f / "a.mha", ElementToIntensityFunctionSlope=2),
        r"a.mha asks for its values to be scaled \(ElementToIntensityFunctionSlope = 2\), .* write the HU themselves",
    ),
    "shifted MetaImage": (lambda f: meta(f / "a.mha", ElementToIntensityFunctionOffset=-1024), "to be scaled"),
    "MetaImage without spacing": (
        lambda f: meta(f / "a.mha", ElementSpacing=None),
        "a.mha does not say how large its voxels are; write ElementSpacing, in mm, into its header",
    ),
    "MetaImage of spacing 0": (
        lambda f: meta(f / "a.mha", ElementSpacing="2 0 4"),
        "its header is not above 0",
    ),
    "MetaImage of negative spacing": (lambda f: meta(f / "a.mha", ElementSpacing="2 -3 4"), "is not above 0"),
    "MetaImage with a decimal comma": (
        lambda f: meta(f / "a.mha", ElementSpacing="2,5 3 4"),
        "a.mha has a damaged header: ElementSpacing must be 3 finite numbers",
    ),
    "MetaImage with two spacings": (
        lambda f: meta(f / "a.mha", ElementSpacing="2 3"),
        "ElementSpacing must be 3 finite",
    ),
    "MetaImage with NaN in the origin": (lambda f: meta(f / "a.mha", Offset="7 nan 9"), "Offset must be 3 finite numb"),
    "MetaImage with NaN in a direction": (
        lambda f: meta(f / "a.mha", TransformMatrix="1 0 0 0 nan 0 0 0 1"),
        "TransformMatrix must be 9 finite",
    ),
    "MetaImage as text": (
        lambda f: meta(f / "a.mha", data=b"1 2 3", BinaryData=False),
        "a.mha holds its voxels as text, in which damage goes unnoticed; write it binary",
    ),
    "MetaImage with a header inside": (
        lambda f: meta(f / "a.mha", HeaderSize=5),
        "a.mha has a HeaderSize of 5 in its header, which cannot be followed",
    ),
    "MetaImage in several files": (
        lambda f: meta(f / "a.mhd", data=b"a0.raw\na1.raw\n", ElementDataFile="LIST"),
        r"a.mhd keeps its voxels in several files \(ElementDataFile = LIST\); write one file",
    ),
    "MetaImage in numbered files": (
        lambda f: meta(f / "a.mhd", data=b"", ElementDataFile="a%02d.raw 0 5 1"),
        "a.mhd keeps its voxels in several files",
    ),
    "packed MetaImage of unknown length": (
        lambda f: meta(f / "a.mha", data=zlib.compress(HU.tobytes()), CompressedData=True),
        "a.mha is damaged: CompressedDataSize says nothing, and [0-9]* bytes are there",
    ),
    "MetaImage without its voxels": (
        lambda f: without_data(f / "a.mhd"),
        "a.mhd keeps its voxels in a.raw, which is no",
    ),
    "MetaImage longer than its size": (
        lambda f: meta(f / "a.mha", DimSize="7 6 4"),
        "a.mha holds 84 bytes more than the size in its header asks for",
    ),
    "MetaImage of long numbers named as shorter ones": (
        lambda f: meta(f / "a.mha", HU.astype(np.int64), ElementType="MET_LONG"),
        "a.mha holds 840 bytes more",
    ),
    "4D MetaImage": (
        lambda f: meta(
            f / "a.mha",
            np.stack([HU] * 2),
            NDims=4,
            DimSize="7 6 5 2",
            ElementSpacing="2 3 4 1",
            Offset="7 8 9 0",
            TransformMatrix=None,
        ),
        r"a.mha has 4 dimensions \(7 x 6 x 5 x 2\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_believed_is_refused_in_one_sentence(tmp_path, capfd, name):
    make, message = REFUSED[name]
    path = make(tmp_path)
    with pytest.raises(ValueError, match=message) as raised:
        read_image(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_voxels_alone_are_no_image(tmp_path):
    write(tmp_path / "a.mhd")
    with pytest.raises(ValueError, match="a.raw cannot be read: it is no image of a known kind"):
        read_image(tmp_path / "a.raw")
