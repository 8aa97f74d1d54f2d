"""What the command refuses before or instead of a result that would be empty, lost or half of what was asked for."""

import re
import subprocess
import sys

import pytest
import SimpleITK as sitk
from test_check import write_tiny_pairs

from mine_reg.pairs.check import check_manifest

FIXED, MOVING, POINTS = "a_fixed.nii.gz", "a_moving.nii.gz", "a_fixed_points.csv"
REFUSED = {  # arguments after `mine-reg`, and what standard error must hold
    "an image that is elsewhere": (f"apply far.tfm {MOVING} o.nii.gz --reference {FIXED}", f"{MOVING} lies nowhere in"),
    "a label that is elsewhere": (f"apply far.tfm a_moving_mask.nii.gz o.nrrd --reference {FIXED} --label", "nowhere"),
    "one mask of two": (f"evaluate {FIXED} {MOVING} t.tfm --fixed-mask a_fixed_mask.nii.gz", "must be given together"),
    "the other mask": (f"evaluate {FIXED} {MOVING} t.tfm --moving-mask a_moving_mask.nii.gz", "must be given together"),
    "a folder in the place of a result": (
        f"register {FIXED} {MOVING} --out taken",
        "moved.nii.gz: is a folder in the place of a result; remove it",
    ),
    # names that are not UTF-8, as from old archives: ITK ends the process at them
    "an output of another name": (f"apply t.tfm {POINTS} o\udcfc.csv", "has a name that is not UTF-8; rename it"),
    "an image of another name": (f"apply t.tfm a\udcfc.nii.gz o.nii.gz --reference {FIXED}", "is not UTF-8"),
    "an NRRD of another name": (f"register a\udcfc.nrrd {MOVING} --out o", "is not UTF-8"),
    "a transform of another name": (f"apply t\udcfc.tfm {POINTS} o.csv", "is not UTF-8"),
    "a field of another name": (f"apply t\udcfc.nii.gz {POINTS} o.csv", "is not UTF-8"),
    "an output folder of another name": (f"register {FIXED} {MOVING} --out o\udcfc", "is not UTF-8"),
}


@pytest.fixture
def data(tmp_path):
    write_tiny_pairs(tmp_path)
    for name, shift in (("t", 1.0), ("far", 5000.0)):
        sitk.WriteTransform(sitk.TranslationTransform(3, (shift, 0.0, 0.0)), str(tmp_path / f"{name}.tfm"))
    for name, other in (("t.tfm", "t\udcfc.tfm"), (FIXED, "a\udcfc.nii.gz"), (FIXED, "t\udcfc.nii.gz")):
        (tmp_path / other).write_bytes((tmp_path / name).read_bytes())
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / FIXED)), str(tmp_path / "a.nrrd"))
    (tmp_path / "a.nrrd").rename(tmp_path / "a\udcfc.nrrd")
    (tmp_path / "taken/moved.nii.gz").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(("command", "said"), REFUSED.values(), ids=REFUSED)
def test_it_is_one_sentence_and_leaves_nothing(data, command, said):
    before = sorted(data.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "mine_reg.cli", *command.split()], cwd=data, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stdout == "" and said in done.stderr
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
    assert sorted(data.rglob("*")) == before


def test_a_mask_with_nothing_in_the_reference_is_written(data):
    """All 0, and rightly so: the images meet."""
    mask = sitk.ReadImage(str(data / "a_moving_mask.nii.gz")) * 0
    sitk.WriteImage(mask, str(data / "empty.nii.gz"))
    command = ["apply", "t.tfm", "empty.nii.gz", "o.nii.gz", "--reference", FIXED, "--label"]
    subprocess.run([sys.executable, "-m", "mine_reg.cli", *command], cwd=data, check=True)
    assert (data / "o.nii.gz").is_file()


@pytest.mark.parametrize("what", ["a long name", "a circle of links", "HeaderSize", "400 digits"])
def test_whatever_is_wrong_with_one_pair_the_others_are_looked_at(data, what):
    table, bad = (data / "manifest.csv").read_text(), "a_fixed_points.csv" if what == "400 digits" else FIXED
    named = {"a long name": "n" * 300 + ".nii.gz", "a circle of links": "loop.nii.gz", "HeaderSize": "h.mhd"}
    name = named.get(what, "p.mrk.json")
    (data / "loop.nii.gz").symlink_to("loop.nii.gz")
    header = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementSpacing = 1 1 1\nElementType = MET_SHORT\n"
    (data / "h.mhd").write_text(f"{header}HeaderSize = auto\nElementDataFile = h.raw\n")
    (data / "h.raw").write_bytes(bytes(128))
    (data / "p.mrk.json").write_text(
        '{"markups": [{"coordinateSystem": "LPS", "controlPoints": [{"position": [%s, 0, 0]}]}]}' % ("9" * 400)
    )
    (data / "manifest.csv").write_text(table.replace(bad, name))
    rows, problems, _ = check_manifest(data / "manifest.csv", workers=1)
    assert rows["pair_id"].tolist() == ["a", "b", "c"] and rows["fixed_size"][1:].notna().all()
    assert len(problems) == 1 and re.search("pair a", problems[0]) and "\n" not in problems[0]


def test_no_workers_is_said(data):
    with pytest.raises(ValueError, match="workers is 0; give how many"):
        check_manifest(data / "manifest.csv", workers=0)
