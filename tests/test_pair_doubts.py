"""What looks wrong in a table of pairs though every file can be read: points, masks, people; and what is never
replaced."""

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from mine_reg.images.geometry import points_to_voxels
from mine_reg.pairs.check import check_manifest, require_usable
from mine_reg.pairs.manifest import ManifestError, collect_manifest, read_manifest, write_manifest
from mine_reg.pairs.preprocess import preprocess
from mine_reg.synthetic.pair_sets import make_phantom_pairs

SETTINGS = {"size": [32] * 3, "spacing_mm": 10.0, "window_hu": [-1000, 500], "start": "scanner", "seed": 1,
            "split": {"train": 1, "validation": 1, "test": 1}, "workers": 1}  # fmt: skip


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "raw"
    make_phantom_pairs(folder, 3, (48, 48, 48), 320 / 48, seed=5, workers=1)
    return folder


def rewritten(phantoms, tmp_path, **columns) -> str:
    """A manifest of the phantoms with other values in its first row."""
    table = read_manifest(phantoms / "manifest.csv")
    for column, value in columns.items():
        table.loc[0, column] = str(value)
    table.to_csv(tmp_path / "pairs.csv", index=False)
    return tmp_path / "pairs.csv"


def warnings_about(manifest) -> list[str]:
    _, problems, remarks = check_manifest(manifest, workers=1)
    assert problems == []
    return remarks


WRONG_POINTS = {
    "both point files are in RAS": lambda points, image: points * [-1, -1, 1],
    "both point files give z, y, x": lambda points, image: points[:, ::-1],
    "both point files are in cm": lambda points, image: points / 10,
    "both point files are in m": lambda points, image: points / 1000,
    "both point files hold voxel indices": lambda points, image: points_to_voxels(points, image).numpy()[:, ::-1],
}


def test_what_is_right_is_not_doubted(phantoms):
    assert warnings_about(phantoms / "manifest.csv") == []


@pytest.mark.parametrize("said", WRONG_POINTS)
def test_points_in_another_system_are_named(phantoms, tmp_path, said):
    files = {}
    for role in ("fixed", "moving"):
        points = pd.read_csv(phantoms / f"phantom_000/{role}_points.csv").to_numpy()
        points = WRONG_POINTS[said](points, sitk.ReadImage(str(phantoms / f"phantom_000/{role}.nii.gz")))
        files[f"{role}_points"] = tmp_path / f"{role}.csv"
        pd.DataFrame(points, columns=list("xyz")).to_csv(files[f"{role}_points"], index=False)
    assert any(
        f"it looks as if {said}" in sentence for sentence in warnings_about(rewritten(phantoms, tmp_path, **files))
    )


def test_swapped_points_are_named(phantoms, tmp_path):
    swapped = {"fixed_points": phantoms / "phantom_000/moving_points.csv",
               "moving_points": phantoms / "phantom_000/fixed_points.csv"}  # fmt: skip
    (sentence,) = warnings_about(rewritten(phantoms, tmp_path, **swapped))
    assert "fixed and moving points are swapped" in sentence


def mirrored(path, to):
    mask = sitk.ReadImage(str(path))
    made = sitk.GetImageFromArray(np.ascontiguousarray(sitk.GetArrayFromImage(mask)[:, :, ::-1]))
    made.CopyInformation(mask)
    sitk.WriteImage(made, str(to))
    return to


def test_masks_of_another_image_are_named(phantoms, tmp_path):
    own = phantoms / "phantom_000"
    swapped = {"fixed_mask": own / "moving_mask.nii.gz", "moving_mask": own / "fixed_mask.nii.gz"}
    (sentence,) = warnings_about(rewritten(phantoms, tmp_path, **swapped))
    assert "fixed_mask and moving_mask look swapped" in sentence
    flipped = mirrored(own / "moving_mask.nii.gz", tmp_path / "m.nii.gz")
    (sentence,) = warnings_about(rewritten(phantoms, tmp_path, moving_mask=flipped))
    assert "moving_mask looks mirrored" in sentence
    other = phantoms / "phantom_001/fixed_mask.nii.gz"
    (sentence,) = warnings_about(rewritten(phantoms, tmp_path, fixed_mask=other))
    assert "fixed_mask overlaps with the lungs" in sentence and "belongs to this image" in sentence


