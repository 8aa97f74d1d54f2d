"""Preprocessing puts every pair on one grid without moving anything in physical space, and survives bad pairs."""

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from mine_reg.images.geometry import voxels_to_points
from mine_reg.pairs.manifest import ManifestError, read_manifest
from mine_reg.pairs.preprocess import preprocess
from mine_reg.pairs.preprocessed import load_pair, read_pairs
from mine_reg.storage.results import MARK

FIXED_GRID = ((50, 44, 40), (3.0, 3.0, 4.0), [5, -10, 3])  # size, spacing, degrees about the axes
MOVING_GRID = ((40, 52, 44), (4.0, 2.5, 3.5), [-8, 4, 12])
CENTRE = np.array([30.0, -160.0, 700.0])  # mm, where the body is
SETTINGS = {
    "size": [24, 20, 22],
    "spacing_mm": 6.0,
    "window_hu": [-1000, 500],
    "start": "scanner",
    "split": {"train": 1, "validation": 1, "test": 1},
    "seed": 1,
    "workers": 1,
}


def grid(size, spacing, degrees, centre=CENTRE):
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing(spacing)
    image.SetDirection(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix().ravel())
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in size])
    image.SetOrigin(centre - np.array(middle))
    return image


def painted(header, function, dtype=np.int16):
    """An image whose voxel at the point p, in LPS mm (N, 3), is function(p)."""
    size = header.GetSize()[::-1]
    points = voxels_to_points(np.indices(size).reshape(3, -1).T, header).numpy()
    image = sitk.GetImageFromArray(np.asarray(function(points)).reshape(size).astype(dtype))
    image.CopyInformation(header)
    return image


def ramp(points):
    """HU linear in space: linear interpolation gives it back at any point."""
    return (points - CENTRE) @ [3.0, -2.0, 4.0] - 200


def ellipsoid(centre, radii=(35, 30, 40)):
    return lambda points: (((points - centre) / np.array(radii)) ** 2).sum(1) < 1


@pytest.fixture
def write_pair(tmp_path):
    """Write one pair: the same object seen on two oblique, anisotropic grids; returns its row."""

    def write(pair_id, image=ramp, offset=(0.0, 0.0, 0.0), **columns):
        row = {"pair_id": pair_id}
        for name, header in (("fixed", grid(*FIXED_GRID)), ("moving", grid(*MOVING_GRID))):
            header.SetOrigin(np.array(header.GetOrigin()) + (np.array(offset) if name == "moving" else 0))
            shift = np.array(offset) if name == "moving" else np.zeros(3)
            row[name], row[f"{name}_mask"] = f"{pair_id}_{name}.nii.gz", f"{pair_id}_{name}_mask.nrrd"
            sitk.WriteImage(painted(header, lambda p, s=shift: image(p - s)), str(tmp_path / row[name]))
            left_and_right = painted(header, lambda p, s=shift: ellipsoid(CENTRE + s)(p) * (1 + (p[:, 0] > CENTRE[0])))
            sitk.WriteImage(left_and_right, str(tmp_path / row[f"{name}_mask"]))
        return row | columns

    return write


@pytest.fixture
def run(tmp_path):
    def run(*rows, out="out", **settings):
        pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)
        counts = {"split": {"train": len(rows) - 2, "validation": 1, "test": 1}}
        return preprocess(read_manifest(tmp_path / "manifest.csv"), tmp_path / out, **(SETTINGS | counts | settings))

    return run


def test_both_images_are_on_the_grid_and_stay_in_place(write_pair, run, tmp_path):
    table = run(*(write_pair(name) for name in "abc"))
    assert table["split"].value_counts().to_dict() == {"train": 1, "validation": 1, "test": 1}
    pair = load_pair(tmp_path / "out", "a")
    assert pair.image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1) and pair.spacing_mm == (6.0, 6.0, 6.0)
    centre = pair.image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in pair.image.GetSize()])
    np.testing.assert_allclose(centre, CENTRE, atol=1e-3)
    inside = np.abs(np.indices((24, 20, 22)) - np.array([11.5, 9.5, 10.5])[:, None, None, None]).max(0) < 7
    points = voxels_to_points(np.argwhere(inside), pair.image).numpy()
    for image in (pair.fixed, pair.moving):
        assert image.shape == (1, 24, 20, 22)
        hu = image[0].numpy()[inside] * 1500 - 1000
        np.testing.assert_allclose(hu, ramp(points).clip(-1000, 500), atol=1.5)  # int16 twice


