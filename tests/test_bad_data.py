"""Bad data of every kind is named in one sentence by `check_manifest`, and the study refuses what is unusable."""

import re

import numpy as np
import pytest
import SimpleITK as sitk
from bad_pairs import (
    A,
    Bad,
    as_dicom,
    as_meta_image,
    body,
    edit,
    edit_array,
    edit_bytes,
    first_voxels,
    manifest_row,
    move_origin,
    rewrite,
    shifted,
    spaced,
    swap,
    table,
    warning,
)
from bad_tables import BAD_TABLES
from test_check import change, write_tiny_pairs

from mine_reg.pairs.check import check_manifest
from mine_reg.pairs.manifest import ManifestError, read_manifest
from mine_reg.pairs.preprocess import preprocess

SETTINGS = {
    "size": [10, 10, 10],
    "spacing_mm": 35.0,
    "window_hu": [-1000, 500],
    "start": "centre_of_mass",
    "split": {"train": 1, "validation": 1, "test": 1},
    "seed": 0,
    "workers": 1,
}


@pytest.fixture
def data(tmp_path):
    """The folder of three good pairs a, b and c and their manifest.csv."""
    (tmp_path / "data").mkdir()
    write_tiny_pairs(tmp_path / "data")
    return tmp_path / "data"


SHEARED = (-25, 9, 0, 0, 0, -25, 0, 0, 0, 0, 25, 0)  # the three rows of a NIfTI header that place the voxels
KINDS = {
    # files
    "truncated gzip": Bad(
        lambda d: (d / A).write_bytes((d / A).read_bytes()[:-300]), "a_fixed.nii.gz is damaged: Compressed"
    ),
    "truncated within the header": Bad(
        lambda d: (d / A).write_bytes((d / A).read_bytes()[:60]),
        "a_fixed.nii.gz is damaged: Compressed file ended",
    ),
    "no image": Bad(
        lambda d: (d / A).write_text("no image"),
        "a_fixed.nii.gz cannot be read: it is no image of a known kind.* give NIfTI, NRRD, MetaImage",
    ),
    "zero bytes": Bad(
        lambda d: (d / A).write_bytes(b""), r"a_fixed.nii.gz is an empty file \(0 bytes\); export or copy"
    ),
    "zero bytes as mask": Bad(
        lambda d: (d / "a_moving_mask.nii.gz").write_bytes(b""), "a_moving_mask.nii.gz is an empty file"
    ),
    "missing file": table(
        manifest_row("moving", moving="gone.nii"), r"row 2 \(pair a\): moving '.*gone.nii' does not exist"
    ),
    "path outside the folder": table(
        manifest_row("moving", moving="../../etc/a.nii"), r"row 2 \(pair a\): moving .* does not"
    ),
    "directory without DICOM": Bad(
        manifest_row("fixed", fixed="."), "data holds 0 DICOM series; give a folder with exactly"
    ),
    "two DICOM series": Bad(
        lambda d: as_dicom(d, series=2),
        r"a_fixed holds 2 DICOM series \('0_000.dcm' of 14 files \(CT\), .* exactly one",
    ),
    "DICOM series without a slice": Bad(
        lambda d: as_dicom(d, skip=(5,)), "a_fixed holds .* slices are 25 to 50 mm apart"
    ),
    "DICOM slices unevenly apart": Bad(
        lambda d: as_dicom(d, positions=[25 * k + 8 * (k > 6) for k in range(14)]),
        "a_fixed holds .* slices are 25 to 33 mm apart.* give the complete series",
    ),
    "DICOM slice twice": Bad(
        lambda d: as_dicom(d, positions=[25 * k - 25 * (k > 6) for k in range(14)]),
        "a_fixed holds .* two slices at one place, 0_006.dcm and 0_007.dcm; take out the wrong or doubled",
    ),
    # voxels
    "RGB": Bad(
        lambda d: edit_array(d, A, lambda a: np.stack([a] * 3, -1).clip(0, 255), np.uint8, isVector=True),
        "a_fixed.nii.gz holds a vector of 3 values per voxel; give a scalar image",
    ),
    "complex": Bad(
        lambda d: edit_array(d, A, lambda a: a, np.complex64), "a_fixed.nii.gz holds a complex .* scalar image"
    ),
    "4D": Bad(
        lambda d: edit(d, A, lambda image: sitk.JoinSeries([image] * 2)),
        r"a_fixed.nii.gz has 4 dimensions \(12 x 13 x 14 x 2\); give a file with a single 3D volume",
    ),
    "2D": Bad(lambda d: edit(d, A, lambda image: image[:, :, 3]), "a_fixed.nii.gz has 2 dimensions"),
    "one slice": Bad(
        lambda d: edit(d, A, lambda image: image[:, :, 3:4]), "a_fixed.nii.gz has only 12 x 13 x 1 voxels"
    ),
    "NaN": Bad(
        lambda d: edit_array(d, A, lambda a: np.where(a > 500, np.nan, a)),
        "a_fixed.nii.gz holds 28 voxels that are NaN",
    ),
    "infinity": Bad(
        lambda d: edit_array(d, A, lambda a: np.where(a > 500, np.inf, a)), "holds 28 voxels that are NaN or infin"
    ),
    "all air": Bad(
        lambda d: edit_array(d, A, lambda a: 0 * a - 1000), "a_fixed.nii.gz has no voxel above -500 HU, .* CT in HU"
    ),
    # headers
    "spacing 0": Bad(
        lambda d: edit_bytes(d, A, 80, "f", 0), r"a_fixed.nii.gz has the spacing 0 x 25 x 25 in its header"
    ),
    "negative spacing": Bad(
        lambda d: edit_bytes(d, A, 84, "f", -25), r"has the spacing 25 x -25 x 25 .* write the size of a voxel"
    ),
    "spacing NaN": Bad(lambda d: edit_bytes(d, A, 88, "f", np.nan), "has the spacing 25 x 25 x nan in its header"),
    "absurd spacing": Bad(
        lambda d: edit(d, A, lambda image: spaced(image, 25000)), "voxels of 25000 x 25 x 25 mm, which no CT .* in mm"
    ),
    "two spacings": Bad(
        lambda d: edit_bytes(d, A, 80, "f", 2.5),
        "a_fixed.nii.gz has voxels of 25 x 25 x 25 mm by its sform and of 2.5 x 25 x 25 mm by its pixdim; mend",
    ),
    "spacing 0 in MetaImage": Bad(
        lambda d: as_meta_image(d, "ElementSpacing = 25 0 25"),
        "a_fixed.mha cannot be read: the spacing in its header is not above 0",
    ),
    "sheared NIfTI": Bad(
        lambda d: edit_bytes(d, A, 252, "2h6f12f", 0, 1, *[0] * 6, *SHEARED),
        "a_fixed.nii.gz cannot be used: the axes in its header are not at right angles; .* resample",
    ),
    "sheared MetaImage": Bad(
        lambda d: as_meta_image(d, "TransformMatrix = 1 0.5 0 0 1 0 0 0 1\nElementSpacing = 25 25 25"),
        "a_fixed.mha cannot be used: the axes in its header are not at right angles",
    ),
    "direction of zeros": Bad(
        lambda d: as_meta_image(d, "TransformMatrix = 0 0 0 0 0 0 0 0 0\nElementSpacing = 25 25 25"),
        "a_fixed.mha cannot be read: the axes in its header are not at right angles",
    ),
    # masks
    "empty mask": Bad(
        lambda d: edit_array(d, "a_fixed_mask.nii.gz", lambda a: 0 * a), "fixed_mask .* is empty; it must mark the l"
    ),
    "mask all ones": Bad(
        lambda d: edit_array(d, "a_fixed_mask.nii.gz", lambda a: 0 * a + 1), "fixed_mask .* marks every voxel"
    ),
    "mask on another grid": Bad(
        lambda d: edit(d, "a_moving_mask.nii.gz", lambda image: shifted(image, [0, 9, 0])),
        "moving_mask .* is on another grid than moving .*; resample it to its image",
    ),
    "mask of another size": Bad(
        lambda d: edit(d, "a_moving_mask.nii.gz", lambda image: image[1:]),
        "moving_mask .* is on another grid than .*: 11 x 13 x 14 voxels .* against 12 x 13 x 14",
    ),
    "4D mask": Bad(
        lambda d: edit(d, "a_fixed_mask.nii.gz", lambda image: sitk.JoinSeries([image] * 2)), "_mask.nii.gz has 4 dim"
    ),
    **BAD_TABLES,
    # what can be used, and is probably wrong
    "a point outside": warning(
        lambda d: rewrite(d, lambda t: t.replace("65.0,", "900.0,"), name="a_fixed_points.csv"),
        "row 2 .*a_fixed_points.csv: 1 of 4 points lie outside .*a_fixed.nii.gz; give LPS mm",
    ),
    "MR": warning(
        lambda d: edit_array(d, A, lambda a: (a + 1000) / 4 + 3), "row 2 .*has values from .* is it MR, or rescaled"
    ),
    "rescaled to 0..1": warning(
        lambda d: edit_array(d, A, lambda a: ((a + 1000) / 1500).clip(0, 1)), "values from 0 to 1, but a CT"
    ),
    "HU + 1024": warning(
        lambda d: edit_array(d, A, lambda a: (a + 1024).clip(0), np.uint16),
        "a_fixed.nii.gz has values from .* look like HU . 1024, so subtract 1024",
    ),
    "swapped": warning(swap, "row 2 .*fixed and moving look swapped"),
    "the same file twice": warning(
        lambda d: change(d / "manifest.csv", moving=A), "fixed .* and moving .* are the same image"
    ),
    "a copy of the file": warning(
        lambda d: (d / "a_moving.nii.gz").write_bytes((d / A).read_bytes()), "are the same image; give"
    ),
    "one mask for both": warning(
        lambda d: change(d / "manifest.csv", moving_mask="a_fixed_mask.nii.gz"),
        "fixed_mask .* and moving_mask .* are the same, though the images differ",
    ),
    "no overlap": warning(
        lambda d: move_origin(d, [0, 0, 900]), "hardly overlap at the start .* preprocess.start: centre_of_mass"
    ),
    "mask of the body": warning(
        lambda d: edit_array(d, "a_fixed_mask.nii.gz", body), "fixed_mask .* marks .* litres, and lungs have 0.5 to 12"
    ),
    "mask of one corner": warning(
        lambda d: edit_array(d, "a_fixed_mask.nii.gz", first_voxels), "fixed_mask .* marks 0.125 litres"
    ),
    "mask of something else": warning(
        lambda d: edit_array(d, "a_fixed_mask.nii.gz", lambda a: np.roll(a, 2, 2)),
        "fixed_mask .* has a mean of .* HU .* check that it belongs to this image",
    ),
    "few slices": warning(
        lambda d: [edit(d, f"a_fixed{end}.nii.gz", lambda i: i[:, :, 3:9]) for end in ("", "_mask")],
        r"a_fixed.nii.gz has very few slices \(12x13x6 voxels\)",
    ),
    "unknown column": warning(manifest_row("scanner", scanner="X"), "unknown column scanner ignored"),
}


