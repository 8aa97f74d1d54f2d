"""Points as spreadsheets and 3D Slicer leave them: read right, or refused in one sentence with the right row."""

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk

from mine_reg.images.markups import PointList
from mine_reg.images.point_doubts import doubts_about_points
from mine_reg.images.points import read_pair_points, read_point_list, read_points, write_points

POINTS = [[1.5, -2.25, 3.0], [-40.0, 50.5, -6e1]]
FCSV = (
    "# Markups fiducial file version = 4.11\n# CoordinateSystem = {}\n"
    "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n{}"
)


@pytest.fixture
def file(tmp_path):
    def write(text, name="p.csv", encoding="utf-8"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path / name

    return write


READ = {
    "plain": "x,y,z\n1.5,-2.25,3\n-40,50.5,-60\n",
    "mark of the byte order, CRLF, spaces": "\ufeffx, y ,z\r\n 1.5,-2.25 ,3\r\n-40,50.5,-6e1\r\n",
    "empty lines": "\r\nx,y,z\r\n\r\n1.5,-2.25,3\r\n\r\n-40,50.5,-60\r\n\r\n",
    "old Macintosh": "x,y,z\r1.5,-2.25,3\r-40,50.5,-60\r",
    "capitals and other columns": "Label,X,Y,Z,ID\na,1.5,-2.25,3,7\nb,-40,50.5,-60,8\n",
    "an index as pandas writes it": ",x,y,z\n0,1.5,-2.25,3\n1,-40,50.5,-60\n",
    "rows and columns of commas": "x,y,z,,\n1.5,-2.25,3,,\n,,,,\n-40,50.5,-60,,\n,,,,\n",
    "commas beyond the header": "x,y,z\n1.5,-2.25,3,,\n-40,50.5,-60,,\n",
    "an empty column in the middle": "x,,y,z\n1.5,,-2.25,3\n-40,,50.5,-60\n",
    "empty rows before the header": ",,\n\nx,y,z\n1.5,-2.25,3\n-40,50.5,-60\n",
    "semicolons and decimal commas": "x;y;z\n1,5;-2,25;3\n-40;50,5;-6e1\n",
    "semicolons and decimal points": "x;y;z\n1.5;-2.25;3\n-40;50.5;-60\n",
    "Excel's first line": "sep=;\r\nx;y;z\r\n1,5;-2,25;3,0\r\n-40;50,5;-60\r\n",
    "tabs": "x\ty\tz\n1.5\t-2.25\t3\n-40\t50.5\t-60\n",
    "tabs and decimal commas": "x\ty\tz\n1,5\t-2,25\t3\n-40\t50,5\t-60\n",
    "a line break inside a cell": 'label,x,y,z\n"upper\nlobe",1.5,-2.25,3\nb,-40,50.5,-60\n',
    "a comma inside a cell": 'label,x,y,z\n"lobe, upper",1.5,-2.25,3\nb,-40,50.5,-60\n',
    "ANTs": "x,y,z,t,label,comment\n1.5,-2.25,3,0,1,a\n-40,50.5,-60,0,2,b\n",
}


@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_what_spreadsheets_leave_is_read(file, text):
    for name in ("p.csv", "P.CSV", "p.txt"):
        np.testing.assert_array_equal(read_points(file(text, name)), POINTS)


REFUSED = {
    "a value more than the header": ("x,y,z\n0,20,30,0\n", "p.csv, row 2 has 4 values, the header has 3 columns"),
    "the same in every row": ("x,y,z\n" + "0,1,2,3\n" * 12, "p.csv, row 2 and 11 more have 4 values, the header has 3"),
    "decimal commas between commas": ("x,y,z\n1,5,2,5,3,5\n", "p.csv, row 2 has 6 values, the header has 3 columns"),
    "quoted decimal commas": ('x,y,z\n"1,5",2,3\n', "p.csv, row 2: x, y and z must all be finite numbers, not '1,5'"),
    "points and commas": ("x;y;z\n1,5;2;3\n1.5;2;3\n", "row 2: x, y and z must all be finite numbers, not '1,5'"),
    "a value less": ("x,y,z\n1,2,3\n1,2\n", "p.csv, row 3 has 2 values, the header has 3 columns"),
    "a value less, the last": ("x,y,z,label\n1,2,3\n", "row 2 has 3 values, the header has 4 columns"),
    "an empty value": ("x,y,z\n1,2,3\n,,\n1,,3\n", "p.csv, row 4: x, y and z must all be finite numbers, not ''"),
    "NaN": ("x,y,z\n1,nan,3\n", "p.csv, row 2: x, y and z must all be finite numbers, not 'nan'"),
    "infinity": ("x,y,z\n1,inf,3\n", "row 2: x, y and z must all be finite numbers, not 'inf'"),
    "too large": ("x,y,z\n1,1e999,3\n", "row 2: x, y and z must all be finite numbers, not '1e999'"),
    "Python's numbers": ("x,y,z\n1,1_000,3\n", "row 2: x, y and z must all be finite numbers, not '1_000'"),
    "Excel's errors": ("x,y,z\n1,#REF!,3\n", "row 2: x, y and z must all be finite numbers, not '#REF!'"),
    "after a line break inside a cell": (
        'label,x,y,z\n"upper\nlobe",1,2,3\nb,1,2,c\n',
        "p.csv, row 3, line 4 of the file: x, y and z must all be finite numbers, not 'c'",
    ),
    "no header": ("1,2,3\n4,5,6\n", "p.csv has no header; its first row must name the columns x, y, z"),
    "other columns": ("r,a,s\n1,2,3\n", "p.csv has the columns r, a, s; points need x, y, z"),
    "a column twice": ("x,y,z,X\n1,2,3,4\n", "column x occurs more than once; keep one of them"),
    "a quotation mark that is not closed": ('x,y,z\n1,"2,3\n4,5,6\n', "p.csv, row 2 cannot be read .* not closed"),
    "nothing": ("", "p.csv cannot be read as points x, y, z: it is empty"),
    "commas alone": (",,\n,,\n", "p.csv cannot be read as points x, y, z: it is empty"),
    "no points": ("x,y,z\n,,\n", "p.csv lists no points; give one row per point"),
    "a workbook": ("PK\x03\x04 and more", "it is a workbook of a spreadsheet program; save the table as"),
    "fcsv without a system": (
        "# Markups fiducial file version = 4.11\n1,1,2,3\n",
        "p.csv does not say whether its points are RAS or LPS; write it into the file",
    ),
    "fcsv of voxels": (FCSV.format("IJK", "1,1,2,3\n"), "has its points in the coordinate system IJK; save them as"),
    "fcsv with words": (
        FCSV.format("LPS", "1,1,b,3,0,0,0,1,1,1,0,F-1,,\n"),
        "p.csv has at row 4 'b', where x, y and z must all be finite",
    ),
    "fcsv cut": (FCSV.format("LPS", "1,1,2,30"), "p.csv is damaged at row 4: it has 4 values for 14 columns"),
    "json of something else": ('{"a": 1}', "p.csv is no whole list of points of 3D Slicer"),
    "json cut": ('{"markups": [{"controlPoints": [', "p.csv is no whole list of points of 3D Slicer"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_in_one_sentence(file, text, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_points(file(text))
    assert "\n" not in str(raised.value)


def test_other_encodings_folders_and_nothing_are_said(file, tmp_path):
    with pytest.raises(ValueError, match='p.csv, row 2: not UTF-8 text; save the table as "CSV UTF-8"'):
        read_points(file("label,x,y,z\nMüller,1,2,3\n", encoding="latin-1"))
    with pytest.raises(ValueError, match="p.csv, row 1: not UTF-8 text"):
        read_points(file("x,y,z\n1,2,3\n", encoding="utf-16"))
    with pytest.raises(ValueError, match=f"{tmp_path} is a folder"):
        read_points(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_points(tmp_path / "nowhere.csv")


def slicer(points, system="LPS", **how):
    """A .mrk.json; a point None was never placed."""
    controls = [
        {"label": f"F-{n}", "positionStatus": "defined" if p else "undefined", "position": p or [0, 0, 0]}
        for n, p in enumerate(points, 1)
    ]
    return json.dumps({"markups": [{"type": "Fiducial", "coordinateSystem": system, "controlPoints": controls} | how]})


def ras(points):
    return [[-x, -y, z] for x, y, z in points]


@pytest.mark.parametrize(("system", "turn"), [("LPS", list), ("1", list), ("RAS", ras), ("0", ras), ("ras", ras)])
def test_slicers_files_are_lps_as_they_say(file, system, turn):
    rows = "".join(f"vtk_{n},{x},{y},{z},0,0,0,1,1,1,0,F-{n},,\n" for n, (x, y, z) in enumerate(turn(POINTS)))
    found = read_point_list(file(FCSV.format(system, rows), "p.fcsv"))
    np.testing.assert_array_equal(found.xyz, POINTS)
    assert found.labels == ["F-0", "F-1"]
    found = read_point_list(file(slicer(turn(POINTS), system), "p.mrk.json"))
    np.testing.assert_array_equal(found.xyz, POINTS)
    assert found.labels == ["F-1", "F-2"]


def test_slicers_files_are_known_by_their_contents(file):
    for name in ("p.csv", "p.FCSV", "p.json"):
        np.testing.assert_array_equal(read_points(file(slicer(POINTS), name)), POINTS)


def test_slicers_other_ways(file):
    for text, message in (
        (slicer(POINTS, coordinateUnits="um"), "has its points in um; give them in mm"),
        (slicer([]), "holds 0 lists of points; give a file with exactly one"),
        (slicer([[1, 2]]), "has no finite x, y, z at point 1"),
        (slicer([["a", 2, 3]]), "has no finite x, y, z at point 1"),
        (slicer(POINTS, None), "does not say whether its points are RAS or LPS"),
        (json.dumps({"markups": json.loads(slicer(POINTS))["markups"] * 2}), "holds 2 lists of points"),
        ("{" * 50_000, "no whole list of points"),
    ):
        with pytest.raises(ValueError, match=message):
            read_points(file(text, "p.mrk.json"))


def test_what_was_never_placed_is_left_out_of_both_and_said(file):
    three = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
    whole, lacking = file(slicer(three), "a.mrk.json"), file(slicer([three[0], None, three[2]]), "b.mrk.json")
    newer = "".join(f"{n},{x},{y},{z},0,0,0,1,1,1,0,F-{n},,,{2 * (n != 2)},0\n" for n, (x, y, z) in enumerate(three, 1))
    for one, other in ((whole, lacking), (lacking, whole), (whole, file(FCSV.format("LPS", newer), "c.fcsv"))):
        with pytest.warns(UserWarning, match="left out, since never placed: F-2"):
            pair = read_pair_points(one, other)
        for found in pair:
            np.testing.assert_array_equal(found, [three[0], three[2]])
    with pytest.warns(UserWarning, match="b.mrk.json: left out, since never placed: F-2"):
        assert len(read_points(lacking)) == 2
    with pytest.raises(ValueError, match="none of the 2 points has been placed"):
        read_points(file(slicer([None, None]), "d.mrk.json"))


def test_labels_in_another_order_are_refused(file):
    first = file("label,x,y,z\na,1,2,3\nb,4,5,6\nc,7,8,9\n", "first.csv")
    other = file("label,x,y,z\na,1,2,3\nc,7,8,9\nb,4,5,6\n", "other.csv")
    with pytest.raises(ValueError, match=r"same labels in another order \('b' and 'c' at row 3\)"):
        read_pair_points(first, other)
    without = file("x,y,z\n1,2,3\n7,8,9\n4,5,6\n", "without.csv")
    assert len(read_pair_points(first, without)[0]) == 3  # nothing speaks against it


def test_arrays_are_points_only_in_rows_of_three():
    for wrong in (np.zeros((3, 5)), np.zeros(3), np.full((2, 3), np.nan), np.zeros((0, 3)), np.zeros((2, 2, 3))):
        with pytest.raises(ValueError, match=r"fixed_points must be finite numbers \(N, 3\)"):
            read_pair_points(wrong, np.zeros((3, 3)))


@pytest.mark.parametrize("name", ["p.csv", "p.fcsv", "P.FCSV", "p.mrk.json"])
@pytest.mark.parametrize("labels", [["", ""], ["lobe, upper", 'a "b"']])
def test_what_is_written_is_read_again(tmp_path, name, labels):
    write_points(PointList(np.array(POINTS), labels, ["", ""]), tmp_path / name)
    again = read_point_list(tmp_path / name)
    np.testing.assert_allclose(again.xyz, POINTS, atol=1e-4)
    assert again.labels == (labels if labels[0] or name == "p.csv" else ["F-1", "F-2"])
    if not name.endswith("csv") or "f" in name.lower():
        assert "LPS" in (tmp_path / name).read_text()


def test_only_points_files_are_written(tmp_path):
    with pytest.raises(ValueError, match=re.escape("end it in .csv, .fcsv or .mrk.json")):
        write_points(PointList(np.array(POINTS), ["", ""], ["", ""]), tmp_path / "p.xlsx")


@pytest.fixture
def partners():
    """60 points of a chest, their partners, and the map between them."""
    fixed = np.random.default_rng(0).uniform([-120, -90, -400], [120, 60, -150], (60, 3))
    transform = sitk.TranslationTransform(3, (5.0, -8.0, 20.0))
    noise = np.random.default_rng(1).normal(0, 2, fixed.shape)
    return fixed, fixed + [5.0, -8.0, 20.0] + noise, transform


def test_good_points_raise_no_doubt(partners):
    fixed, moving, transform = partners
    assert doubts_about_points(fixed, moving) == doubts_about_points(fixed, moving, transform) == []
    assert doubts_about_points(fixed, moving + [300, -200, 900]) == []  # of another examination
    assert doubts_about_points(fixed, moving, sitk.Transform()) == []  # and before registration
    assert doubts_about_points(fixed[:3], moving[2::-1]) == []  # too few to tell


@pytest.mark.parametrize("known", [True, False], ids=["with the transform", "without"])
def test_mixed_up_points_are_noticed(partners, known):
    fixed, moving, transform = partners
    flip, transform = [-1, -1, 1], transform if known else None
    shuffled = np.random.default_rng(2).permutation(moving)
    mixed = {
        "rows of one of the point files are in reverse order": (fixed, moving[::-1]),
        "one of the point files is in RAS, the other in LPS": (fixed, moving * flip),
        "row i of one point file does not look like the partner": (fixed, shuffled),
        "the partner of row i": (fixed[:-1], moving[1:]),
    }
    if known:
        mixed["both point files are in RAS"] = (fixed * flip, moving * flip)
        mixed["fixed and moving points are swapped"] = (moving, fixed)
    (doubt,) = doubts_about_points(fixed * flip, moving, transform)
    assert "one of the point files is in RAS" in doubt
    for said, points in mixed.items():
        (doubt,) = doubts_about_points(*points, transform)
        assert said in doubt
