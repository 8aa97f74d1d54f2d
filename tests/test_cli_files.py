"""What the command reads and writes: points of every kind, sentences in place of tracebacks, nothing half-written."""

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import save_file
from test_check import change, write_tiny_pairs
from typer.testing import CliRunner

from mine_reg.cli import app
from mine_reg.images.points import read_point_list
from mine_reg.storage.writing import BEGUN
from mine_reg.training.weights import SHIPPED


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


SHIFT = (2.0, -4.0, 5.0)


@pytest.fixture
def data(tmp_path):
    """Good tiny pairs, and a transform that shifts by SHIFT, of some size."""
    write_tiny_pairs(tmp_path)
    field = sitk.Image([20, 20, 20], sitk.sitkVectorFloat64, 3)
    field.SetOrigin((-200.0, -200.0, 0.0))
    field.SetSpacing((25.0, 25.0, 25.0))
    shift = sitk.AffineTransform(3)
    shift.SetTranslation(SHIFT)
    sitk.WriteTransform(
        sitk.CompositeTransform([shift, sitk.DisplacementFieldTransform(field)]), str(tmp_path / "t.h5")
    )
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("given", ["p.csv", "P.CSV", "p.fcsv", "P.FCSV", "p.mrk.json", "p.JSON"])
@pytest.mark.parametrize("out", ["o.csv", "o.fcsv", "O.mrk.json"])
def test_points_go_from_any_kind_to_any_kind(run, data, given, out):
    points = np.array([[1.0, 2.0, 3.0], [-60.0, 0.0, 250.0]])
    controls = [{"label": f"F-{n}", "position": [-x, -y, z]} for n, (x, y, z) in enumerate(points.tolist(), 1)]
    rows = "".join(f"{n},{-x},{-y},{z},0,0,0,1,1,1,0,F-{n},,\n" for n, (x, y, z) in enumerate(points.tolist(), 1))
    texts = {
        "csv": "label,x,y,z\n" + "".join(f"F-{n},{x},{y},{z}\n" for n, (x, y, z) in enumerate(points.tolist(), 1)),
        "fcsv": "# CoordinateSystem = RAS\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,a\n" + rows,
        "json": json.dumps({"markups": [{"coordinateSystem": "RAS", "controlPoints": controls}]}),
    }
    (data / given).write_text(texts[given.lower().rpartition(".")[2]])
    result = run("apply", data / "t.h5", data / given, data / out)
    assert result.exit_code == 0 and result.stderr == "" and f"{out} is written" in result.stdout
    found = read_point_list(data / out)
    np.testing.assert_allclose(found.xyz, points + SHIFT, atol=1e-4)
    assert found.labels == ["F-1", "F-2"]


def test_points_that_were_never_placed_are_said(run, data):
    controls = [{"label": "F-1", "position": [1, 2, 3]}, {"label": "F-2", "positionStatus": "undefined"}]
    text = json.dumps({"markups": [{"coordinateSystem": "LPS", "controlPoints": controls}]})
    (data / "p.mrk.json").write_text(text)
    result = run("apply", data / "t.h5", data / "p.mrk.json", data / "o.csv")
    assert result.exit_code == 0
    assert result.stderr == f"Warning: {data / 'p.mrk.json'}: left out, since never placed: F-2\n"