@pytest.mark.parametrize("name", KINDS)
def test_check_says_it_in_one_sentence(data, name):
    bad = KINDS[name]
    bad.make(data)
    _, problems, warnings = check_manifest(data / "manifest.csv", workers=1)
    found = warnings if bad.refused_by == "nobody" else problems
    matching = [sentence for sentence in found if re.search(bad.message, sentence)]
    assert len(matching) >= 1, f"problems {problems}, warnings {warnings}"
    assert not any("\n" in sentence for sentence in found)
    if bad.refused_by == "nobody":
        assert problems == []
    elif bad.refused_by == "images":
        assert len(problems) == 1


@pytest.mark.parametrize("name", [name for name, bad in KINDS.items() if bad.refused_by == "table"])
def test_table_is_refused(data, name):
    bad = KINDS[name]
    bad.make(data)
    with pytest.raises(ManifestError, match=bad.message) as raised:
        read_manifest(data / "manifest.csv")
    assert str(raised.value).startswith(f"{data / 'manifest.csv'}")
    assert str(raised.value).count("\n") == (len(raised.value.problems) if len(raised.value.problems) > 1 else 0)


@pytest.mark.parametrize("name", [name for name, bad in KINDS.items() if bad.refused_by == "images"])
def test_pair_is_refused_and_nothing_half_written_stays(data, tmp_path, name):
    bad = KINDS[name]
    bad.make(data)
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    with pytest.raises(ValueError, match=bad.message) as raised:
        preprocess(read_manifest(data / "manifest.csv"), tmp_path / "out", **SETTINGS)
    assert str(raised.value).startswith("pair a: ") and "\n" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out.partial"]
    assert sorted(path.name for path in (tmp_path / "out.partial").iterdir()) == ["b", "c"]  # for the next run
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


@pytest.mark.filterwarnings("ignore:.*unknown column")
@pytest.mark.parametrize("name", ["nothing", *[name for name, bad in KINDS.items() if bad.refused_by == "nobody"]])
def test_what_check_lets_pass_can_be_preprocessed(data, tmp_path, name):
    if name != "nothing":
        KINDS[name].make(data)
    assert len(preprocess(read_manifest(data / "manifest.csv"), tmp_path / "out", **SETTINGS)) == 3


def test_good_dicom_series_is_read(data):
    as_dicom(data)
    found, problems, warnings = check_manifest(data / "manifest.csv", workers=1)
    assert problems == [] and warnings == []
    assert found.iloc[0, 1:].astype(str).equals(found.iloc[1, 1:].astype(str))
