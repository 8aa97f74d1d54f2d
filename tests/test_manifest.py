"""A manifest is read with its paths resolved, or refused with every problem named (kinds: test_bad_data.py)."""

import numpy as np
import pytest

from mine_reg.images.points import read_points
from mine_reg.pairs.manifest import ManifestError, read_manifest, read_scans

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


def test_scans_need_an_image_alone(tmp_path):
    for name in ("a.nii", "am.nii"):
        (tmp_path / name).touch()
    path = tmp_path / "scans.csv"
    path.write_text("scan_id,image,mask\ns1,a.nii,am.nii\ns2,a.nii,\n")
    frame = read_scans(path)
    assert frame["image"].tolist() == [str(tmp_path / "a.nii")] * 2 and frame["mask"].tolist() == [
        str(tmp_path / "am.nii"),
        "",
    ]
    assert frame["subject_id"].tolist() == ["s1", "s2"] and frame["split"].tolist() == ["", ""]
    for text, message in (
        ("scan_id,mask\ns1,am.nii", "column image is missing"),
        ("scan_id,image\ns1,zz.nii", r"row 2 \(scan s1\): image '.*zz.nii' does not exist"),
        ("scan_id,image\ns1,a.nii\ns1,a.nii", r"row 3 \(scan s1\): scan_id 's1' is used more than once"),
        ("scan_id,image", "lists no scans; give a header and one row per scan"),
    ):
        path.write_text(text)
        with pytest.raises(ManifestError, match=message):
            read_scans(path)
