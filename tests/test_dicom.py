"""DICOM series as they come from hospitals: each is read right, or refused in one sentence that says what to do."""

import shutil
import warnings

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import AXIAL, change, enhanced, series, slice_of, volume
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SegmentationStorage,
    generate_uid,
)

from mine_reg.images.reading import image_files, read_image

HU = volume()
LAST = len(HU) - 1
SPACING, ORIGIN = (2, 3, 4), (-10, -20, 30)


def at(k, step=(0, 0, 4)):
    return np.array(ORIGIN, float) + k * np.array(step, float)


def turned(angle, axis=0):
    """Row and column directions of an axial slice turned about x (0) or z (2)."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return (1, 0, 0, 0, c, s) if axis == 0 else (c, s, 0, -s, c, 0)


def only(number, **tags):
    """Tags for one slice of a series."""

    def edit(k, made):
        if k == number:
            for name, value in tags.items():
                setattr(made, name, value)

    return edit


def moved(number, by):
    return only(number, ImagePositionPatient=list(at(number) + by))


def positions(function):
    return lambda k, made: setattr(made, "ImagePositionPatient", [float(v) for v in function(k)])


def without(*numbers):
    return lambda k, made: k not in numbers


def removed(name):
    return lambda k, made: delattr(made, name)


def copied(folder, source, target):
    shutil.copy(folder / source, folder / target)
    return folder


def with_file(folder, name, content):
    (folder / name).write_bytes(content)
    return folder


def cut(folder, name, count):
    (folder / name).write_bytes((folder / name).read_bytes()[:-count])
    return folder


def cut_in_header(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:400])
    return folder


def nested(folder, *ks):
    """The slices ``ks`` in a folder below."""
    (folder / "more").mkdir()
    for k in ks:
        (folder / f"{k:03}.dcm").rename(folder / "more" / f"{k:03}.dcm")
    return folder


def two_series(folder):
    series(folder)
    return series(folder, names="b{:03}.dcm", SeriesInstanceUID="1.2.3.5", SeriesDescription="Topogram")


def frames(path, **arguments):
    return enhanced(path, HU, [at(k) for k in range(len(HU))], **arguments)


def legacy_multi_frame(path):
    def edit(made):
        for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            delattr(made, name)
        made.ImagePositionPatient, made.ImageOrientationPatient, made.PixelSpacing = list(ORIGIN), list(AXIAL), [3, 2]

    return frames(path, edit=edit)


def second_enhanced(folder):
    folder.mkdir()
    frames(folder / "a.dcm")
    frames(folder / "b.dcm")
    return folder


def lut(k, made):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [3, 0, 16], "HU", bytes(6)
    made.ModalityLUTSequence = Sequence([table])


# situation: (what makes it in a folder that is not there yet; what the user reads)
REFUSED = {
    "gantry tilted by 1 degree": (
        lambda f: series(f, step=(0, 4 * np.tan(np.radians(1)), 4)),
        "line that is 1 degrees off their normal, as with a tilted gantry, which moves the last slice by 0.349 mm; res",
    ),
    "gantry tilted by 15 degrees": (
        lambda f: series(f, ImageOrientationPatient=list(turned(15))),
        "is 15 degrees off their normal, as with a tilted gantry, .* resample the series to a rectangular grid first",
    ),
    "slices drift 0.5 mm in plane": (
        lambda f: series(f, step=(0.5, 0, 4)),
        "line that is 7.13 degrees off .* moves the last slice by 2.5 mm",
    ),
    "one slice beside the others": (
        lambda f: series(f, edit=moved(3, (0, 2, 0))),
        "are not on one line: 003.dcm lies 2 mm beside most of them; take out what does not belong",
    ),
    "a coronal slice": (
        lambda f: series(f, edit=only(2, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])),
        "cannot be used as one volume: 002.dcm is turned by 90 degrees against most slices; take out .* a coronal im",
    ),
    "the first slice coronal": (
        lambda f: series(f, edit=only(0, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])),
        "000.dcm is turned by 90 degrees against most",
    ),
    "a slice turned by 1 degree in its plane": (
        lambda f: series(
            f, hu=np.zeros((6, 40, 40), np.int16), edit=only(4, ImageOrientationPatient=list(turned(1, 2)))
        ),
        "004.dcm is turned in its plane against most slices",
    ),
    "a slice upside down": (
        lambda f: series(f, edit=only(4, ImageOrientationPatient=[1, 0, 0, 0, -1, 0])),
        "004.dcm is turned by 180 degrees",
    ),
    "a localizer of another size": (
        lambda f: series(
            f, edit=lambda k, made: made.update(slice_of(np.zeros((9, 9), np.int16), at(k))) if k == 2 else None
        ),
        "002.dcm has 9 x 9 pixels and most slices have 7 x 5 pixels; take out what does not belong",
    ),
    "a localizer": (
        lambda f: series(f, edit=only(2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        "002.dcm is a localizer, not a slice of the volume; take it out",
    ),
    "a slice of another pixel size": (
        lambda f: series(f, edit=only(2, PixelSpacing=[3, 2.1])),
        "002.dcm has pixels of 2.1 x 3 mm and most slices of 2 x 3 mm; take out",
    ),
    "no positions": (
        lambda f: series(f, edit=removed("ImagePositionPatient")),
        r"000.dcm does not say where its slice lies \(ImagePositionPatient is missing\); export the series with full",
    ),
    "one without a position": (
        lambda f: series(f, edit=only(4, ImagePositionPatient=None)),
        "004.dcm does not say where its slice lies",
    ),
    "no orientation": (
        lambda f: series(f, edit=removed("ImageOrientationPatient")),
        "000.dcm does not say how its slice is turned",
    ),
    "no pixel size": (lambda f: series(f, edit=removed("PixelSpacing")), "does not say how large its pixels are"),
    "pixel size 0": (lambda f: series(f, PixelSpacing=[0, 2]), "000.dcm has a damaged header: its PixelSpacing is not"),
    "position of two numbers": (
        lambda f: series(f, edit=only(1, ImagePositionPatient=[1, 2])),
        "001.dcm has a damaged header: ImagePositionPatient is no 3 finite numbers",
    ),
    "orientation that is no rotation": (
        lambda f: series(f, edit=only(1, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])),
        "001.dcm has a damaged header: ImageOrientationPatient is no two unit vectors at right angles",
    ),
    "a slice is missing": (
        lambda f: series(f, edit=without(3)),
        r"slices are 4 to 8 mm apart \(8 mm between 002.dcm and 004.dcm\), so some are missing.* give the complete",
    ),
    "irregular distances": (
        lambda f: series(f, edit=moved(3, (0, 0, 0.4))),
        "slices are 3.6 to 4.4 mm apart",
    ),
    "distances that change half way": (  # each step is within 5 % of the others, but slices are 0.5 mm off their place
        lambda f: series(
            f, np.zeros((20, 5, 7), np.int16), edit=positions(lambda k: at(k) + (0, 0, max(0, k - 10) / 5))
        ),
        "slices are 4 to 4.2 mm apart",
    ),
    "a copy of a slice": (
        lambda f: copied(series(f), "002.dcm", "002 (1).dcm"),
        r"with two slices at one place, 002( \(1\))?.dcm and 002( \(1\))?.dcm; take out the wrong or doubled one",
    ),
    "two breathing phases in one series": (
        lambda f: series(series(f), names="b{:03}.dcm"),
        "with 6 slices more than places for them, .* at one place among them; give one breathing phase",
    ),
    "two frames of reference": (
        lambda f: series(f, edit=only(5, FrameOfReferenceUID="1.2.9")),
        r"holds slices of 2 frames of reference \(004.dcm and 005.dcm\), whose positions cannot be compared",
    ),
    "two series": (
        two_series,
        r"holds 2 DICOM series \('Thorax 1.0' of 6 files \(CT\), 'Topogram' of 6 files \(CT\)\); give a folder w",
    ),
    "an MR series": (lambda f: series(f, Modality="MR"), "000.dcm is MR, not CT; give the folder of a CT series"),
    "an MR slice": (lambda f: series(f, edit=only(1, Modality="MR")), "001.dcm is MR, not CT"),
    "colour": (
        lambda f: series(f, np.zeros((6, 5, 7), np.uint8), SamplesPerPixel=3, PhotometricInterpretation="RGB"),
        r"000.dcm holds 3 values per pixel \(RGB\), not HU",
    ),
    "atomic numbers": (lambda f: series(f, RescaleType="Z_EFF"), "000.dcm holds values in Z_EFF, not in HU"),
    "HU by a table": (lambda f: series(f, edit=lut), r"000.dcm gives its HU by a table \(Modality LUT\)"),
    "slope 0": (lambda f: series(f, RescaleSlope=0), "000.dcm has a damaged header: its RescaleSlope is 0"),
    "a slice without intercept": (
        lambda f: series(f, RescaleIntercept=-1024, edit=only(3, RescaleIntercept=None)),
        "003.dcm has no rescale intercept and other slices have one",
    ),
    "12 bits packed": (
        lambda f: series(f, BitsAllocated=12, BitsStored=12, HighBit=11),
        "000.dcm stores values as bits 0 to 11 of 12, which cannot be read; export it with 16 bits",
    ),
    "a truncated slice": (
        lambda f: cut(series(f), "005.dcm", 10),
        "005.dcm is damaged: .* copy it again",
    ),
    "a slice cut within its header": (lambda f: cut_in_header(series(f), "005.dcm"), "005.dcm is .* copy it again"),
    "an empty slice at the end": (
        lambda f: with_file(series(f, edit=without(LAST)), "005.dcm", b""),
        "005.dcm is no DICOM file though it is named like the slices beside it; copy it again",
    ),
    "a slice that is noise": (
        lambda f: with_file(series(f, edit=without(LAST)), "005.dcm", bytes(range(256)) * 9),
        "005.dcm is no DICOM file though it is named like",
    ),
    "a slice without voxels": (
        lambda f: series(f, edit=lambda k, made: delattr(made, "PixelData") if k == 2 else None),
        "002.dcm is damaged: its voxels cannot be read",
    ),
    "fewer voxels than the header says": (
        lambda f: series(f, edit=only(2, PixelData=b"\0" * 60)),
        "002.dcm is damaged: it ends 10 bytes too early",
    ),
    "more frames than the header says": (
        lambda f: series(f, edit=only(2, PixelData=b"\0" * 140)),
        "002.dcm holds 70 bytes of voxels more than its header says",
    ),
    "part of the series in a folder below": (
        lambda f: nested(series(f), 4, 5),
        "holds a part of its series, and .*more more of it; put all into one folder",
    ),
    "the series in a folder below": (
        lambda f: nested(series(f), *range(6)),
        "holds 0 DICOM series; .*more holds some, give such a folder",
    ),
    "nothing": (lambda f: f.mkdir() or f, "holds 0 DICOM series; give a folder with exactly one"),
    "three slices": (lambda f: series(f, edit=without(3, 4, 5)), "has only 7 x 5 x 3 voxels"),
    "one slice in a folder": (lambda f: series(f, HU[:1]), "has only 7 x 5 x 1 voxels"),
    "the file of one slice": (
        lambda f: series(f) / "003.dcm",
        "003.dcm is a single DICOM slice; give the folder that holds the whole series",
    ),
    "DICOMDIR": (
        lambda f: f.mkdir() or shutil.copy(get_testdata_file("dicomdirtests/DICOMDIR"), f / "DICOMDIR"),
        "DICOMDIR is a DICOMDIR; give the folder that holds the slices",
    ),
    "a report": (
        lambda f: f.mkdir() or shutil.copy(get_testdata_file("reportsi.dcm"), f / "a.dcm"),
        "a.dcm is a DICOM file without an image; give the folder that holds the slices",
    ),
    "a segmentation object": (
        lambda f: frames(f.with_suffix(".dcm"), SOPClassUID=SegmentationStorage, Modality="SEG"),
        "is a DICOM segmentation object; export the mask as NIfTI or NRRD",
    ),
    "multi-frame without positions": (
        lambda f: legacy_multi_frame(f.with_suffix(".dcm")),
        "holds 6 frames and the positions of 0, so that the slices cannot be placed; export the series as single",
    ),
    "enhanced CT in two files": (second_enhanced, "holds 2 files, and a.dcm alone holds many slices; give it alone"),
    "enhanced CT with a gap": (
        lambda f: enhanced(f.with_suffix(".dcm"), HU, [at(k + (k > 3)) for k in range(6)]),
        r"slices are 4 to 8 mm apart \(8 mm between frame 4 of .*.dcm and frame 5 of",
    ),
    "enhanced CT of two phases": (
        lambda f: enhanced(f.with_suffix(".dcm"), HU, [at(k // 2) for k in range(6)]),
        "with 3 slices more than places for them, frame 1 of",
    ),
    "enhanced CT with a tilted gantry": (
        lambda f: frames(f.with_suffix(".dcm"), orientation=turned(10)),
        "10 degrees off their normal, as with a tilted gantry",
    ),
    "truncated enhanced CT": (
        lambda f: (
            cut(frames(f.with_suffix(".dcm")).parent, f.with_suffix(".dcm").name, 30) / f.with_suffix(".dcm").name
        ),
        ".dcm is damaged: .* copy it again",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_volume_is_refused_in_one_sentence(tmp_path, name):
    make, message = REFUSED[name]
    path = make(tmp_path / "ct")
    with pytest.raises(ValueError, match=message) as raised:
        read_image(path)
    assert str(tmp_path / "ct") in str(raised.value) and "\n" not in str(raised.value)
    assert str(raised.value).count(". ") == 0


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


def encoded(syntax):
    return lambda k, made: setattr(made.file_meta, "TransferSyntaxUID", syntax)


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


ORIENTATIONS = {
    "feet first": (1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": tuple(np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0][:, :2].T.ravel()),
    "written with 4 digits": tuple(np.round(turned(12), 4)),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
@pytest.mark.parametrize("descending", [False, True])
def test_every_voxel_lies_where_its_slice_says(tmp_path, name, descending):
    """Held against the standard's equation C.7.6.2.1-1 for the slice that holds the voxel, read with pydicom."""
    along = np.reshape(ORIENTATIONS[name], (2, 3))
    normal = np.cross(*along) * (-1 if descending else 1)
    series(
        tmp_path / "ct",
        edit=positions(lambda k: (np.array(ORIGIN) + 4 * k * normal).round(6)),
        ImageOrientationPatient=[float(f"{v:.10g}") for v in along.ravel()],
    )
    image = read_image(tmp_path / "ct")
    for path in (tmp_path / "ct").iterdir():
        header = pydicom.dcmread(path)
        row, column = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
        for i, j in ((0, 0), (6, 4), (3, 1)):
            where = np.array(header.ImagePositionPatient, float) + i * 2 * row + j * 3 * column
            index = image.TransformPhysicalPointToContinuousIndex(where.tolist())
            np.testing.assert_allclose(index, np.round(index), atol=2e-3)
            assert image[tuple(round(v) for v in index)] == header.pixel_array[j, i]


