"""What a batch reads: never replaced by what it writes, found beside the manifest as given, and all code counts."""

import os

import pytest
from test_check import write_tiny_pairs
from test_pipeline import imported
from typer.testing import CliRunner

from mine_reg.cli import app
from mine_reg.pair_tool import batch
from mine_reg.pair_tool.batch import DECIDING, register_manifest
from mine_reg.pairs.check import check_manifest

COLUMNS = "pair_id,fixed,moving,fixed_mask,moving_mask"


@pytest.fixture
def nothing_is_registered(monkeypatch):
    def refuse(*_given, **_options):
        raise AssertionError("it began to register")

    monkeypatch.setattr(batch, "register_files", refuse)


@pytest.mark.parametrize("manifest", ["summary.csv", "b/summary.csv"])
def test_the_manifest_is_not_replaced_by_the_summary(nothing_is_registered, weights, tmp_path, manifest):
    place = tmp_path / manifest
    place.parent.mkdir(exist_ok=True)
    text = write_tiny_pairs(place.parent).read_text()
    place.write_text(text)
    done = CliRunner().invoke(app, ["batch", str(place), "--out", str(place.parent), "--weights", str(weights)])
    assert done.exit_code == 1 and "summary.csv is read and would be replaced by a result" in done.stderr
    assert place.read_text() == text


@pytest.mark.parametrize("column", ["fixed", "moving", "fixed_mask", "moving_points"])
def test_no_pair_replaces_what_another_is_made_from(nothing_is_registered, weights, tmp_path, column):
    write_tiny_pairs(tmp_path)
    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "out/a")
    name = "report.json" if "points" in column else "moved.nii.gz"
    os.rename(tmp_path / f"b_{column}.{'csv' if 'points' in column else 'nii.gz'}", tmp_path / "out/a" / name)
    rows = [f"{p}," + ",".join(f"{p}_{n}.nii.gz" for n in COLUMNS.split(",")[1:]) for p in "ab"]
    rows = [row + f",{row[0]}_fixed_points.csv,{row[0]}_moving_points.csv" for row in rows]
    rows[1] = rows[1].replace(f"b_{column}.{'csv' if 'points' in column else 'nii.gz'}", f"linked/{name}")
    (tmp_path / "pairs.csv").write_text("\n".join([f"{COLUMNS},fixed_points,moving_points", *rows]) + "\n")
    before = (tmp_path / "out/a" / name).read_bytes()
    with pytest.raises(ValueError, match=f"{name} is read and would be replaced by a result"):
        register_manifest(tmp_path / "pairs.csv", tmp_path / "out", weights=weights)
    assert (tmp_path / "out/a" / name).read_bytes() == before


def test_paths_are_relative_to_a_linked_manifest_for_check_and_batch(weights, tmp_path, monkeypatch):
    for folder in ("template", "patient"):
        (tmp_path / folder).mkdir()
        manifest = write_tiny_pairs(tmp_path / folder)
    manifest.unlink()
    manifest.symlink_to(tmp_path / "template/manifest.csv")
    read = []
    monkeypatch.setattr(batch, "register_files", lambda fixed, *_given, **_options: read.append(fixed))
    register_manifest(manifest, tmp_path / "out", weights=weights, workers=1, device="cpu")
    assert [path.parent.name for path in read] == ["patient"] * 3
    for name in ("fixed", "moving"):  # check looks at the same ones
        (tmp_path / f"patient/a_{name}.nii.gz").write_bytes(b"no image")
    assert f"{tmp_path}/patient/a_fixed.nii.gz" in " ".join(check_manifest(manifest, workers=1)[1])


def test_a_result_goes_stale_with_all_code_that_registers(repository):
    """Everything that the tool imports, but for what reads tables, keeps files, and shows or compares results."""
    todo, closure = {"mine_reg/pair_tool/files.py"}, set()
    while todo:
        closure.add(path := todo.pop())
        todo |= imported(repository, (repository / path).read_text(encoding="utf-8")) - closure
    free = ("mine_reg/storage/", "mine_reg/settings.py", "mine_reg/parameters/")
    decides = tuple(f"mine_reg/{name}" for name in DECIDING)
    assert not [path for path in closure if not path.startswith((*decides, *free)) and not path.endswith("__init__.py")]