def test_images_of_few_slices_do_not_end_the_check(phantoms, tmp_path):
    files = {}
    for name in ("fixed", "moving", "fixed_mask", "moving_mask"):
        image = sitk.ReadImage(str(phantoms / f"phantom_000/{name}.nii.gz"))[:, :, 22:26]
        image.SetSpacing((3.0, 3.0, 2.0))
        files[name] = tmp_path / f"{name}.nii.gz"
        sitk.WriteImage(image, str(files[name]))
    without = dict.fromkeys(("fixed_points", "moving_points", "fixed_mask_observer2"), "")
    remarks = warnings_about(rewritten(phantoms, tmp_path, **files, **without))
    assert sum("very few slices" in sentence for sentence in remarks) == 2


def test_an_observer_who_agrees_with_himself_is_named(phantoms, tmp_path):
    twice = {"fixed_mask_observer2": phantoms / "phantom_000/fixed_mask.nii.gz"}
    (sentence,) = warnings_about(rewritten(phantoms, tmp_path, **twice))
    assert "would compare one mask with itself" in sentence


def test_people_who_may_stand_in_two_splits_are_named(phantoms, tmp_path):
    def said(subjects, **changed):
        table = read_manifest(phantoms / "manifest.csv").assign(split=["train", "validation", "test"])
        table = table.assign(subject_id=subjects, **changed)
        table.to_csv(tmp_path / "pairs.csv", index=False)
        return [sentence for sentence in warnings_about(tmp_path / "pairs.csv") if "subject" in sentence]

    assert said(["a", "b", "c"]) == []
    assert "differ in capitals alone" in said(["P1", "p1", "c"])[0]
    assert "subject_id is empty in 1 of 3 rows" in said(["a", "", "c"])[0]
    first = read_manifest(phantoms / "manifest.csv").loc[0, "fixed"]
    (sentence,) = said(["a", "b", "c"], fixed=first)
    assert first in sentence and "train and in validation and in test" in sentence


def test_a_random_split_that_tears_one_image_apart_is_named(phantoms, tmp_path):
    table = read_manifest(phantoms / "manifest.csv")
    table["moving"], table["moving_mask"] = table.loc[0, "moving"], table.loc[0, "moving_mask"]
    with pytest.warns(UserWarning, match="phantom_000/moving.nii.gz is in .* seen in training"):
        preprocess(table.assign(fixed_points="", moving_points=""), tmp_path / "out", **SETTINGS)


SLIPS = {"Splitt": "split", "subjct_id": "subject_id", "moving_pionts": "moving_points"}


@pytest.mark.parametrize(("slip", "known"), SLIPS.items())
def test_a_slip_in_a_column_is_an_error(phantoms, tmp_path, slip, known):
    table = pd.read_csv(phantoms / "manifest.csv").drop(columns=["fixed_points", "moving_points", "subject_id"])
    table.assign(**{slip: "x"}).to_csv(phantoms / "slip.csv", index=False)
    with pytest.raises(ManifestError, match=f"column {slip}: did you mean {known}"):
        read_manifest(phantoms / "slip.csv")
    table.assign(scanner_model="x").to_csv(phantoms / "slip.csv", index=False)
    with pytest.warns(UserWarning, match="unknown column scanner_model ignored"):
        read_manifest(phantoms / "slip.csv")