def test_masks_keep_their_volume_and_all_labels_count(write_pair, run, tmp_path):
    run(*(write_pair(name) for name in "abc"))
    pair = load_pair(tmp_path / "out", "b")
    expected = 4 / 3 * np.pi * 35 * 30 * 40
    for mask in (pair.fixed_mask, pair.moving_mask):
        assert set(mask.unique().tolist()) == {0, 1}
        assert mask.sum().item() * 6**3 == pytest.approx(expected, rel=0.02)
    both = (pair.fixed_mask * pair.moving_mask).sum()
    assert 2 * both / (pair.fixed_mask.sum() + pair.moving_mask.sum()) > 0.97
    assert pair.fixed_mask_observer2 is None and pair.fixed_points is None


def test_outside_of_scan_and_field_of_view_is_air(write_pair, run, tmp_path):
    def scan(points):
        return np.where(ellipsoid(CENTRE, (60, 60, 60))(points), 3000, -3024)

    run(*(write_pair(name, scan) for name in "abc"), size=[40, 40, 60])
    pair = load_pair(tmp_path / "out", "a")
    assert pair.fixed[0, 20, 20, 30] == 1 and pair.moving[0, 20, 20, 30] == 1
    assert pair.fixed[0, 0].max() == 0 and pair.fixed[0, 20, 20, 0] == 0 and pair.fixed.min() == 0


def test_points_follow_the_images_and_those_outside_the_grid_go(write_pair, run, tmp_path):
    fixed_points = CENTRE + np.array([[0, 0, 0], [6, -12, 18], [500, 0, 0]])
    pd.DataFrame(fixed_points, columns=list("xyz")).to_csv(tmp_path / "f.csv", index=False)
    pd.DataFrame(fixed_points + [3, 0, 0], columns=list("xyz")).to_csv(tmp_path / "m.csv", index=False)
    points = {"fixed_points": "f.csv", "moving_points": "m.csv"}
    run(*(write_pair(name, **points) for name in "abc"))
    pair = load_pair(tmp_path / "out", "a")
    middle = np.array([11.5, 9.5, 10.5])
    np.testing.assert_allclose(pair.fixed_points, [middle, middle + [3, -2, 1]], atol=1e-4)
    np.testing.assert_allclose(pair.moving_points - pair.fixed_points, [[0, 0, 0.5]] * 2, atol=1e-4)


def test_start_at_the_centre_of_mass(write_pair, run, tmp_path):
    offset = np.array([220.0, -35.0, 410.0])
    pd.DataFrame([CENTRE], columns=list("xyz")).to_csv(tmp_path / "f.csv", index=False)
    pd.DataFrame([CENTRE + offset], columns=list("xyz")).to_csv(tmp_path / "m.csv", index=False)

    def body(points):
        return np.where(ellipsoid(CENTRE + [5, 0, 0], (45, 40, 50))(points), 40, -1000)

    rows = [write_pair(name, body, offset, fixed_points="f.csv", moving_points="m.csv") for name in "abc"]
    with pytest.raises(ValueError, match="pair a: .*a_moving_mask.nrrd has nothing inside the grid .* centre_of_mass"):
        run(*rows)
    table = run(*rows, start="centre_of_mass")
    np.testing.assert_allclose(table.loc[0, ["start_x", "start_y", "start_z"]].astype(float), -offset, atol=0.3)
    pair = load_pair(tmp_path / "out", table.iloc[0])
    np.testing.assert_allclose(pair.moving_points, pair.fixed_points, atol=0.1)
    np.testing.assert_allclose(pair.fixed.mean(), pair.moving.mean(), rtol=0.02)
    assert (pair.fixed - pair.moving).abs().mean() < 0.01


