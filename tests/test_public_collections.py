"""Public collections become manifests, with landmarks where they belong; all that is wrong with a folder is said."""

import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from collection_folders import (
    LANDMARKS,
    MM,
    SIZE,
    SPACING,
    STORED,
    VOXELS,
    build,
    dirlab,
    empire10,
    learn2reg,
    write_points,
    write_scan,
)

from mine_reg.images.geometry import same_grid
from mine_reg.images.points import read_points
from mine_reg.images.reading import read_image
from mine_reg.pairs.collection_layouts import COLLECTIONS, Case
from mine_reg.pairs.manifest import read_manifest
from mine_reg.pairs.public_collections import make_manifest


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """DIR-Lab's volumes at a size for tests, and lungs in them without having to look like lungs."""
    for name in ("dirlab_4dct", "dirlab_copdgene"):
        source = COLLECTIONS[name]
        raw = source.raw._replace(cases=dict.fromkeys(source.raw.cases, Case(SIZE, SPACING)))
        monkeypatch.setitem(COLLECTIONS, name, source._replace(raw=raw))
    monkeypatch.setattr(
        "mine_reg.pairs.public_collections.lung_mask", lambda image: sitk.Cast(image < -1000, sitk.sitkUInt8)
    )


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_collection_becomes_a_manifest_whose_masks_and_points_fit(collection, tmp_path):
    frame = make_manifest(collection, build(collection, tmp_path / "in"), tmp_path / "some" / "out")
    assert frame.equals(read_manifest(tmp_path / "some" / "out" / "manifest.csv"))
    for row in frame.itertuples():
        for side in ("fixed", "moving"):
            image, mask = read_image(getattr(row, side)), read_image(getattr(row, f"{side}_mask"))
            assert same_grid(image, mask) and sitk.GetArrayFromImage(mask).any()
            if collection != "empire10":
                assert len(read_points(getattr(row, f"{side}_points"))) > 0
        assert row.fixed != row.moving
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["out"]  # nothing temporary stays


def test_learn2reg_indices_become_mm_and_landmarks_go_before_keypoints(tmp_path):
    frame = make_manifest("l2r_lungct", learn2reg(tmp_path / "in"), tmp_path / "out").set_index("pair_id")
    assert list(frame.index) == ["LungCT_0001", "LungCT_0002", "LungCT_0003", "LungCT_0004"]
    np.testing.assert_allclose(read_points(frame.fixed_points["LungCT_0002"]), MM, atol=1e-4)
    np.testing.assert_allclose(read_points(frame.moving_points["LungCT_0001"]), MM[:1], atol=1e-4)
    assert frame.fixed["LungCT_0004"] == str(tmp_path / "in/imagesTs/LungCT_0004_0000.nii.gz")
    assert frame.moving_mask["LungCT_0001"] == str(tmp_path / "in/masksTr/LungCT_0001_0001.nii.gz")


def test_learn2reg_split_is_given_only_when_all_three_are_there(tmp_path):
    whole = make_manifest("l2r_lungct", learn2reg(tmp_path / "in"), tmp_path / "out")
    assert list(whole.split) == ["train", "validation", "train", "test"]
    part = make_manifest("l2r_nlst", learn2reg(tmp_path / "part", "NLST", present=(1, 2)), tmp_path / "out2")
    assert list(part.pair_id) == ["NLST_0001", "NLST_0002"]
    assert "split" not in (tmp_path / "out2/manifest.csv").read_text().splitlines()[0]


def test_learn2reg_folder_may_be_the_one_above_and_points_may_be_absent(tmp_path):
    folder = learn2reg(tmp_path / "in/LungCT", present=(4,))
    shutil.rmtree(folder / "keypointsTs")
    shutil.rmtree(folder / "landmarksTs")
    frame = make_manifest("l2r_lungct", tmp_path / "in", tmp_path / "out")
    assert frame.fixed_points.item() == frame.moving_points.item() == ""


