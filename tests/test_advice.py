"""What a message of the pair tool or of `check` tells its reader to do is done here, and then it works."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from known_networks import SIZE, SPACING, turned
from typer.testing import CliRunner

from mine_reg.cli import app
from mine_reg.images.geometry import to_image
from mine_reg.pair_tool.register import register
from mine_reg.pair_tool.report import evaluate
from mine_reg.pairs.check import check_manifest
from mine_reg.synthetic.phantom import grid_origin

ROLES = ("fixed", "moving")


def images_of(pair, spacing=SPACING, change=lambda hu, lung: hu):
    """Fixed and moving image, and masks by the names of arguments; ``change`` makes other HU."""
    origin = [value * spacing / SPACING for value in grid_origin(SIZE, SPACING)]

    def image(values, dtype):
        return to_image(values, (spacing,) * 3, origin, dtype=dtype)

    masks = {role: getattr(pair, f"{role}_mask").numpy().reshape(SIZE) > 0.5 for role in ROLES}
    scans = [image(change(getattr(pair, role).numpy().reshape(SIZE), masks[role]), "int16") for role in ROLES]
    return scans, {f"{role}_mask": image(masks[role], "uint8") for role in ROLES}


def children(pair):
    return images_of(pair, SPACING / 3)


def dense(pair):
    return images_of(pair, change=lambda hu, lung: np.where(lung, 0.35 * hu - 20, hu))


def cropped(pair):
    scans, masks = images_of(pair)
    box = slice(30, 46), slice(20, 38), slice(20, 38)  # within one side of the chest
    return [scan[box] for scan in scans], {name: mask[box] for name, mask in masks.items()}


def points_of(pair, scale, mask):
    """Corresponding points inside the fixed scan."""
    fixed, moving = (getattr(pair, f"{role}_points_xyz").numpy() * scale for role in ROLES)
    index = [mask.TransformPhysicalPointToContinuousIndex(point) for point in fixed.astype(float).tolist()]
    inside = ((np.array(index) > 0) & (np.array(index) < np.array(mask.GetSize()) - 1)).all(1)
    return {"fixed_points": fixed[inside], "moving_points": moving[inside]}


def about_lungs(report) -> list[str]:
    return [sentence for sentence in report["warnings"] if "no lungs could be found" in sentence]


@pytest.mark.parametrize("scan", [children, dense, cropped])
def test_where_no_lungs_are_found_masks_are_asked_for_and_then_drive_it(pair, scan):
    (fixed, moving), masks = scan(pair)
    points = points_of(pair, 1 / 3 if scan is children else 1, masks["fixed_mask"])
    bare = register(fixed, moving, device="cpu", **points).report
    assert about_lungs(bare) == [
        "no lungs could be found in the fixed and moving image, so the whole body took their place; if it shows lungs, "
        "give lung masks as fixed_mask and moving_mask"
    ]
    report = register(fixed, moving, device="cpu", **masks, **points).report
    assert (bare["region"], report["region"]) == ("body", "mask") and bare["region_dsc"] is None
    assert not about_lungs(report) and 0 < report["region_dsc"] <= 1
    # a crop's masks end at its border; region_dsc leaves out what has moved across it
    assert report["region_dsc" if scan is cropped else "dsc_after"] > report["dsc_before"]
    assert report["mutual_information_after"] >= report["mutual_information_before"] > 0
    assert report["tre_mm_after"] < 0.6 * report["tre_mm_before"]


def test_refinement_goes_on_within_the_mask(pair):
    (fixed, moving), masks = cropped(pair)
    points = points_of(pair, 1, masks["fixed_mask"])
    report = register(fixed, moving, refine=40, device="cpu", **masks, **points).report
    did = report["refinement"]
    assert did["best_step"] > 0
    assert did["objective_after"] <= did["objective_before"]
    assert report["mutual_information_after"] > report["mutual_information_before"]
    assert report["tre_mm_after"] < report["tre_mm_before"]


def test_where_one_image_shows_no_lungs_its_mask_is_enough(pair, weights):
    (fixed, _), masks = dense(pair)
    moving = turned(pair.moving)
    report = register(fixed, moving, weights, device="cpu").report
    assert "found in the fixed image" in about_lungs(report)[0] and about_lungs(report)[0].endswith("as fixed_mask")
    report = register(fixed, moving, weights, device="cpu", fixed_mask=masks["fixed_mask"]).report
    assert not about_lungs(report)
    assert report["region"] == "mask" and report["region_dsc"] is None  # a mask and lungs that were found: two kinds


def test_masks_drive_where_lungs_are_found_too(pair, weights):
    """Half of the left lung, marked in both images: the grid is around it, and what is measured is measured there."""
    (fixed, moving), masks = images_of(pair)
    for mask in masks.values():
        mask[:30, :, :], mask[:, :, 30:] = 0, 0  # all but what is left and below
    bare, marked = (register(fixed, moving, weights, device="cpu", **given) for given in ({}, masks))
    assert (bare.report["region"], marked.report["region"]) == ("lungs", "mask")
    assert marked.report["working_spacing_mm"] < bare.report["working_spacing_mm"]
    middle = [image.TransformContinuousIndexToPhysicalPoint([63.0] * 3) for image in (bare.dvf, marked.dvf)]
    assert middle[1][0] > middle[0][0] + 30 and middle[1][2] < middle[0][2] - 20
    assert "dsc_after" in marked.report and "dsc_after" not in bare.report
    same = [result.report[name] for result in (bare, marked) for name in ("agreement", "mutual_information_before")]
    assert same[:2] != same[2:]


def test_a_mask_of_a_speck_is_said(pair, weights):
    (fixed, moving), masks = dense(pair)
    speck = masks["fixed_mask"] * 0
    small = sitk.Resample(speck, [n * 4 for n in SIZE], sitk.Transform(), sitk.sitkNearestNeighbor,
                          speck.GetOrigin(), [SPACING / 4] * 3, speck.GetDirection())  # fmt: skip
    small[100, 100, 100] = 1
    fine = sitk.Resample(fixed, small, sitk.Transform(), sitk.sitkLinear, -1000.0)
    with pytest.raises(
        ValueError, match="fixed_mask marks nothing that is 4 mm wide; it must mark what is to be registered$"
    ):
        register(fine, moving, weights, device="cpu", fixed_mask=small, moving_mask=masks["moving_mask"])


def test_advice_of_register_and_evaluate(pair, weights):
    (fixed, moving), masks = images_of(pair)
    with pytest.raises(ValueError, match="hold no T, which refine needs; leave refine out, or give other weights"):
        register(fixed, moving, weights, refine=1, device="cpu")
    transform = register(fixed, moving, weights, device="cpu").transform
    points = points_of(pair, 1, masks["fixed_mask"])
    with pytest.raises(ValueError, match="points were given of one image alone; give fixed and moving points"):
        evaluate(fixed, moving, transform, fixed_points=points["fixed_points"])
    assert "tre_mm_after" in evaluate(fixed, moving, transform, **points)
    other = turned(pair.fixed_mask, angle=0.1, dtype="uint8")
    with pytest.raises(ValueError, match="fixed_mask is on another grid than fixed: .*; resample it to its image"):
        evaluate(fixed, moving, transform, other, masks["moving_mask"])
    mended = sitk.Resample(other, fixed, sitk.Transform(), sitk.sitkNearestNeighbor)
    assert evaluate(fixed, moving, transform, mended, masks["moving_mask"])["dsc_before"] > 0.8


def write(folder, pair, **changes):
    """A manifest of one pair with files, some of them changed."""
    scans, masks = images_of(pair)
    images = dict(zip(ROLES, scans, strict=True)) | masks | changes
    for name in (*ROLES, "fixed_mask", "moving_mask"):
        sitk.WriteImage(images[name], str(folder / f"{name}.nii.gz"))
    row = {"pair_id": "a"} | {name: f"{name}.nii.gz" for name in (*ROLES, "fixed_mask", "moving_mask")}
    for role in ROLES:
        given = images.get(f"{role}_points", getattr(pair, f"{role}_points_xyz").numpy())
        pd.DataFrame(given, columns=list("xyz")).to_csv(folder / f"{role}_points.csv", index=False)
        row[f"{role}_points"] = f"{role}_points.csv"
    pd.DataFrame([row]).to_csv(folder / "pairs.csv", index=False)
    return folder / "pairs.csv"


def said(manifest) -> str:
    _, problems, remarks = check_manifest(manifest, workers=1)
    return "\n".join(problems + remarks)


def test_advice_of_check(pair, tmp_path):
    (fixed, moving), _ = images_of(pair)
    good = said(write(tmp_path, pair))
    raised = {role: sitk.Cast(image + 1024, sitk.sitkInt16) for role, image in zip(ROLES, (fixed, moving), strict=True)}
    assert "so subtract 1024" in said(write(tmp_path, pair, **raised))
    assert said(write(tmp_path, pair, **{role: image - 1024 for role, image in raised.items()})) == good
    ras = {f"{role}_points": getattr(pair, f"{role}_points_xyz").numpy() * [-1, -1, 1] - [0, 500, 0] for role in ROLES}
    assert "has no point inside" in said(write(tmp_path, pair, **ras))
    back = {name: (points + [0, 500, 0]) * [-1, -1, 1] for name, points in ras.items()}
    assert said(write(tmp_path, pair, **back)) == good
    assert "are the same image; give two different ones" in said(write(tmp_path, pair, moving=fixed))
    assert "are the same image" not in good


def run(*command):
    done = CliRunner().invoke(app, [str(part) for part in command])
    return done.exit_code, re.sub(r"\s+", " ", done.output)


def test_advice_of_commands(pair, weights, tmp_path):
    manifest = write(tmp_path, pair)
    scans = [tmp_path / f"{role}.nii.gz" for role in ROLES]
    options = ["--weights", weights, "--device", "cpu"]
    code, output = run("register", *scans, "--out", tmp_path / "out", "--device", "cuda", "--weights", weights)
    assert code == 1 and "leave the device out, or give cpu" in output
    assert run("register", *scans, "--out", tmp_path / "out", *options)[0] == 0
    transform, out = tmp_path / "out/transform.h5", tmp_path / "moved.nii.gz"
    code, output = run("apply", transform, scans[1], out)
    assert code == 1 and "an image needs --reference" in output
    assert run("apply", transform, scans[1], out, "--reference", scans[0])[0] == 0
    code, output = run("apply", tmp_path / "transform.h5", scans[1], out, "--reference", scans[0])
    assert code == 1 and "does not exist; give the transform.h5 that `mine-reg register` has written" in output
    code, output = run("register", *scans, "--out", tmp_path / "again", "--weights", "best", "--device", "cpu")
    name = re.search(r"the package holds (\w+)", output)[1]
    assert code == 1
    assert run("register", *scans, "--out", tmp_path / "again", "--weights", name, "--device", "cpu")[0] == 0
    cut = tmp_path / "affine.tfm"
    sitk.WriteTransform(sitk.AffineTransform(3), str(cut))
    cut.write_text(cut.read_text().rstrip("\n"))
    code, output = run("evaluate", *scans, cut)
    assert code == 1 and "add a line break when it is whole" in output
    cut.write_text(cut.read_text() + "\n")
    assert run("evaluate", *scans, cut)[0] == 0
    code, output = run("apply", transform, scans[1], scans[1], "--reference", scans[0])
    assert code == 1 and "write to another file" in output
    code, output = run("batch", manifest, "--out", tmp_path / "batch", *options, "--refine", 1)
    assert code == 1 and "leave refine out" in (tmp_path / "batch/summary.csv").read_text()
    assert run("batch", manifest, "--out", tmp_path / "batch", *options)[0] == 0


def test_a_batch_takes_masks_where_no_lungs_are_found(pair, weights, tmp_path):
    (fixed, moving), masks = dense(pair)
    manifest = write(tmp_path, pair, fixed=fixed, moving=moving, **masks)
    code, output = run("batch", manifest, "--out", tmp_path / "out", "--weights", weights, "--device", "cpu")
    assert code == 0, output
    assert "took their place" not in (tmp_path / "out/summary.csv").read_text()
    assert json.loads((tmp_path / "out/a/report.json").read_text())["region"] == "mask"