REFUSED = {  # arguments after `mine-reg`, and what standard error must hold; {d} is the data's folder
    "image without a reference": ("apply {d}/t.h5 {d}/a_moving.nii.gz {d}/o.nii.gz", "an image needs --reference"),
    "an ending that nothing has": (
        "apply {d}/t.h5 {d}/a_moving.nii.gz {d}/o.png --reference {d}/a_fixed.nii.gz",
        "o.png has no ending of an image that can be written; end it in .nii.gz, .nii, .nrrd or .mha",
    ),
    "no ending": ("apply {d}/t.h5 {d}/a_moving.nii.gz {d}/o --reference {d}/a_fixed.nii.gz", "o has no ending of an"),
    "two files": ("apply {d}/t.h5 {d}/a_moving.nii.gz {d}/o.mhd --reference {d}/a_fixed.nii.gz", "o.mhd has no ending"),
    "an ending is said before the work": ("apply {d}/no.h5 {d}/no.nii.gz {d}/o.png --reference {d}/no.nii.gz", "o.png"),
    "points as an image": ("apply {d}/t.h5 {d}/a_fixed_points.csv {d}/o.nii.gz", "end it in .csv, .fcsv or .mrk.json"),
    "onto the input": (
        "apply {d}/t.h5 {d}/a_moving.nii.gz {d}/a_moving.nii.gz --reference {d}/a_fixed.nii.gz",
        "a_moving.nii.gz is read and would be replaced by the result; write to another file",
    ),
    "onto the reference": (
        "apply {d}/t.h5 {d}/a_moving.nii.gz {d}/x/../a_fixed.nii.gz --reference {d}/a_fixed.nii.gz",
        "is read and would be replaced",
    ),
    "onto the points": (
        "apply {d}/t.h5 {d}/a_fixed_points.csv {d}/a_fixed_points.csv",
        "is read and would be replaced",
    ),
    "onto a link to the transform": ("apply {d}/t.h5 {d}/a_fixed_points.csv {d}/link.csv", "is read and would be repl"),
    "into a folder": ("apply {d}/t.h5 {d}/a_fixed_points.csv {d}/folder.csv", "folder.csv: is a folder; name a file"),
    "below a file": ("apply {d}/t.h5 {d}/a_fixed_points.csv {d}/t.h5/o.csv", "t.h5"),
    "no transform": ("apply {d}/no.h5 {d}/a_fixed_points.csv {d}/o.csv", "no.h5 does not exist; give the transform.h5"),
    "a transform that is cut": ("apply {d}/cut.h5 {d}/a_fixed_points.csv {d}/o.csv", "cut.h5 is not a transform that"),
    "a folder as transform": ("apply {d} {d}/a_fixed_points.csv {d}/o.csv", "is a folder; give the transform.h5 in it"),
    "no such points": ("apply {d}/t.h5 {d}/no.csv {d}/o.csv", "no.csv: No such file or directory"),
    "evaluate onto an input": (
        "evaluate {d}/a_fixed.nii.gz {d}/a_moving.nii.gz {d}/t.h5 --out {d}/t.h5",
        "t.h5 is read",
    ),
    "evaluate into a folder": (
        "evaluate {d}/a_fixed.nii.gz {d}/a_moving.nii.gz {d}/t.h5 --out {d}",
        "is a folder; name",
    ),
    "no such device": (
        "register {d}/a_fixed.nii.gz {d}/a_moving.nii.gz --out {d}/o --device mps",
        "there is no device 'mps'; give cpu, cuda or cuda:N",
    ),
    "no GPU": (
        "register {d}/a_fixed.nii.gz {d}/a_moving.nii.gz --out {d}/o --device cuda:99",
        "device cuda:99: PyTorch",
    ),
    "no such device for a table": ("batch {d}/manifest.csv --out {d}/o --device gpu", "there is no device 'gpu'; give"),
    "no such weights": (
        "register {d}/a_fixed.nii.gz {d}/a_moving.nii.gz --out {d}/o --weights best",
        "no weights 'best'",
    ),
    "no such weights for a table": ("batch {d}/manifest.csv --out {d}/o --weights {d}/no.safetensors", "no weights"),
    "a table into a file": ("batch {d}/manifest.csv --out {d}/t.h5", "t.h5"),
    "a result below a file": ("register {d}/a_fixed.nii.gz {d}/a_moving.nii.gz --out {d}/t.h5/o", "t.h5"),
    "a result onto a file": ("register {d}/a_fixed.nii.gz {d}/a_moving.nii.gz --out {d}/t.h5", "t.h5: File exists"),
    "a result into the folder that is read": (
        "register {d} {d}/a_moving.nii.gz --out {d}/new",
        "which is read; give an",
    ),
    "a result onto what is read": (
        "register {d}/moved.nii.gz {d}/a_moving.nii.gz --out {d}",
        "moved.nii.gz is read and",
    ),
}


