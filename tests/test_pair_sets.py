"""Stage 1: what is written, where it lies in space, and what an unusable source says."""

import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from mine_reg.images.geometry import to_image, to_tensor
from mine_reg.images.points import read_points
from mine_reg.images.reading import read_image
from mine_reg.pairs.manifest import ManifestError, collect_manifest, read_manifest, read_scans
from mine_reg.synthetic.pair_sets import draw_scan_split, make_phantom_pairs, make_simulated_pairs
from mine_reg.synthetic.phantom import make_pair

SIZE, SPACING = (20, 22, 24), 13.0


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "raw"
    return folder, make_phantom_pairs(folder, 2, SIZE, SPACING, seed=7, workers=1)


def test_files_and_table(written):
    folder, table = written
    assert list(table["pair_id"]) == ["phantom_000", "phantom_001"]
    assert table["subject_id"].is_unique and "split" not in table
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.csv", "phantom_000", "phantom_001"]
    assert [path.name for path in folder.parent.iterdir()] == ["raw"]  # nothing unfinished beside it
    frame = read_manifest(folder / "manifest.csv")
    assert len(frame) == 2 and (frame["fixed_mask_observer2"] != "").all()


def test_geometry_and_types(written):
    row = read_manifest(written[0] / "manifest.csv").iloc[0]
    for name in ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_mask_observer2"):
        image = read_image(row[name])
        assert image.GetSize() == SIZE[::-1] and image.GetSpacing() == (SPACING,) * 3
        assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
        middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
        assert middle == pytest.approx((0, 0, 0), abs=1e-4)
        assert image.GetPixelID() == (sitk.sitkUInt8 if "mask" in name else sitk.sitkInt16)
    pair = make_pair(SIZE, SPACING, seed=7000)
    assert torch.equal(to_tensor(read_image(row["fixed"]))[0], pair.fixed.round())
    assert torch.equal(to_tensor(read_image(row["moving_mask"]))[0] > 0, pair.moving_mask)


def test_points_lie_in_the_written_lungs(written):
    row = read_manifest(written[0] / "manifest.csv").iloc[1]
    for name in ("fixed", "moving"):
        mask, points = read_image(row[f"{name}_mask"]), pd.read_csv(row[f"{name}_points"])
        assert list(points) == ["x", "y", "z"] and len(points) >= 100
        inside = [mask[mask.TransformPhysicalPointToIndex(point)] for point in points.to_numpy().tolist()]
        assert sum(inside) > 0.8 * len(inside)


def test_a_pair_does_not_depend_on_the_number_of_pairs(written, tmp_path):
    make_phantom_pairs(tmp_path / "one", 1, SIZE, SPACING, seed=7, workers=1)
    first, again = (read_image(folder / "phantom_000/fixed.nii.gz") for folder in (written[0], tmp_path / "one"))
    assert torch.equal(to_tensor(first), to_tensor(again))


def test_a_failing_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args):
        raise ArithmeticError("no")

    monkeypatch.setattr("mine_reg.synthetic.pair_sets._make_phantom", fail)
    with pytest.raises(ArithmeticError):
        make_phantom_pairs(tmp_path / "raw", 2, SIZE, SPACING, seed=7, workers=1)
    assert list(tmp_path.rglob("*")) == [tmp_path / "raw"]


def test_no_pairs_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"data\.pairs is 0"):
        make_phantom_pairs(tmp_path / "raw", 0, SIZE, SPACING, seed=7)


def test_collect_manifest_resolves_paths(written, tmp_path):
    folder, _ = written
    table = collect_manifest(folder / "manifest.csv", tmp_path / "raw")
    again = read_manifest(tmp_path / "raw" / "manifest.csv")
    assert (
        list(again["fixed"])
        == list(table["fixed"])
        == [str(folder / name / "fixed.nii.gz") for name in table["pair_id"]]
    )
    assert "split" not in table


