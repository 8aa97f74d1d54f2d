"""`check_manifest` says what the pairs hold, every problem of every row, and warns only where both sides are clear."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from mine_reg.images.ct import blood_hu
from mine_reg.images.geometry import to_image
from mine_reg.pairs.check import check_manifest
from mine_reg.synthetic.phantom import make_pair

SPACING, ORIGIN = (25.0, 25.0, 25.0), (-137.5, -150.0, 100.0)
LUNGS_VOXELS = {"fixed": 336, "moving": 294}


def tiny_ct(name: str) -> tuple[np.ndarray, np.ndarray]:
    """HU and lung mask (14, 13, 12) of a chest made of boxes; with contrast agent when ``name`` is "fixed"."""
    hu, mask = np.full((14, 13, 12), -1000.0), np.zeros((14, 13, 12), np.uint8)
    hu[:, 1:12, 1:11] = 40
    hu[:, 10, 5:7] = 600  # spine
    first = 3 if name == "fixed" else 4
    hu[first:11, 3:10, 5:7] = 220 if name == "fixed" else 45
    for side in (slice(2, 5), slice(7, 10)):
        mask[first:11, 3:10, side] = 1
    hu[mask > 0] = -800
    hu += np.random.default_rng(first).normal(0, 5, hu.shape)
    return hu, mask


def write_tiny_pairs(folder: Path) -> Path:
    """A manifest of three good pairs a, b and c with masks and points; returns its path."""
    points = np.array([[-60.0, 0, 250], [60, 10, 260], [-70, -20, 300], [65, 30, 220]])
    rows = []
    for pair in "abc":
        row = {"pair_id": pair}
        for name in ("fixed", "moving"):
            hu, mask = tiny_ct(name)
            files = {name: f"{pair}_{name}.nii.gz", f"{name}_mask": f"{pair}_{name}_mask.nii.gz"}
            for file, array in zip(files.values(), (hu, mask), strict=True):
                sitk.WriteImage(to_image(array, SPACING, ORIGIN, dtype="int16"), str(folder / file))
            row |= files | {f"{name}_points": f"{pair}_{name}_points.csv"}
            own = points + ([0, 3, 4] if name == "moving" else [0, 0, 0])
            pd.DataFrame(own, columns=list("xyz")).to_csv(folder / row[f"{name}_points"], index=False)
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


@pytest.fixture
def manifest(tmp_path):
    return write_tiny_pairs(tmp_path)


def change(manifest: Path, **values) -> None:
    """Set columns of the first row."""
    table = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    for column, value in values.items():
        if column not in table:
            table[column] = ""
        table.loc[0, column] = value
    table.to_csv(manifest, index=False)


def test_good_pairs_are_described_and_nothing_is_said(manifest):
    table, problems, warnings = check_manifest(manifest, workers=1)
    assert problems == [] and warnings == []
    row = table.iloc[0]
    assert table["pair_id"].tolist() == ["a", "b", "c"]
    assert row.fixed_size == "12x13x14" and row.moving_spacing_mm == "25x25x25"
    low, high = map(float, row.fixed_hu.split(" to "))
    assert -1030 < low < -1000 and 600 < high < 630
    for name, count in LUNGS_VOXELS.items():
        assert row[f"{name}_lungs_l"] == pytest.approx(count * 25**3 / 1e6)
    assert row.dsc == pytest.approx(2 * 294 / (336 + 294))
    assert (row.points, row.fixed_inside, row.moving_inside) == (4, 4, 4)
    assert row.tre_mm == pytest.approx(5)


def test_overlap_is_that_of_physical_space(manifest, tmp_path):
    """The moving scan with its axes turned over and its origin at the other end lies where it was."""
    for name in ("a_moving.nii.gz", "a_moving_mask.nii.gz"):
        image = sitk.ReadImage(str(tmp_path / name))
        sitk.WriteImage(sitk.PermuteAxes(sitk.Flip(image, (True, False, True)), (2, 0, 1)), str(tmp_path / name))
    table, problems, warnings = check_manifest(manifest, workers=1)
    assert table["dsc"][0] == pytest.approx(table["dsc"][1]) and table["moving_size"][0] == "14x12x13"
    assert table["moving_lungs_l"][0] == pytest.approx(table["moving_lungs_l"][1])
    assert problems == [] and warnings == []


def test_every_problem_of_every_row_is_listed(manifest, tmp_path):
    change(manifest, moving_mask="gone.nii.gz", fixed_mask_observer2="a_fixed.csv", subject_id="s")
    (tmp_path / "a_fixed.nii.gz").write_bytes(b"")
    (tmp_path / "a_fixed.csv").write_text("no mask")
    (tmp_path / "a_moving_points.csv").write_text("x,y,z\n1,2,3\n")
    for name in ("c_fixed_mask.nii.gz", "c_moving_mask.nii.gz"):
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / name)) * 0, str(tmp_path / name))
    table, problems, _ = check_manifest(manifest, workers=1)
    expected = [
        ("row 2 (pair a): moving_mask", "does not exist"),
        ("row 2 (pair a)", "a_fixed.nii.gz is an empty file"),
        ("row 2 (pair a)", "a_fixed.csv cannot be read"),
        ("row 2 (pair a)", "row i of one must correspond"),
        ("row 4 (pair c): fixed_mask", "is empty"),
        ("row 4 (pair c): moving_mask", "is empty"),
    ]
    assert len(problems) == len(expected)
    for problem, (start, part) in zip(problems, expected, strict=True):
        assert problem.startswith(start) and part in problem and "\n" not in problem
    assert np.isnan(table["dsc"][0]) and table["moving_size"][0] == "12x13x14" and table["dsc"][1] > 0.9


def test_number_of_processes_does_not_matter(manifest, tmp_path):
    (tmp_path / "b_moving.nii.gz").write_text("no image")
    one, two = check_manifest(manifest, workers=1), check_manifest(manifest, workers=2)
    pd.testing.assert_frame_equal(one[0], two[0])
    assert one[1:] == two[1:] and len(one[1]) == 1


def test_contrast_is_seen_only_where_both_sides_are_clear(manifest, tmp_path):
    """Swapped columns warn; a moving scan with contrast agent beside a fixed one that has it too does not."""
    change(
        manifest,
        fixed="b_moving.nii.gz",
        fixed_mask="b_moving_mask.nii.gz",
        moving="b_fixed.nii.gz",
        moving_mask="b_fixed_mask.nii.gz",
    )
    assert [w for w in check_manifest(manifest, workers=1)[2] if "look swapped" in w]
    noisy = tiny_ct("fixed")[0] + 1
    sitk.WriteImage(to_image(noisy, SPACING, ORIGIN, dtype="int16"), str(tmp_path / "a_fixed.nii.gz"))
    change(manifest, fixed="a_fixed.nii.gz", fixed_mask="a_fixed_mask.nii.gz")
    assert not [w for w in check_manifest(manifest, workers=1)[2] if "swapped" in w]


@pytest.mark.parametrize("seed", [3, 11])
def test_contrast_of_phantom_pairs(seed):
    """Well clear of the thresholds 90 and 130 HU, at a resolution at which vessels and vertebrae are seen."""
    pair = make_pair((64, 64, 64), 5.0, seed=seed)
    fixed, moving = (
        blood_hu(*(to_image(part.float(), (5.0,) * 3) for part in parts))
        for parts in ((pair.fixed, pair.fixed_mask), (pair.moving, pair.moving_mask))
    )
    assert moving < 80 and fixed > 150


def test_mediastinum_does_not_depend_on_the_order_of_the_axes(manifest, tmp_path):
    image, mask = (sitk.ReadImage(str(tmp_path / f"a_fixed{end}.nii.gz")) for end in ("", "_mask"))
    turned = [sitk.PermuteAxes(sitk.Flip(part, (True, False, False)), (1, 2, 0)) for part in (image, mask)]
    assert blood_hu(*turned) == blood_hu(image, mask) == pytest.approx(220, abs=10)
    assert np.isnan(blood_hu(image, mask * 0))


def test_missing_manifest(tmp_path):
    with pytest.raises(FileNotFoundError):
        check_manifest(tmp_path / "nowhere.csv", workers=1)
