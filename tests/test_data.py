"""Stage 1: what is written, where it lies in space, and what an unusable source says."""

import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from mine_reg import data
from mine_reg.itk import read_image, to_tensor
from mine_reg.manifest import ManifestError, read_manifest
from mine_reg.phantom import make_pair

SIZE, SPACING = (20, 22, 24), 13.0


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "raw"
    return folder, data.make_phantom_pairs(folder, 2, SIZE, SPACING, seed=7, workers=1)


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
    data.make_phantom_pairs(tmp_path / "one", 1, SIZE, SPACING, seed=7, workers=1)
    first, again = (read_image(folder / "phantom_000/fixed.nii.gz") for folder in (written[0], tmp_path / "one"))
    assert torch.equal(to_tensor(first), to_tensor(again))


def test_a_failing_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args):
        raise ArithmeticError("no")
    monkeypatch.setattr(data, "_make", fail)
    with pytest.raises(ArithmeticError):
        data.make_phantom_pairs(tmp_path / "raw", 2, SIZE, SPACING, seed=7, workers=1)
    assert list(tmp_path.rglob("*")) == [tmp_path / "raw"]


def test_unusable_numbers_and_sources(tmp_path):
    with pytest.raises(ValueError, match=r"data\.pairs is 0"):
        data.make_phantom_pairs(tmp_path / "raw", 0, SIZE, SPACING, seed=7)
    with pytest.raises(ValueError, match=r"unknown data\.source 'simulation'; choose from phantom, manifest"):
        data.check_source("simulation")


def test_collect_manifest_resolves_paths(written, tmp_path):
    folder, _ = written
    table = data.collect_manifest(folder / "manifest.csv", tmp_path / "raw")
    again = read_manifest(tmp_path / "raw" / "manifest.csv")
    assert list(again["fixed"]) == list(table["fixed"]) == [str(folder / name / "fixed.nii.gz") for name in table["pair_id"]]
    assert "split" not in table


def test_collect_manifest_names_the_problem(tmp_path):
    (tmp_path / "pairs.csv").write_text("pair_id,fixed,moving,fixed_mask,moving_mask\na,f.nii,m.nii,fm.nii,mm.nii\n")
    with pytest.raises(ManifestError, match="does not exist"):
        data.collect_manifest(tmp_path / "pairs.csv", tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
