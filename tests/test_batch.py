"""Many pairs: one that is bad, whatever the reason, never stops the rest; nothing is done twice, and nothing stays that
was made from something else."""

import json
import os
import re
import resource
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from known_networks import turned
from typer.testing import CliRunner

from mine_reg.cli import app
from mine_reg.pair_tool import batch
from mine_reg.pair_tool.batch import register_manifest
from mine_reg.pair_tool.files import ALL_FILES, register_files
from mine_reg.pair_tool.match import match
from mine_reg.pair_tool.register import register
from mine_reg.pair_tool.verdict import VERDICTS
from mine_reg.storage.results import MARK
from mine_reg.storage.writing import BEGUN


def test_a_batch_goes_on_after_a_bad_pair_and_does_nothing_twice(pair, weights, tmp_path, monkeypatch):
    for name, dtype in (("fixed", "int16"), ("moving", "int16"), ("fixed_mask", "uint8"), ("moving_mask", "uint8")):
        sitk.WriteImage(turned(getattr(pair, name), dtype=dtype), str(tmp_path / f"{name}.nii.gz"))
    sitk.WriteImage(turned(pair.moving * 0 - 1000), str(tmp_path / "air.nii.gz"))
    columns = "pair_id,fixed,moving,fixed_mask,moving_mask"
    rows = [
        f"{name},fixed.nii.gz,{moving}.nii.gz,fixed_mask.nii.gz,moving_mask.nii.gz"
        for name, moving in (("a", "moving"), ("b", "air"), ("c", "moving"))
    ]
    (tmp_path / "pairs.csv").write_text("\n".join([columns, *rows]) + "\n")
    command = [
        "batch",
        str(tmp_path / "pairs.csv"),
        "--out",
        str(tmp_path / "out"),
        "--weights",
        str(weights),
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1 and "lists 3 pairs, 1 of which could not be registered" in done.stdout
    summary = pd.read_csv(tmp_path / "out/summary.csv").set_index("pair_id")
    assert "air.nii.gz has no voxel above -500 HU" in summary.loc["b", "error"] and summary[
        "error"
    ].isna().tolist() == [True, False, True]
    assert summary.loc["a", "dsc_after"] == summary.loc["c", "dsc_after"] > 0
    assert summary["verdict"].isna().tolist() == [False, True, False] and set(summary["verdict"].dropna()) <= {
        *VERDICTS
    }
    assert summary.loc["a", "inconsistency_mm"] == summary.loc["c", "inconsistency_mm"] > 0
    assert not (tmp_path / "out/b").exists() and (tmp_path / "out/a/transform.h5").is_file()

    sitk.WriteImage(turned(pair.moving), str(tmp_path / "air.nii.gz"))  # mended
    monkeypatch.setattr("mine_reg.pair_tool.files.match", _only(tmp_path / "air.nii.gz"))
    assert CliRunner().invoke(app, command).exit_code == 0
    assert pd.read_csv(tmp_path / "out/summary.csv")["error"].isna().all()


def _only(allowed):
    """`match` that refuses any other moving image: the others must not be done again."""

    def call(fixed, moving, **options):
        assert moving == allowed
        return match(fixed, moving, **options)

    return call


@pytest.fixture
def table(make_table):
    return make_table("ab")


PROBLEMS = [
    (MemoryError(), "there is not enough memory (asked for more than is free); close other programs"),
    (RecursionError("maximum recursion depth exceeded"), "maximum recursion depth exceeded"),
    (AssertionError(), "AssertionError"),  # without a word of its own
    (RuntimeError("\n"), "RuntimeError"),
    (KeyError("moving"), "'moving'"),
    (OSError(28, "No space left on device", "x.nii.gz"), "x.nii.gz: No space left on device"),
]


def test_whatever_is_wrong_with_one_pair_the_rest_is_registered(make_table, weights, monkeypatch):
    """And a summary that cannot be written, as on a full disk, is written when there is room again."""
    calls, written, write = [], [], batch.write_csv

    def fails_at_first(fixed, moving, **options):
        calls.append(moving)
        if len(calls) <= len(PROBLEMS):
            raise PROBLEMS[len(calls) - 1][0]
        return match(fixed, moving, **options)

    def write_csv(frame, path, **how):
        written.append(path)
        if len(written) < 5:
            raise OSError(28, "No space left on device", str(path))
        write(frame, path, **how)

    monkeypatch.setattr("mine_reg.pair_tool.files.match", fails_at_first)
    monkeypatch.setattr("mine_reg.pair_tool.batch.write_csv", write_csv)
    table = make_table("abcdefg")
    summary = register_manifest(table, table.parent / "out", weights=weights, device="cpu", workers=1)
    assert summary["error"].tolist() == [*(said for _, said in PROBLEMS), ""]
    assert sorted(path.name for path in (table.parent / "out").iterdir()) == ["g", "summary.csv"]
    assert pd.read_csv(table.parent / "out/summary.csv")["pair_id"].tolist() == [*"abcdefg"]


def test_a_row_that_is_wrong_stops_no_other(make_table, weights):
    table = make_table("abcde")
    frame = pd.read_csv(table, dtype=str)
    frame.loc[0, "moving"] = "gone.nii.gz"
    frame.loc[2, ["pair_id", "fixed_points"]] = ["../c", ""]
    frame.loc[4, "pair_id"] = "d"
    frame.to_csv(table, index=False)
    command = ["batch", str(table), "--out", str(table.parent / "out"), "--weights", str(weights), "--device", "cpu"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1 and "lists 5 pairs, 4 of which could not be registered" in done.stdout
    said = pd.read_csv(table.parent / "out/summary.csv")["error"]
    assert said[0].startswith("row 2 (pair a): moving '") and said[0].endswith("gone.nii.gz' does not exist")
    assert "pair_id '../c' is no usable name" in said[2] and "must be given together" in said[2]
    assert said.isna().tolist() == [False, True, False, False, False]
    assert "used more than once" in said[3] and "used more than once" in said[4]
    assert sorted(path.name for path in (table.parent / "out").iterdir()) == ["b", "summary.csv"]
    frame.assign(moving="gone.nii.gz").to_csv(table, index=False)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1 and "pairs.csv has " in done.stderr and "row 3 (pair b): moving" in done.stderr


def test_one_who_stops_it_is_obeyed(table, weights, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("mine_reg.pair_tool.files.match", stop)
    command = ["batch", str(table), "--out", str(table.parent / "out"), "--weights", str(weights), "--device", "cpu"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 130 and done.stderr.endswith("Interrupted.\n") and "Traceback" not in done.stderr
    assert not (table.parent / "out").exists() or not list((table.parent / "out").rglob("*"))


def test_a_pair_is_registered_again_when_anything_it_was_made_from_or_of_has_changed(table, weights):
    out = table.parent / "out"
    made = []

    def done() -> list[str]:
        """The pairs that were made."""
        register_manifest(table, out, weights=weights, device="cpu")
        marks = {name: (out / name / MARK).stat().st_mtime_ns for name in "ab"}
        new = [name for name in "ab" if not made or marks[name] != made[-1][name]]
        made.append(marks)
        return new

    assert done() == ["a", "b"] and done() == []
    contents = (out / "a/transform.h5").read_bytes()
    middle = len(contents) // 2
    other = contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1 :]
    (out / "b/transform.h5").write_bytes(other)  # of the same size
    assert done() == ["b"] and (out / "b/transform.h5").read_bytes() != other
    (out / "a/report.json").write_text("")
    points = table.parent / "moving_points.csv"
    points.write_text(points.read_text().replace("x,y,z", "X,Y,Z"))
    assert done() == ["a", "b"]


def test_nothing_of_an_earlier_result_stays_beside_a_new_one(table, weights):
    images, out = (table.parent / "fixed.nii.gz", table.parent / "moving.nii.gz"), table.parent / "out"
    register_files(*images, out, inverse=True, learn2reg=True, inconsistency=True, weights=weights, device="cpu")
    assert {path.name for path in out.iterdir()} == {*ALL_FILES, MARK}
    (out / "notes.txt").write_text("the user's own")
    (out / MARK).unlink()  # as an earlier version left it
    register_files(*images, out, weights=weights, device="cpu")
    optional = {"inverse.h5", "1InverseWarp.nii.gz", "learn2reg_displacement.nii.gz", "inconsistency.nii.gz"}
    assert {path.name for path in out.iterdir()} == {*ALL_FILES, MARK, "notes.txt"} - optional


def test_a_registration_that_does_not_fit_is_one_sentence_and_leaves_the_earlier_one(table, weights):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    images, out = (table.parent / "fixed.nii.gz", table.parent / "moving.nii.gz"), table.parent / "out"
    register_files(*images, out, weights=weights, device="cpu")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for command in (
        ["register", *map(str, images), "--out", str(out)],
        ["register", *map(str, images), "--out", str(table.parent / "new/out")],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "mine_reg.cli", *command, "--weights", str(weights), "--device", "cpu", "--inverse"],
            preexec_fn=small_files,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith(f"Error: {command[-1]}/") and done.stderr.endswith(": File too large\n")
        assert done.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not (table.parent / "new").exists() and not list(table.parent.rglob(f"{BEGUN}*"))


def test_mixed_up_points_are_in_the_report(pair, weights):
    fixed, moving = turned(pair.fixed), turned(pair.moving)
    points = [getattr(pair, f"{name}_points_xyz").numpy() for name in ("fixed", "moving")]
    report = register(fixed, moving, weights, device="cpu", fixed_points=points[0], moving_points=points[1]).report
    assert not any("looks as if" in sentence for sentence in report["warnings"])
    flipped = points[1] * [-1, -1, 1]
    report = register(fixed, moving, weights, device="cpu", fixed_points=points[0], moving_points=flipped).report
    assert any("it looks as if one of the point files is in RAS" in sentence for sentence in report["warnings"])
    assert json.dumps(report)


def test_hu_are_rounded_and_not_cut(pair, weights):
    """A moving image of HU with fractions comes out without a bias."""
    moving = sitk.Cast(turned(pair.moving), sitk.sitkFloat32)
    shown = register(turned(pair.fixed), moving, weights, device="cpu").moved
    low = register(turned(pair.fixed), moving - 0.4, weights, device="cpu").moved
    inside = sitk.GetArrayFromImage(shown) > -900
    bias = sitk.GetArrayFromImage(low)[inside].astype(float) - sitk.GetArrayFromImage(shown)[inside]
    assert np.abs(bias).mean() < 0.05  # -0.4 is nearest to 0 everywhere; cut, half of it would be 1 more


def test_pairs_share_the_cores_where_there_are_many(pair, make_table, weights):
    """As they do one after the other; a bad one stops no other, and what is there is not made again."""
    table = make_table("abc")
    frame = pd.read_csv(table, dtype=str)
    sitk.WriteImage(turned(pair.moving * 0 - 1000), str(table.parent / "air.nii.gz"))
    frame.loc[1, "moving"] = "air.nii.gz"
    frame.to_csv(table, index=False)
    beside, alone = table.parent / "beside", table.parent / "alone"
    command = ["batch", str(table), "--weights", str(weights), "--device", "cpu", "--out"]
    done = CliRunner().invoke(app, [*command, str(beside), "--workers", "2"])
    assert done.exit_code == 1 and re.search(r"trusted unseen\. \d+ pairs per hour\.$", done.stdout.strip())
    summary = register_manifest(table, alone, weights=weights, device="cpu", workers=1)
    ours = pd.read_csv(beside / "summary.csv")
    assert ours["pair_id"].tolist() == [*"abc"] and "air.nii.gz" in ours["error"][1]
    assert ours["tre_mm_after"].to_numpy() == pytest.approx(summary["tre_mm_after"].to_numpy(), abs=1e-3, nan_ok=True)
    again = CliRunner().invoke(app, [*command, str(beside), "--workers", "2"])
    assert again.exit_code == 1 and "1 of which could not be registered" in again.stdout
    assert "per hour" not in again.stdout
    with pytest.raises(ValueError, match="workers is 0; give how many pairs"):
        register_manifest(table, alone, weights=weights, device="cpu", workers=0)


def test_how_many_pairs_are_registered_at_once(monkeypatch):
    monkeypatch.setattr("joblib.effective_n_jobs", lambda jobs: 8)
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 4_000_000, "SC_PAGE_SIZE": 4096}.get)
    assert batch._at_once(None, 100, "cpu") == 3  # 16 GB
    assert batch._at_once(None, 15, "cpu") == batch._at_once(None, 100, "cuda") == 1
    assert batch._at_once(5, 2, "cpu") == 5


def test_the_workers_of_a_cluster_write_where_the_batch_was_started(make_table, weights, monkeypatch):
    """Whatever folder they are in, and with paths that are relative to the one of the command."""
    from dask.distributed import LocalCluster

    table = make_table("a")
    monkeypatch.chdir(table.parent)
    (table.parent / "elsewhere").mkdir()
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        with cluster.get_client() as client:
            client.run(os.chdir, str(table.parent / "elsewhere"))
        relative = os.path.relpath(weights, table.parent)
        summary = register_manifest(
            "pairs.csv", "out", weights=relative, device="cpu", scheduler=cluster.scheduler_address
        )
    assert summary["error"].tolist() == [""] and (table.parent / "out/a/transform.h5").is_file()
    assert not list((table.parent / "elsewhere").iterdir())