@pytest.mark.parametrize("collection", ["dirlab_4dct", "dirlab_copdgene"])
def test_dirlab_is_turned_into_hu_with_landmarks_counted_from_one(collection, tmp_path):
    folder = dirlab(tmp_path / "in", collection, cases=(1,))
    fixed = next(path for path in folder.rglob("*.img") if "T00" in path.name or "iBH" in path.name)
    stored = STORED.copy()
    stored[0, 0, 1], stored[1, 2, 3] = -2000, 1100  # outside the field of view; 76 HU at x 3, y 2, z 1
    stored.tofile(fixed)
    row = make_manifest(collection, folder, tmp_path / "out").iloc[0]
    image = read_image(row.fixed)
    assert image.GetSize() == SIZE and image.GetPixelID() == sitk.sitkInt16
    assert image[0, 0, 0] == -1024 and image[1, 0, 0] == -1024 and image[3, 2, 1] == 76
    np.testing.assert_allclose(image.GetSpacing(), SPACING)
    np.testing.assert_allclose(image.GetDirection(), (1, 0, 0, 0, 1, 0, 0, 0, -1), atol=1e-6)
    assert read_image(row.moving)[0, 0, 0] == -1023  # the other phase
    # the first voxel lies at the origin; by hand: 2 (3 - 1), 3 (2 - 1), -4 (4 - 1)
    np.testing.assert_allclose(read_points(row.fixed_points)[:2], [(0, 0, 0), (4, 3, -12)], atol=1e-4)
    index = image.TransformPhysicalPointToIndex(read_points(row.fixed_points)[1])
    assert index == (2, 1, 3)


def test_published_sizes_give_the_published_bytes(monkeypatch):
    monkeypatch.undo()  # the facts themselves; bytes of one phase as the unpacked archives have them
    dct, copd = (COLLECTIONS[name].raw.cases for name in ("dirlab_4dct", "dirlab_copdgene"))
    assert list(dct) == list(copd) == list(range(1, 11))
    expected = {
        4: 12_976_128,
        5: 13_893_632,
        6: 67_108_864,
        7: 71_303_168,
        8: 67_108_864,
        9: 67_108_864,
        10: 62_914_560,
    }
    assert {case: 2 * int(np.prod(dct[case].size)) for case in expected} == expected
    assert dct[2] == Case((256, 256, 112), (1.16, 1.16, 2.5)) and copd[10] == Case((512, 512, 135), (0.742, 0.742, 2.5))


def test_every_archive_of_dirlab_is_recognised(tmp_path):
    frame = make_manifest("dirlab_4dct", dirlab(tmp_path / "in", "dirlab_4dct"), tmp_path / "out")
    assert list(frame.pair_id) == list(frame.subject_id) == ["case1", "case2", "case8", "case10"]


def refuse(collection, folder, out, *messages):
    with pytest.raises(ValueError) as info:
        make_manifest(collection, folder, out)
    for message in messages:
        assert re.search(message, str(info.value)), f"{message!r} is not in {info.value}"
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}-*"))
    return str(info.value)


def test_all_problems_of_dirlab_are_said_at_once(tmp_path):
    folder = dirlab(tmp_path / "in", "dirlab_4dct")
    truncated = folder / "Case1Pack/Images/case1_T00_s.img"
    truncated.write_bytes(truncated.read_bytes()[:-2])
    write_points(folder / "Case2Pack/ExtremePhases/Case2_300_T00_xyz.txt", LANDMARKS[:299], " ")
    write_points(folder / "Case2Pack/ExtremePhases/Case2_300_T50_xyz.txt", [*LANDMARKS[:299], (7, 5, 4)], " ")
    write_points(folder / "Case8Deploy/extremePhases/case8_dirLab300_T00_xyz.txt", [(0, 1, 1), *LANDMARKS[1:]], " ")
    (folder / "Case8Deploy/extremePhases/case8_dirLab300_T50_xyz.txt").write_text("index\n300\n1 1 1\n")
    (folder / "Case10Pack/Images/case10_T50.img").unlink()
    shutil.copy(folder / "Case10Pack/Images/case10_T00.img", folder / "Case10Pack/Images/case10_T00_s.img")
    text = refuse(
        "dirlab_4dct",
        folder,
        tmp_path / "out",
        r"case1_T00_s.img has 238 bytes, 6 x 5 x 4 int16 voxels have 240; unpack",
        r"Case2_300_T00_xyz.txt lists 299 landmarks, not 300",
        r"Case2_300_T50_xyz.txt, row 300: the voxel 7, 5, 4 lies outside the image, as do 1 of 300",
        r"case8_dirLab300_T00_xyz.txt, row 1: the voxel 0, 1, 1 lies outside",
        r"case8_dirLab300_T50_xyz.txt cannot be read as rows of x, y and z",
        r"in holds no case10_T50\*.img, but other files of the case",
        r"case10_T00.img and .*case10_T00_s.img are all case10_T00\*.img; keep one",
    )
    assert len(text.splitlines()) == 8


def test_a_volume_without_lungs_is_named(tmp_path, monkeypatch):
    def none(image):
        raise ValueError("found only 0.00 litres of air")

    monkeypatch.setattr("mine_reg.pairs.public_collections.lung_mask", none)
    text = refuse(
        "dirlab_copdgene",
        dirlab(tmp_path / "in", "dirlab_copdgene"),
        tmp_path / "out",
        r"copd1_iBHCT.img: no lungs were found \(found only 0.00 litres of air\)",
        "copd10_eBHCT.img: no lungs",
    )
    assert len(text.splitlines()) == 5