def test_slopes_that_are_no_whole_numbers(tmp_path):
    series(tmp_path / "ct", RescaleSlope=0.1, RescaleIntercept=-24.5)
    image = read_image(tmp_path / "ct")
    assert image.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_allclose(sitk.GetArrayViewFromImage(image), HU * 0.1 - 24.5, atol=1e-4)


def test_rounded_positions_are_no_gap(tmp_path):
    """0.625 mm apart, written to a tenth: steps of 0.6 and 0.7 mm."""
    hu = volume((33, 5, 7))
    series(tmp_path / "ct", hu, edit=positions(lambda k: (0, 0, round(0.625 * k, 1))))
    assert read_image(tmp_path / "ct").GetSpacing()[2] == pytest.approx(0.625, abs=0.002)


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


def test_truncated_compressed_slice_is_refused(tmp_path):
    (tmp_path / "ct").mkdir()
    for k in range(4):
        made = pydicom.dcmread(get_testdata_file("MR_small_jp2klossless.dcm"))
        made.Modality, made.ImagePositionPatient, made.ImageOrientationPatient = "CT", [0, 0, 5 * k], list(AXIAL)
        del made[0xFFFC, 0xFFFC]  # padding after the voxels
        made.save_as(tmp_path / "ct" / f"{k}.dcm")
    whole = (tmp_path / "ct" / "2.dcm").read_bytes()
    for count in (9, 20, 100, 2000):  # the last 8 bytes only say that the voxels end
        (tmp_path / "ct" / "2.dcm").write_bytes(whole[:-count])
        with pytest.raises(ValueError, match="2.dcm is a DICOM file that is cut off; export or copy it again"):
            read_image(tmp_path / "ct")


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


def test_flipped_bytes_of_a_header_never_end_in_a_traceback(tmp_path):
    """A slice whose header is damaged at random is refused in one sentence, or read with nothing moved."""
    series(tmp_path / "ct")
    path, random = tmp_path / "ct" / "002.dcm", np.random.default_rng(0)
    whole, refused = path.read_bytes(), 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[random.integers(128, len(whole) - 80)] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            image = read_image(tmp_path / "ct")
        except ValueError as error:
            assert "\n" not in str(error) and str(tmp_path / "ct") in str(error)
            refused += 1
            continue
        assert image.GetSize() == (7, 5, 6)
        np.testing.assert_allclose(image.GetSpacing(), SPACING, atol=0.01)
        np.testing.assert_allclose(image.GetOrigin(), ORIGIN, atol=0.01)
    assert refused > 50


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