def test_collect_manifest_names_the_problem(tmp_path):
    (tmp_path / "pairs.csv").write_text("pair_id,fixed,moving,fixed_mask,moving_mask\na,f.nii,m.nii,fm.nii,mm.nii\n")
    with pytest.raises(ManifestError, match="does not exist"):
        collect_manifest(tmp_path / "pairs.csv", tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def scans_table(tmp_path, **columns):
    return pd.DataFrame(
        {
            "scan_id": ["s1", "s2", "s3", "s4"],
            "image": "i",
            "mask": "",
            "subject_id": ["p1", "p1", "p2", "p3"],
            "split": "",
        }
        | columns
    )


def test_subjects_are_shared_out_between_the_splits(tmp_path):
    counts = {"train": 10, "validation": 2, "test": 3}
    split = draw_scan_split(scans_table(tmp_path), counts, seed=1)
    assert set(split) == set(counts) and split[0] == split[1]  # one person, one split
    assert split == draw_scan_split(scans_table(tmp_path), counts, seed=1)
    own = ["train", "train", "test", "validation"]
    assert draw_scan_split(scans_table(tmp_path, split=own), counts, seed=1) == own
    many = pd.DataFrame({"subject_id": [f"p{i}" for i in range(30)], "split": ""})
    assert pd.Series(draw_scan_split(many, counts, seed=2)).value_counts().to_dict() == {
        "train": 19,
        "test": 6,
        "validation": 5,
    }


@pytest.mark.parametrize(
    "columns, message",
    [
        (
            {"subject_id": "p"},
            r"1 subject\(s\) cannot be divided into train, validation, test; give scans of at least 3 people",
        ),
        (
            {"split": ["train", "train", "train", "test"]},
            "no scan has the split validation, for which preprocess.split asks for pairs",
        ),
    ],
)
def test_scans_that_cannot_be_divided(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        draw_scan_split(scans_table(tmp_path, **columns), {"train": 1, "validation": 1, "test": 1}, seed=0)


def test_simulated_pairs_on_disk(tmp_path):
    """Three scans, one without a mask; the pairs of each split come from its own scans."""
    rows = []
    for number, split in enumerate(("train", "validation", "test")):
        scan = make_pair((44, 44, 44), 7.0, seed=number, noise=False, contrast=False)
        sitk.WriteImage(
            to_image(scan.fixed, (7.0,) * 3, (5, -90, 300), dtype="int16"), str(tmp_path / f"s{number}.nii.gz")
        )
        sitk.WriteImage(to_image(scan.fixed_mask, (7.0,) * 3, (5, -90, 300)), str(tmp_path / f"s{number}_mask.nrrd"))
        rows.append(
            {
                "scan_id": f"s{number}",
                "image": f"s{number}.nii.gz",
                "mask": f"s{number}_mask.nrrd" if number else "",
                "split": split,
            }
        )
    pd.DataFrame(rows).to_csv(tmp_path / "scans.csv", index=False)
    made = make_simulated_pairs(
        tmp_path / "raw",
        read_scans(tmp_path / "scans.csv"),
        {"train": 3, "validation": 1, "test": 2},
        SIZE,
        SPACING,
        seed=7,
        workers=1,
    )
    table = read_manifest(tmp_path / "raw/manifest.csv")
    assert table["split"].value_counts().to_dict() == {"train": 3, "test": 2, "validation": 1}
    assert (
        table["pair_id"].tolist()
        == made["pair_id"].tolist()
        == ["s0_000", "s0_001", "s0_002", "s1_000", "s2_000", "s2_001"]
    )
    assert (
        table["subject_id"].tolist() == ["s0"] * 3 + ["s1"] + ["s2"] * 2 and (table["fixed_mask_observer2"] == "").all()
    )
    fixed, points = read_image(table["fixed"][0]), read_points(table["fixed_points"][0])
    assert fixed.GetSize() == SIZE[::-1] and fixed.GetOrigin() != (0, 0, 0)
    mask = read_image(table["fixed_mask"][0])
    assert sum(mask[mask.TransformPhysicalPointToIndex(point)] for point in points.tolist()) > 0.8 * len(points) >= 80
    assert not torch.equal(to_tensor(read_image(table["moving"][0])), to_tensor(read_image(table["moving"][1])))


def test_a_scan_that_cannot_be_used_is_named(tmp_path):
    sitk.WriteImage(sitk.Image((9, 9, 9), sitk.sitkInt16), str(tmp_path / "flat.nii.gz"))
    rows = [f"s{i},flat.nii.gz,{split}" for i, split in enumerate(("train", "validation", "test"))]
    (tmp_path / "scans.csv").write_text("\n".join(["scan_id,image,split", *rows]) + "\n")
    with pytest.raises(
        ValueError, match=r"flat.nii.gz: found only 0.00 litres of air inside a body.* give a lung mask"
    ):
        make_simulated_pairs(
            tmp_path / "raw",
            read_scans(tmp_path / "scans.csv"),
            {"train": 1, "validation": 1, "test": 1},
            SIZE,
            SPACING,
            seed=7,
            workers=1,
        )
    assert not list((tmp_path / "raw").iterdir())
