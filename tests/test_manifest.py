"""A manifest is read with its paths resolved, or refused with every problem named (kinds: test_bad_data.py)."""

import numpy as np
import pandas as pd
import pytest

from mine_reg.images.points import read_points
from mine_reg.pairs.check import check_manifest
from mine_reg.pairs.manifest import ManifestError, collect_manifest, read_manifest, read_scans
from mine_reg.storage.tables import read_pair_table

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


ROW = "p1,a.nii,b.nii,am.nii,bm.nii"
LEFTOVERS = {
    "rows of commas": f"{HEADER}\n,,,,\n{ROW}\n,,,,\n,,,,\n",
    "empty columns": f"{HEADER},,\n{ROW},,\n",
    "commas beyond the header": f"{HEADER}\n{ROW},,\n",
    "an empty column in the middle": f"{HEADER}\n{ROW}\n".replace(",mov", ",,mov", 1).replace(",b.", ",,b."),
    "empty rows first": f"\n,,,,\n{HEADER}\n{ROW}\n",
    "semicolons": f"{HEADER}\n{ROW}\n".replace(",", ";"),
    "Excel's first line": f"sep=;\r\n{HEADER}\r\n{ROW}\r\n".replace(",", ";"),
    "tabs": f"{HEADER}\n{ROW}\n".replace(",", "\t"),
    "capitals": f"{HEADER.title()}\n{ROW}\n",
    "a line break at the end of a cell": f"{HEADER}\n{ROW.replace('b.nii', chr(34) + 'b.nii' + chr(10) + chr(34))}\n",
    "no line break at the end": f"{HEADER}\n{ROW}",
}


@pytest.mark.parametrize("text", LEFTOVERS.values(), ids=LEFTOVERS)
@pytest.mark.filterwarnings("error")
def test_what_spreadsheets_leave_is_read(write, tmp_path, text):
    frame = read_manifest(write(text))
    assert frame["pair_id"].tolist() == ["p1"]
    assert frame.loc[0, "moving"] == str(tmp_path / "b.nii") and frame.loc[0, "moving_mask"] == str(tmp_path / "bm.nii")


@pytest.mark.parametrize(
    "name", ["001", "1e5", "1.0", "0x10", "NA", "nan", "None", "null", "True", "1_0", "2024-01-02"]
)
def test_ids_survive_as_they_are(write, tmp_path, name):
    table = collect_manifest(write(f"{HEADER},subject_id\n{name}{ROW[2:]},{name}\n"), tmp_path / "collected")
    again = read_manifest(tmp_path / "collected/manifest.csv")
    for frame in (table, again):
        assert frame.loc[0, "pair_id"] == frame.loc[0, "subject_id"] == name
    pd.DataFrame({"pair_id": [name, "b"], "seconds": [1.5, None]}).to_csv(tmp_path / "runtime.csv", index=False)
    runtime = read_pair_table(tmp_path / "runtime.csv")
    assert runtime["pair_id"].tolist() == [name, "b"] and runtime["seconds"].isna().tolist() == [False, True]


def one_problem(path) -> str:
    with pytest.raises(ManifestError) as raised:
        read_manifest(path)
    assert len(raised.value.problems) == 1, raised.value.problems
    return raised.value.problems[0]


def test_rows_are_numbered_as_a_spreadsheet_shows_them(write):
    bad = ROW.replace("p1", "p2").replace("b.nii", "gone.nii")
    assert one_problem(write(f"{HEADER}\n{ROW}\n,,,,\n\n{bad}\n")).startswith("row 5 (pair p2): moving")
    note = '"two\nlines"'
    with pytest.warns(UserWarning, match="unknown column note"):
        problem = one_problem(write(f"{HEADER},note\n{ROW},{note}\n{bad},\n"))
    assert problem.startswith("row 3, line 4 of the file (pair p2): moving")
    assert one_problem(write(f"sep=,\n{HEADER}\n{bad}\n")).startswith("row 3 (pair p2): moving")


def test_check_numbers_rows_alike(write):
    path = write(f"{HEADER}\n,,,,\n{ROW}\n")  # whose images are empty files
    _, problems, _ = check_manifest(path, workers=1)
    assert problems and all(problem.startswith("row 3 (pair p1): ") for problem in problems)


def test_many_rows_alike_are_one_problem(write):
    rows = "\n".join(f"p{number},more{ROW[2:]}" for number in range(12))
    problem = one_problem(write(f"{HEADER}\n{rows}\n"))
    assert problem.startswith("row 2 and 11 more have 6 values, the header has 5 columns; give one value per column")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (ROW.replace("b.nii", "~/b.nii"), "does not exist; ~ and variables are not filled in, so write the path out"),
        (ROW.replace("b.nii", "$HOME/b.nii"), "does not exist; ~ and variables are not filled in"),
        (ROW.replace("b.nii", "%DATA%/b.nii"), "does not exist; ~ and variables are not filled in"),
        (ROW.replace("b.nii", r"ct\b.nii"), "does not exist; write / between folders"),
        (ROW.replace("b.nii", "b" * 300), "does not exist"),
        (ROW.replace("p1", "summary.csv"), "pair_id 'summary.csv' is the name of a file; leave its end out"),
        (ROW.replace("p1", "Settings.JSON"), "is the name of a file; leave its end out"),
        (f'"p1{ROW[2:]}', "a quotation mark that is not closed"),
    ],
)
def test_paths_and_ids_that_cannot_be_meant(write, changed, message):
    assert message in one_problem(write(f"{HEADER}\n{changed}\n"))


def test_ids_that_differ_in_capitals_alone_are_refused(write):
    with pytest.raises(ManifestError) as raised:
        read_manifest(write(f"{HEADER}\n{ROW}\n{ROW.replace('p1', 'P1')}\n{ROW.replace('p1', 'p2')}\n"))
    assert [problem.split()[1] for problem in raised.value.problems] == ["2", "3"]
    assert all("differs from another one in capitals alone" in problem for problem in raised.value.problems)


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
