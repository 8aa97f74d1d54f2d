"""DICOM slices that are no volume, or would be moved if read as one: refused in one sentence that says what to do."""

import shutil

import numpy as np
import pydicom
import pytest
from dicom_files import (
    HU,
    ORIGIN,
    at,
    enhanced,
    frames,
    moved,
    only,
    positions,
    removed,
    series,
    slice_of,
    turned,
    volume,
    without,
)

from mine_reg.images.reading import read_image


def copied(folder, source, target):
    shutil.copy(folder / source, folder / target)
    return folder


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
    "two acquisitions, one shifted by half a step": (
        lambda f: series(f, volume((12, 5, 7)), edit=lambda k, made: setattr(made, "AcquisitionNumber", 1 + k % 2)),
        r"holds a DICOM series of several acquisitions at the same heights \(1 and 2\); give the slices of one",
    ),
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
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_volume_is_refused_in_one_sentence(tmp_path, name):
    make, message = REFUSED[name]
    path = make(tmp_path / "ct")
    with pytest.raises(ValueError, match=message) as raised:
        read_image(path)
    assert str(tmp_path / "ct") in str(raised.value) and "\n" not in str(raised.value)
    assert str(raised.value).count(". ") == 0


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


def test_rounded_positions_are_no_gap(tmp_path):
    """0.625 mm apart, written to a tenth: steps of 0.6 and 0.7 mm."""
    hu = volume((33, 5, 7))
    series(tmp_path / "ct", hu, edit=positions(lambda k: (0, 0, round(0.625 * k, 1))))
    assert read_image(tmp_path / "ct").GetSpacing()[2] == pytest.approx(0.625, abs=0.002)