def test_a_table_of_single_scans_is_told_from_one_of_pairs(phantoms, tmp_path):
    (tmp_path / "scans.csv").write_text("scan_id,image,mask\na,a.nii.gz,\n")
    (sentence,) = check_manifest(tmp_path / "scans.csv", workers=1)[1]
    assert "is a table of single CTs" in sentence and "data.source: simulate" in sentence


def test_a_stage_says_what_check_says(phantoms, tmp_path, capsys):
    require_usable(phantoms / "manifest.csv", 1)
    assert capsys.readouterr().out == ""
    require_usable(rewritten(phantoms, tmp_path, moving=phantoms / "phantom_000/fixed.nii.gz"), 1)
    assert "Warning: row 2 (pair phantom_000): fixed" in capsys.readouterr().out
    (tmp_path / "no.nii.gz").write_text("no image")
    with pytest.raises(ManifestError, match="no.nii.gz"):
        require_usable(rewritten(phantoms, tmp_path, moving=tmp_path / "no.nii.gz"), 1)


def test_what_is_read_is_never_replaced(phantoms, tmp_path):
    before = {path: path.read_bytes() for path in phantoms.rglob("*") if path.is_file()}
    table = read_manifest(phantoms / "manifest.csv")
    with pytest.raises(ValueError, match="holds files that are not preprocessed pairs"):
        preprocess(table, phantoms, **SETTINGS)
    with pytest.raises(ValueError, match="manifest.csv is to be read and would be replaced"):
        collect_manifest(phantoms / "manifest.csv", phantoms)
    assert {path: path.read_bytes() for path in phantoms.rglob("*") if path.is_file()} == before
    mine = tmp_path / "mine"  # a user's folder, laid out as the study would, with a table of the very name
    mine.mkdir()
    for pair in ("phantom_000", "phantom_001", "phantom_002"):
        (mine / pair).symlink_to(phantoms / pair)
    (mine / "pairs.csv").write_text((phantoms / "manifest.csv").read_text())
    with pytest.raises(ValueError, match="not preprocessed pairs"):
        preprocess(read_manifest(mine / "pairs.csv"), mine, **SETTINGS)
    made = tmp_path / "made"
    preprocess(table, made, **SETTINGS)
    with pytest.raises(ValueError, match="lies in .*, which is to be written"):
        preprocess(read_manifest(made / "pairs.csv"), made, **SETTINGS)


def test_a_manifest_of_another_stays(phantoms, tmp_path):
    table = read_manifest(phantoms / "manifest.csv")
    others = {
        "further columns": "pair_id,fixed,age\na,/a.nii,70\n",
        "places of its own": "pair_id,fixed\na,x.nii\n",
        "no table": "hello",
    }
    for name, text in others.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "manifest.csv").write_text(text)
        with pytest.raises(ValueError, match="was not made by the study"):
            write_manifest(table, folder)
        with pytest.raises(ValueError, match="was not made by the study"):
            make_phantom_pairs(folder, 1, (16, 16, 16), 20.0, seed=1, workers=1)
        assert (folder / "manifest.csv").read_text() == text and len(list(folder.iterdir())) == 1
    again = tmp_path / "ours"
    for source in (phantoms / "manifest.csv", phantoms / "manifest.csv"):
        assert len(collect_manifest(source, again)) == 3


def test_a_grid_that_cuts_off_half_is_refused(phantoms, tmp_path):
    table = read_manifest(phantoms / "manifest.csv")
    with pytest.raises(ValueError, match=r"has only \d+ % of what it marks inside the grid"):
        preprocess(table, tmp_path / "small", **SETTINGS | {"size": [14] * 3})
    far = pd.read_csv(table.loc[0, "fixed_points"])
    far.loc[20:, "x"] += 1000
    far.to_csv(tmp_path / "far.csv", index=False)
    with pytest.raises(ValueError, match=r"far.csv has only \d+ % of its points inside the grid"):
        preprocess(table.assign(fixed_points=str(tmp_path / "far.csv")), tmp_path / "points", **SETTINGS)
