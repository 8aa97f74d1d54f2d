"""Tables and points that are wrong, and what must be said of them; see `test_bad_data.py`."""

from bad_pairs import A, Bad, both_points, lines, manifest_row, points, rewrite, split, table

HEADER = "pair_id,fixed,moving,fixed_mask,moving_mask"

BAD_TABLES = {
    # the table
    "missing column": table(
        lambda d: lines(d, "pair_id,fixed,moving,fixed_mask", f"a,{A},{A},{A}"), "column moving_mask is miss"
    ),
    "empty cell": table(manifest_row("fixed_mask", fixed_mask=""), r"row 2 \(pair a\): fixed_mask is empty"),
    "id used twice": table(
        manifest_row("pair_id", pair_id="b"), r"row 3 \(pair b\): pair_id 'b' is used more than once"
    ),
    "id that is a path": table(
        manifest_row("pair_id", pair_id="../a"), r"row 2 .*pair_id '../a' is no usable name; give letters"
    ),
    "id that is an absolute path": table(manifest_row("pair_id", pair_id="/a"), "pair_id '/a' is no usable name"),
    "not UTF-8": table(
        lambda d: rewrite(d, lambda t: t.replace("\na,", "\nMüller,"), "latin-1"),
        'row 2: not UTF-8 text; save the table as "CSV UTF-8"',
    ),
    "UTF-16": table(lambda d: rewrite(d, str, "utf-16"), 'row 1: not UTF-8 text; save the table as "CSV UTF-8"'),
    "UTF-16 without its mark": table(
        lambda d: rewrite(d, str, "utf-16-le"), "row 1: not UTF-8 text; save the table as"
    ),
    "workbook": table(
        lambda d: (d / "manifest.csv").write_bytes(b"PK\x03\x04" + bytes(100)), "is a workbook of a spreadsheet program"
    ),
    "ragged row": table(
        lambda d: rewrite(d, lambda t: t.replace("\nb,", "\nb,more,")),
        "row 3 has 8 values, the header has 7 columns; give one value per column",
    ),
    "no rows": table(lambda d: lines(d, HEADER), "lists no pairs; give a header and one row per pair"),
    "empty table": table(
        lambda d: (d / "manifest.csv").write_text(""), "lists no pairs; give a header and one row per pair"
    ),
    "column twice": table(
        lambda d: lines(d, f"{HEADER},fixed", f"a,{','.join([A] * 5)}"), "column fixed occurs more than once"
    ),
    "unknown split": table(
        lambda d: split(d, "dev", "validation", "test"), r"row 2 .*split 'dev' is no split; give train, valid"
    ),
    "a split without pairs": table(
        lambda d: split(d, "train", "train", "test"), "no row has the split validation; give every"
    ),
    "split for some": table(
        lambda d: split(d, "train", "validation", ""), r"row 4 \(pair c\): the split is empty while"
    ),
    "subject in two splits": table(
        lambda d: split(d, "train", "validation", "test", subjects=("s", "s", "t")),
        "subject s is in train and in validation: put all pairs of a subject into one",
    ),
    "one of two point files": table(manifest_row("moving_points", moving_points=""), "row 2 .*must be given together"),
    # points
    "points of different number": Bad(
        points("x,y,z\n-60,0,250\n"), "a_fixed_points.csv has 1 points but .* 4; row i of one"
    ),
    "points with NaN": Bad(
        points("x,y,z\n1,2,3\n1,,3\n3,3,3\n4,4,4\n"), "a_fixed_points.csv, row 3: x, y and z must all be fin"
    ),
    "points that are no numbers": Bad(
        points("x,y,z\n1,2,three\n"), "a_fixed_points.csv, row 2: x, y and z must all be finite numbers, not 'three'"
    ),
    "points with another header": Bad(
        points("r,a,s\n1,2,3\n"), "a_fixed_points.csv has the columns r, a, s; points need x, y, z"
    ),
    "points with one value too many": Bad(
        points("x,y,z\n0,1,2,3\n"), "a_fixed_points.csv, row 2 has 4 values, the header has 3 columns"
    ),
    "points in an empty file": Bad(points(""), "a_fixed_points.csv cannot be read as points"),
    "points without a row": Bad(lambda d: both_points(d, "x,y,z\n"), "a_fixed_points.csv lists no points"),
    "all points outside": Bad(
        lambda d: both_points(d, "x,y,z\n900,0,250\n"), "a_fixed_points.csv has no point inside .*give LPS mm"
    ),
}
