"""A manifest is read with its paths resolved, or refused with every problem named by row."""

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


ROW = "p1,a.nii,b.nii,am.nii,bm.nii"
BAD = {
    "missing column": ("pair_id,fixed,moving,fixed_mask\np1,a.nii,b.nii,am.nii", "csv: column moving_mask is missing"),
    "missing file": (f"{HEADER}\np1,a.nii,zz.nii,am.nii,bm.nii",
                     r"m.csv: row 2 \(pair p1\): moving '.*/zz.nii' does not exist"),
    "empty cell": (f"{HEADER}\np1,a.nii,b.nii,,bm.nii", r"row 2 \(pair p1\): fixed_mask is empty"),
    "duplicate id": (f"{HEADER}\n{ROW}\n{ROW}", r"row 3 \(pair p1\): pair_id 'p1' is used more than once"),
    "id that is a path": (f"{HEADER}\n../{ROW}", r"row 2 \(pair ../p1\): pair_id '../p1' is no usable name"),
    "no rows": (f"{HEADER}\n", "lists no pairs"),
    "empty file": ("", "lists no pairs"),
    "ragged row": (f"{HEADER}\n{ROW},more", "row 2 has 6 values, the header has 5 columns"),
    "column twice": (f"{HEADER},fixed\n{ROW},a.nii", "column fixed occurs more than once"),
    "bad split": (f"{HEADER},split\n{ROW},dev",
                  r"row 2 \(pair p1\): split 'dev' is no split; give train, validation, test"),
    "empty split": (f"{HEADER},split\n{ROW},train\np2{ROW[2:]},validation", "m.csv: no row has the split test"),
    "split for some": (f"{HEADER},split\n{ROW},train\np2{ROW[2:]},", r"row 3 \(pair p2\): the split is empty while"),
    "subject in two splits": (f"{HEADER},split,subject_id\n{ROW},train,s\np2{ROW[2:]},test,s\np3{ROW[2:]},validation,t",
                              "subject s is in train and in test"),
    "one of two point files": (f"{HEADER},fixed_points,moving_points\n{ROW},p.csv,", "must be given together"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_manifest_is_refused_in_a_sentence(write, kind):
    text, message = BAD[kind]
    with pytest.raises(ManifestError, match=message):
        read_manifest(write(text))


def test_not_utf8(write):
    with pytest.raises(ManifestError, match='m.csv, row 2: not UTF-8 text; save the table as "CSV UTF-8"'):
        read_manifest(write(f"{HEADER}\nMüller{ROW[2:]}", encoding="latin-1"))


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
    for text, message in (("r,a,s\n1,2,3", "has the columns r, a, s; points need x, y, z"),
                          ("x,y,z\n1,2,three", "cannot be read as points"), ("", "cannot be read as points"),
                          ("x,y,z\n1,2,3\n1,,3", "points.csv, row 3: x, y and z must all be finite")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_points(path)
