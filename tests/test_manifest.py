"""A manifest is read with its paths resolved, or refused with every problem named by row (test_bad_data.py has the kinds)."""

import numpy as np
import pytest

from mine_reg.manifest import ManifestError, read_manifest, read_points

HEADER = "pair_id,fixed,moving,fixed_mask,moving_mask"


@pytest.fixture
def write(tmp_path):
    for name in ("a.nii", "b.nii", "am.nii", "bm.nii", "p.csv"):
        (tmp_path / name).touch()

    def write(text, encoding="utf-8"):
        (tmp_path / "m.csv").write_bytes(text.encode(encoding))
        return tmp_path / "m.csv"
    return write


def test_paths_are_relative_to_the_csv_and_optional_columns_appear(write, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    with_bom_crlf_and_spaces = f"\ufeff{HEADER}\r\nNA,a.nii, b.nii ,am.nii,{tmp_path}/bm.nii\r\n\r\n"
    frame = read_manifest(write(with_bom_crlf_and_spaces))
    row = frame.iloc[0]
    assert row.pair_id == row.subject_id == "NA"
    assert row.moving == str((tmp_path / "b.nii").resolve()) and row.moving_mask == str((tmp_path / "bm.nii").resolve())
    assert row.split == row.fixed_points == row.fixed_mask_observer2 == ""


def test_unknown_column_is_said_and_ignored(write):
    with pytest.warns(UserWarning, match="unknown column scanner ignored"):
        frame = read_manifest(write(f"{HEADER},scanner\np1,a.nii,b.nii,am.nii,bm.nii,GE\n"))
    assert "scanner" not in frame


def test_every_problem_is_listed_in_the_order_of_the_rows(write):
    with pytest.raises(ManifestError) as raised:
        read_manifest(write(f"{HEADER},split\np1,x.nii,y.nii,am.nii,bm.nii,dev\np2,a.nii,b.nii,z.nii,bm.nii,train"))
    lines = str(raised.value).splitlines()
    assert lines[0].endswith("m.csv has 6 problems:")
    assert [line.split()[:2] for line in lines[3:]] == [["row", "2"]] * 3 + [["row", "3"]]
    assert "validation" in lines[1] and "test" in lines[2]


def test_missing_manifest():
    with pytest.raises(FileNotFoundError):
        read_manifest("nowhere.csv")


def test_points(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("label, x, y, z\na, 1, 2, 3.5\nb, -4, 5, 6\n")
    np.testing.assert_array_equal(read_points(path), [[1, 2, 3.5], [-4, 5, 6]])