def test_all_problems_of_learn2reg_are_said_at_once(tmp_path):
    folder = learn2reg(tmp_path / "in")
    (folder / "masksTr/LungCT_0001_0001.nii.gz").unlink()
    write_points(folder / "landmarksTr/LungCT_0002_0000.csv", [(0, 0, 0), (1, 2, 4)])
    write_scan(folder / "masksTr/LungCT_0003_0000.nii.gz", np.uint8, 1, origin=(0, 0, 0))
    write_scan(folder / "masksTr/LungCT_0003_0001.nii.gz", np.uint8, 0)
    write_points(folder / "landmarksTs/LungCT_0004_0001.csv", VOXELS[:2])
    text = refuse(
        "l2r_lungct",
        folder,
        tmp_path / "out",
        r"masksTr/LungCT_0001_0001.nii.gz is missing; add it, or take the files of LungCT_0001 away",
        r"landmarksTr/LungCT_0002_0000.csv, row 2: the voxel 1, 2, 4 lies outside the image, as do 1 of 2",
        r"masksTr/LungCT_0003_0000.nii.gz is not on the voxel grid of .*imagesTr/LungCT_0003_0000.nii.gz",
        r"masksTr/LungCT_0003_0001.nii.gz is empty",
        r"LungCT_0004_0000.csv and .*LungCT_0004_0001.csv do not list equally many points",
    )
    assert len(text.splitlines()) == 6


def test_learn2reg_json_that_is_another_one_is_refused(tmp_path):
    path = learn2reg(tmp_path / "in") / "LungCT_dataset.json"
    path.write_text('{"training": []}')
    refuse("l2r_lungct", path.parent, tmp_path / "out", "has none of the keys training_paired_images, registration_val")
    path.write_text("{")
    refuse("l2r_lungct", path.parent, tmp_path / "out", "LungCT_dataset.json cannot be read as JSON")
    mixed = {"fixed": "./imagesTr/LungCT_0001_0000.nii.gz", "moving": "./imagesTr/LungCT_0002_0001.nii.gz"}
    path.write_text(json.dumps({"registration_val": [{"fixed": "./imagesTr/x.nii.gz"}, mixed]}))
    refuse(
        "l2r_lungct",
        path.parent,
        tmp_path / "out",
        "registration_val: .* does not name fixed and moving",
        "LungCT_0001_0000.nii.gz and LungCT_0002_0001.nii.gz are of two subjects",
    )


def test_empire10_says_what_is_missing_or_damaged(tmp_path):
    folder = empire10(tmp_path / "in")
    (folder / "scans/01_Moving.mhd").unlink()
    raw = folder / "scans/07_Fixed.raw"
    raw.write_bytes(raw.read_bytes()[:10])
    refuse(
        "empire10",
        folder,
        tmp_path / "out",
        "scans/07_Fixed.mhd is damaged",
        "scans/01_Moving.mhd is missing; add it, or take the files of empire10_01",
    )


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_an_empty_folder_is_refused_with_the_layout(collection, tmp_path):
    (tmp_path / "in").mkdir()
    refuse(collection, tmp_path / "in", tmp_path / "out", "in holds no pair; expected is .*(_dataset.json|img|mhd)")


def test_unknown_collection_and_missing_folder(tmp_path):
    refuse("popi", tmp_path, tmp_path / "out", "'popi' is no collection; give one of l2r_lungct, l2r_nlst, dirlab_4dct")
    refuse("empire10", tmp_path / "none", tmp_path / "out", "none is no folder; give the one")


def test_only_what_was_made_here_is_replaced_and_only_on_success(tmp_path):
    folder, out = empire10(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    make_manifest("empire10", folder, out)  # an empty folder may be there
    for name in ("scans", "lungMasks"):
        for path in (folder / name).glob("01_*"):
            path.unlink()
    assert list(make_manifest("empire10", folder, out).pair_id) == ["empire10_07"]
    write_scan(folder / "lungMasks/07_Fixed.mhd", np.uint8, 0)
    with pytest.raises(ValueError, match="07_Fixed.mhd is empty"):
        make_manifest("empire10", folder, out)
    assert list(read_manifest(out / "manifest.csv").pair_id) == ["empire10_07"]

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "manifest.csv").write_text("pair_id,fixed,moving,fixed_mask,moving_mask\n")
    with pytest.raises(ValueError, match="mine holds files that are not from here; give a new or an empty folder"):
        make_manifest("empire10", folder, mine)
    with pytest.raises(ValueError, match="holds the collection itself"):
        make_manifest("empire10", folder, tmp_path)
    assert (mine / "manifest.csv").read_text().startswith("pair_id")
