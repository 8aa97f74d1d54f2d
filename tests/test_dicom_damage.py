"""DICOM files that are damaged, of another kind, or not all there: refused in one sentence that says what to do."""

import shutil

import numpy as np
import pydicom
import pytest
from dicom_files import (
    AXIAL,
    HU,
    LAST,
    ORIGIN,
    SPACING,
    encoded,
    frames,
    only,
    series,
    without,
)
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import SegmentationStorage

from mine_reg.images.reading import read_image


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
    "an unknown way to store voxels": (
        lambda f: series(f, edit=encoded("1.2.840.113619.5.2.99")),
        r"000.dcm stores its voxels in a way that is not known \(1.2.840.113619.5.2.99\); export it uncompressed",
    ),
    "a link to nothing": (
        lambda f: (series(f, edit=without(LAST)) / "005.dcm").symlink_to("gone.dcm") or f,
        "005.dcm is a link to a file that is not there; fetch or copy the files of the series",
    ),
    "two people with one series number": (
        lambda f: series(f, edit=lambda k, made: setattr(made, "StudyInstanceUID", "1.2.9") if k > 2 else None),
        "holds 2 DICOM series",
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