def test_coarser_grids_average_instead_of_picking(write_pair, run, tmp_path):
    """White noise of 100 HU on 3 x 3 x 4 mm: 12 mm voxels hold about 43 of them, so little of it may be left."""

    def noise(points):
        return np.random.default_rng(0).normal(-300, 100, len(points))

    run(*(write_pair(name, noise) for name in "abc"), spacing_mm=12.0, size=[8, 8, 8])
    inner = load_pair(tmp_path / "out", "a").fixed[0, 2:6, 2:6, 2:6] * 1500 - 1000
    assert inner.mean().item() == pytest.approx(-300, abs=5)
    assert inner.std().item() < 20  # picking, that is linear interpolation alone, leaves about 50


def test_distance_to_the_lungs_comes_from_the_fixed_image_alone(write_pair, run, tmp_path):
    def chest(points):
        """A lung of 4.7 litres, of which the masks know nothing."""
        return np.where(
            ellipsoid(CENTRE, (56, 50, 62))(points), np.where(ellipsoid(CENTRE, (44, 42, 52))(points), -850, 40), -1000
        )

    rows = [write_pair(name, chest if name != "c" else ramp) for name in "abc"]
    run(*rows)
    pair = load_pair(tmp_path / "out", "a")
    distance = pair.fixed_lung_distance_mm[0].numpy()
    points = voxels_to_points(np.indices(distance.shape).reshape(3, -1).T, pair.image).numpy()
    inside, wall = (ellipsoid(CENTRE, radii)(points).reshape(distance.shape) for radii in ((36, 34, 44), (52, 48, 60)))
    assert (distance[inside] == 0).all() and distance[~wall].min() > 0
    assert np.abs(distance - np.rint(distance)).max() == 0 and distance.max() > 20
    assert (load_pair(tmp_path / "out", "c").fixed_lung_distance_mm == 0).all()  # no lungs found: all counts