@pytest.mark.parametrize(("command", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(run, data, capfd, command, said):
    (data / "link.csv").symlink_to("a_fixed_points.csv")
    (data / "folder.csv").mkdir()
    (data / "cut.h5").write_bytes((data / "t.h5").read_bytes()[:-1000])
    (data / "moved.nii.gz").write_bytes((data / "a_fixed.nii.gz").read_bytes())
    before, paths = contents(data), sorted(data.rglob("*"))
    result = run(*(part.format(d=data) for part in command.split()))
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.startswith("Error: ") and said in result.stderr and result.stderr.count("\n") == 1
    assert contents(data) == before and sorted(data.rglob("*")) == paths
    assert capfd.readouterr().err == ""  # nothing of ITK beside it


def test_options_that_make_no_sense_are_typers(run, data):
    for options in (["--refine", "-1"], ["--refine", "many"], ["--no-such-option"]):
        result = run("register", data / "a_fixed.nii.gz", data / "a_moving.nii.gz", "--out", data / "o", *options)
        assert result.exit_code == 2 and "Usage" in result.stderr


def test_weights_of_another_kind_are_said(run, data):
    with open(data / "pickle.safetensors", "wb") as file:
        pickle.dump({"weights": 1}, file)
    torch.save({"a": torch.zeros(3)}, data / "torch.pt")
    save_file({"x": torch.zeros(3)}, data / "other.safetensors")
    save_file({"x": torch.zeros(3)}, data / "header.safetensors", metadata={"affinenet": "3", "recipe": "{}"})
    save_file({"x": torch.full((3,), torch.nan)}, data / "nan.safetensors")
    (data / "cut.safetensors").write_bytes((SHIPPED / "miregnet.safetensors").read_bytes()[:-100])
    (data / "empty.safetensors").write_bytes(b"")
    for name in (
        "pickle.safetensors",
        "torch.pt",
        "other.safetensors",
        "header.safetensors",
        "nan.safetensors",
        "cut.safetensors",
        "empty.safetensors",
    ):
        result = run("batch", data / "manifest.csv", "--out", data / "o", "--weights", data / name)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {data / name} does not hold the weights of a registration (")
        assert result.stderr.count("\n") == 1 and not (data / "o").exists()


def test_a_label_map_without_label_is_said(run, data):
    def apply(given, *how):
        arguments = (data / "t.h5", data / given, data / "o.nii.gz", "--reference", data / "a_fixed.nii.gz", *how)
        result = run("apply", *arguments)
        assert result.exit_code == 0
        return result.stderr

    said = apply("a_moving_mask.nii.gz")
    assert said.startswith("Warning: ") and "a_moving_mask.nii.gz looks like a label map" in said
    assert apply("a_moving.nii.gz") == apply("a_moving_mask.nii.gz", "--label") == ""


def test_mixed_up_points_are_said(run, data):
    points = pd.DataFrame(
        np.random.default_rng(0).uniform([-100, -100, 150], [100, 50, 350], (20, 3)), columns=list("xyz")
    )
    points.to_csv(data / "f.csv", index=False)
    (points + np.array(SHIFT))[::-1].to_csv(data / "m.csv", index=False)
    given = ["--fixed-points", data / "f.csv", "--moving-points", data / "m.csv", "--out", data / "scores.json"]
    result = run("evaluate", data / "a_fixed.nii.gz", data / "a_moving.nii.gz", data / "t.h5", *given)
    assert result.exit_code == 0 and json.loads((data / "scores.json").read_text())["tre_mm_after"] > 50
    assert result.stderr.startswith("Warning: it looks as if the rows of one of the point files are in reverse order")
    change(data / "manifest.csv", fixed_points="f.csv", moving_points="m.csv")
    result = run("check", data / "manifest.csv", "--workers", 1)
    assert result.exit_code == 0 and "f.csv and" in result.stdout and "are in reverse order" in result.stdout


def test_slicers_points_are_read_in_manifests_and_evaluated(run, data):
    for name, shift in (("f", np.zeros(3)), ("m", np.array(SHIFT))):
        points = pd.read_csv(data / "a_fixed_points.csv").to_numpy() + shift
        controls = [{"label": str(n), "position": [-x, -y, z]} for n, (x, y, z) in enumerate(points.tolist())]
        text = json.dumps({"markups": [{"coordinateSystem": "RAS", "controlPoints": controls}]})
        (data / f"{name}.mrk.json").write_text(text)
    given = ["--fixed-points", data / "f.mrk.json", "--moving-points", data / "m.mrk.json", "--out", data / "s.json"]
    result = run("evaluate", data / "a_fixed.nii.gz", data / "a_moving.nii.gz", data / "t.h5", *given)
    assert result.exit_code == 0 and result.stderr == ""
    scores = json.loads((data / "s.json").read_text())
    assert scores["tre_mm_before"] == pytest.approx(np.linalg.norm(SHIFT)) and scores["tre_mm_after"] < 1e-3
    change(data / "manifest.csv", fixed_points="f.mrk.json", moving_points="m.mrk.json")
    result = run("check", data / "manifest.csv", "--workers", 1)
    assert result.exit_code == 0 and "6.71" in result.stdout  # |SHIFT|


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "mine_reg.cli", *map(str, arguments)]


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.parametrize("out", ["o.nii.gz", "o.nii", "o.nrrd", "o.mha"])
def test_a_result_that_does_not_fit_is_one_sentence(data, out):
    noise = np.random.default_rng(0).integers(-1000, 1000, (60, 60, 60)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(data / "large.nii.gz"))
    arguments = ("apply", data / "t.h5", data / "large.nii.gz", data / out, "--reference", data / "large.nii.gz")
    done = subprocess.run(command(*arguments), preexec_fn=small_files, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == "" and done.stderr == f"Error: {data / out}: File too large\n"
    assert not (data / out).exists() and not list(data.glob(f"{BEGUN}*"))


def test_numbers_that_do_not_fit_and_a_result_that_does_not(data):
    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))

    before = contents(data)
    images = (data / "a_fixed.nii.gz", data / "a_moving.nii.gz")
    for arguments, name, limit in (
        (("evaluate", *images, data / "t.h5", "--out", data / "s.json"), "s.json", full),
        (("apply", data / "t.h5", data / "a_fixed_points.csv", data / "o.csv"), "o.csv", full),
        (("apply", data / "t.h5", data / "a_fixed_points.csv", data / "o.mrk.json"), "o.mrk.json", full),
    ):
        done = subprocess.run(command(*arguments), preexec_fn=limit, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stdout == "" and done.stderr == f"Error: {data / name}: File too large\n"
        assert contents(data) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.usefixtures("heard_signals")
def test_a_command_that_is_stopped_leaves_nothing(data, number, code):
    """Stopped while it reads an image that never comes."""
    os.mkfifo(data / "slow.csv")
    arguments = ("apply", data / "t.h5", data / "slow.csv", data / "new/o.csv")
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with open(data / "slow.csv", "w"):  # waits until the command has opened it to read
        time.sleep(0.2)
        process.send_signal(number)
        said = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in said[1] and said[0] == ""
    assert not (data / "new").exists() and not list(data.rglob(f"{BEGUN}*"))
