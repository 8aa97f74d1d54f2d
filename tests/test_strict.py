"""`--strict`: what the verdict on a result is, the exit status says, too; the result is written either way."""

import json

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from known_networks import SIZE, SPACING, known_weights, turned
from typer.testing import CliRunner

from mine_reg.cli import app
from mine_reg.synthetic.phantom import make_pair

PAIRS = {"same": "trusted", "half": "doubtful", "noise": "failed"}
CODES = {"trusted": 0, "doubtful": 3, "failed": 4}


def like(values, image):
    made = sitk.GetImageFromArray(values.clip(-1024, 3000).astype(np.int16))
    made.CopyInformation(image)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A fixed image and moving ones: itself with noise, of that the upper half, and nothing but noise in a body."""
    folder, random = tmp_path_factory.mktemp("strict"), np.random.default_rng(0)
    pair = make_pair(SIZE, SPACING, 3)
    fixed, mask = turned(pair.fixed), turned(pair.fixed_mask, dtype="uint8")
    hu = sitk.GetArrayFromImage(fixed)
    same = like(hu + random.normal(0, 20, hu.shape), fixed)
    noise = like(np.where(hu > -900, random.uniform(-900, 400, hu.shape), hu), fixed)
    upper = (slice(None), slice(None), slice(SIZE[2] // 2, None))
    for name, image in (("fixed", fixed), ("same", same), ("half", same[upper]), ("noise", noise)):
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
        sitk.WriteImage(mask[upper] if name == "half" else mask, str(folder / f"{name}_mask.nii.gz"))
    known_weights(folder, torch.eye(3, 4), torch.zeros(3))  # networks that answer nothing
    return folder


def run(*command):
    return CliRunner().invoke(app, [str(part) for part in command])


@pytest.fixture
def options(folder):
    return ["--weights", folder / "test.safetensors", "--device", "cpu"]


@pytest.mark.parametrize("name", PAIRS)
def test_register_exits_as_its_verdict_says(folder, options, tmp_path, name):
    images, out = (folder / "fixed.nii.gz", folder / f"{name}.nii.gz"), tmp_path / "out"
    done = run("register", *images, "--out", out, "--strict", *options)
    report = json.loads((out / "report.json").read_text())
    assert report["verdict"] == PAIRS[name] and done.exit_code == CODES[PAIRS[name]], done.output
    assert f"holds the registered pair, {PAIRS[name]}, made in" in done.stdout and done.stderr == ""
    assert (out / "transform.h5").is_file() and (out / "quick_look.png").is_file()
    assert bool(report["warnings"]) == (name != "same")
    assert all(f"Warning: {sentence}." in done.stdout for sentence in report["warnings"])


def test_a_batch_exits_as_the_worst_of_its_pairs(folder, options, tmp_path):
    def batch(*names, strict=True):
        columns = ["pair_id", "fixed", "moving", "fixed_mask", "moving_mask"]
        files = [("fixed", name, "fixed_mask", f"{name}_mask") for name in names]
        rows = [[own[1], *(folder / f"{name}.nii.gz" for name in own)] for own in files]
        pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "pairs.csv", index=False)
        done = run("batch", tmp_path / "pairs.csv", "--out", tmp_path / "out", *options, *["--strict"] * strict)
        return done.exit_code, done.stdout

    code, said = batch("same", "half", "noise", strict=False)
    assert code == 0 and "lists 3 pairs, 0 of which could not be registered, and 2 of which are not to be" in said
    summary = pd.read_csv(tmp_path / "out/summary.csv").set_index("pair_id")
    assert summary["verdict"].to_dict() == PAIRS
    assert "shows only" in summary.loc["half", "warnings"] and pd.isna(summary.loc["same", "warnings"])
    assert batch("same", "half", "noise")[0] == batch("noise", "same")[0] == 4
    assert batch("half", "same")[0] == 3
    assert batch("same")[0] == 0
    assert batch("noise", "gone")[0] == 1  # what could not be registered at all comes first