def contents(folder):
    """Every file's bytes, but for the mark, which holds times."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARK)
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_number_of_processes_does_not_change_a_byte(write_pair, run, tmp_path):
    rows = [write_pair(name) for name in "abcd"]
    run(*rows, out="one")
    run(*rows, out="two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert {path.suffix for path in contents(tmp_path / "one")} == {".gz", ".csv", ".json"}
    assert not list(tmp_path.glob("*.partial"))


def test_bad_pairs_are_all_named_and_the_others_kept_for_the_next_run(write_pair, run, tmp_path):
    rows = [write_pair(name) for name in "abcd"]
    good = (tmp_path / "b_fixed.nii.gz").read_bytes()
    sitk.WriteImage(sitk.Image((9, 9, 9), sitk.sitkUInt8), str(tmp_path / "d_fixed_mask.nrrd"))
    (tmp_path / "b_fixed.nii.gz").write_bytes(good[:-99])
    with pytest.raises(ValueError) as raised:
        run(*rows, workers=2)
    lines = str(raised.value).splitlines()
    assert lines[0] == "2 of 4 pairs cannot be used:"
    assert lines[1].startswith("  pair b:") and "b_fixed.nii.gz is damaged" in lines[1]
    assert lines[2].startswith("  pair d:") and "is on another grid than fixed" in lines[2]
    assert not (tmp_path / "out").exists()

    work = tmp_path / "out.partial"
    assert sorted(path.name for path in work.iterdir()) == ["a", "c"]
    before = (work / "a" / "fixed.nii.gz").stat().st_mtime_ns
    (tmp_path / "b_fixed.nii.gz").write_bytes(good)
    assert len(run(*[row for row in rows if row["pair_id"] != "d"])) == 3
    assert (tmp_path / "out" / "a" / "fixed.nii.gz").stat().st_mtime_ns == before
    made = sorted(path.name for path in (tmp_path / "out").iterdir() if path.name != MARK)
    assert made == ["a", "b", "c", "pairs.csv", "settings.json"]
    assert not work.exists()


def test_another_window_makes_other_contents_of_the_same_names(write_pair, run, tmp_path):
    rows = [write_pair(name) for name in "abc"]
    first = run(*rows, out="one")
    other = run(*rows, out="two", window_hu=(-1000, 400))
    assert first["pair_id"].equals(other["pair_id"]) and (first["contents"] != other["contents"]).all()


def test_a_run_killed_while_it_wrote_the_table_stops_no_later_one(write_pair, run, tmp_path):
    (tmp_path / "out.partial").mkdir()
    for name in ("pairs.csv", "settings.json"):  # where earlier versions wrote them
        (tmp_path / "out.partial" / name).write_text("pair_id")
    (tmp_path / "out.partial/gone").mkdir()
    assert len(run(*[write_pair(name) for name in "abc"])) == 3
    assert not (tmp_path / "out.partial").exists()


def test_files_of_others_in_the_folder_stay(write_pair, run, tmp_path):
    rows = [write_pair(name) for name in "abcd"]
    run(*rows)
    (tmp_path / "out/notes.txt").write_text("mine")
    run(*rows[1:])
    made = sorted(path.name for path in (tmp_path / "out").iterdir() if path.name != MARK)
    assert made == ["b", "c", "d", "notes.txt", "pairs.csv", "settings.json"]


def test_other_settings_are_not_mixed_with_kept_pairs(write_pair, run, tmp_path):
    rows = [write_pair(name) for name in "abc"]
    (tmp_path / "c_moving.nii.gz").rename(tmp_path / "away")
    (tmp_path / "c_moving.nii.gz").write_text("no image")
    with pytest.raises(ValueError, match="pair c: .*c_moving.nii.gz cannot be read"):
        run(*rows)
    (tmp_path / "away").rename(tmp_path / "c_moving.nii.gz")
    run(*rows, size=[12, 12, 12])
    assert {tuple(load_pair(tmp_path / "out", name).fixed.shape) for name in "abc"} == {(1, 12, 12, 12)}


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"size": [64, 64]}, "preprocess.size must be three whole numbers"),
        ({"size": [64, 64, 0.5]}, "preprocess.size must be three whole numbers"),
        ({"spacing_mm": 0}, "preprocess.spacing_mm must be above 0"),
        ({"window_hu": [500, -1000]}, "preprocess.window_hu must be two rising numbers"),
        ({"start": "somewhere"}, "preprocess.start must be one of scanner, centre_of_mass, not 'somewhere'"),
    ],
)
def test_settings_that_make_no_sense(setting, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        preprocess(pd.DataFrame(), tmp_path / "out", **(SETTINGS | setting))
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_left_alone(write_pair, run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds files that are not preprocessed pairs"):
        run(*(write_pair(name) for name in "abc"), out="mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_the_manifests_own_split_wins(write_pair, run):
    rows = [write_pair(name, split=split) for name, split in zip("abc", ("test", "train", "validation"), strict=True)]
    assert run(*rows, split={"train": 9})["split"].tolist() == ["test", "train", "validation"]


def test_reading_what_is_not_there(write_pair, run, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pairs.csv"):
        read_pairs(tmp_path)
    run(*(write_pair(name, split=split) for name, split in zip("abc", ("test", "train", "validation"), strict=True)))
    assert read_pairs(tmp_path / "out", "test")["pair_id"].tolist() == ["a"]
    with pytest.raises(ValueError, match="has no pair in split 'tests'"):
        read_pairs(tmp_path / "out", "tests")
    with pytest.raises(ValueError, match="has no pair 'z'"):
        load_pair(tmp_path / "out", "z")
    with pytest.raises(ManifestError, match="does not exist"):
        run({"pair_id": "a", "fixed": "gone.nii", "moving": "gone.nii", "fixed_mask": "g", "moving_mask": "g"})
