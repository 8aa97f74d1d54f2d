"""Registration of one pair: the composition of networks, grids and start is checked by hand; wrong input is refused in
a sentence."""

import json

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from known_networks import DISPLACEMENT, known_weights, turned
from typer.testing import CliRunner

import mine_reg
from mine_reg.cli import app
from mine_reg.images.geometry import same_grid
from mine_reg.images.transforms import map_points, read_transform
from mine_reg.pair_tool.files import register_files
from mine_reg.pair_tool.inputs import read_images
from mine_reg.pair_tool.register import register
from mine_reg.pair_tool.verdict import VERDICTS
from mine_reg.training.weights import load_weights_file

STRETCH = torch.tensor([[1.12, 0.08, 0.0], [0.0, 0.9, 0.05], [0.08, 0.0, 1.08]])
STEP = DISPLACEMENT / 2


@pytest.fixture(scope="module")
def right_answer(tmp_path_factory):
    """Networks whose answer leaves the middle of the working grid where it is, and their theta (3, 4)."""
    half = 63  # voxels of the fine grid
    theta = torch.cat([STRETCH, -(STRETCH @ (4 * STEP.flip(0) / half))[:, None]], dim=1)
    return known_weights(tmp_path_factory.mktemp("right"), theta, STEP), theta.numpy()


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (150.0, -40.0, 260.0)], ids=["near", "far"])
def test_the_transform_is_the_networks_answer_in_physical_space(pair, right_answer, shift):
    """Of images that agree under just that answer."""
    weights, theta = right_answer
    fixed = turned(pair.fixed, angle=0.1)
    grid = read_images(fixed, fixed, None, None, {"fixed": "fixed", "moving": "moving"}).grid
    half = (np.array(grid.GetSize()) - 1) / 2

    def truth(index):
        """Of a continuous index x, y, z of the working grid: where it goes, in mm."""
        voxel = (index + 4 * STEP.numpy()[::-1]) / half - 1  # a coarse pass, worth two fine ones, and two fine ones
        voxel = ((theta @ [*voxel, 1]) + 1) * half
        return np.array(grid.TransformContinuousIndexToPhysicalPoint(voxel.tolist()))

    middle, ways = truth(half), np.array([truth(half + step) - truth(half) for step in np.eye(3)])
    known = sitk.AffineTransform((ways.T / grid.GetSpacing()[0]).ravel().tolist(), [0.0] * 3)
    known.SetCenter(grid.TransformContinuousIndexToPhysicalPoint(half.tolist()))
    known.SetTranslation((middle - known.GetCenter()).tolist())
    moving = sitk.Resample(fixed, turned(pair.moving, angle=-0.15), known.GetInverse(), sitk.sitkLinear, -1000.0)
    moving.SetOrigin((np.array(moving.GetOrigin()) + shift).tolist())
    result = register(fixed, moving, weights, device="cpu")
    assert same_grid(result.moved, fixed) and result.moved.GetPixelID() == sitk.sitkInt16
    assert result.report["start_by"] == "networks"
    assert result.report["region_dsc"] > 0.95 and result.report["agreement"] > 0.4

    start = np.array(result.report["start_mm"])
    assert (np.linalg.norm(start) > 20) == (np.linalg.norm(shift) > 0)
    np.testing.assert_allclose(start, np.negative(shift), atol=5)  # what regions on voxels of 4 mm say
    assert same_grid(result.dvf, grid) and grid.GetDirection() == tuple(np.eye(3).ravel())
    # away from the border where u fades
    for index in np.random.default_rng(0).uniform(0.25, 0.75, (20, 3)) * 2 * half:
        got = result.transform.TransformPoint(grid.TransformContinuousIndexToPhysicalPoint(index.tolist()))
        np.testing.assert_allclose(got, truth(index) - start, atol=1e-2)
    corner = grid.TransformIndexToPhysicalPoint((0, 0, 0))  # no step where the field ends
    np.testing.assert_allclose(
        result.transform.TransformPoint(corner), map_points(result.transform, [np.array(corner) - 1e-3])[0], atol=0.01
    )
    # |T_b(T(x)) - x|: on the way back these networks say the same, which is not the inverse
    assert result.inconsistency.GetSpacing()[0] == pytest.approx(2 * grid.GetSpacing()[0])
    assert 0 < result.report["inconsistency_mm"] < result.report["inconsistency95_mm"] < 20


def test_the_report_measures_with_masks_and_points(pair, weights, tmp_path):
    fixed, moving = turned(pair.fixed), turned(pair.moving)
    masks = {
        "fixed_mask": turned(pair.fixed_mask, dtype="uint8"),
        "moving_mask": turned(pair.moving_mask, dtype="uint8"),
    }
    points = {"fixed_points": pair.fixed_points_xyz.numpy(), "moving_points": pair.moving_points_xyz.numpy()}
    result = mine_reg.register(fixed, moving, weights, device="cpu", **masks, **points)
    report = result.report
    distance = np.linalg.norm(points["fixed_points"] - points["moving_points"], axis=1).mean()
    assert report["tre_mm_before"] == pytest.approx(distance, rel=1e-4)
    mapped = map_points(result.transform, points["fixed_points"])
    assert report["tre_mm_after"] == pytest.approx(np.linalg.norm(mapped - points["moving_points"], axis=1).mean())
    # these networks only disturb, so they are not used
    assert report["start_by"].startswith("none") and report["region"] == "mask"
    assert 0 < report["dsc_before"] <= report["dsc_after"] < 1
    assert report["mutual_information_after"] >= report["mutual_information_before"]
    assert set(report["seconds"]) == {"read", "register", "check", "warp", "total"}
    assert report["seconds"]["total"] >= sum(report["seconds"][part] for part in ("read", "register", "check", "warp"))
    assert report["verdict"] in VERDICTS and json.loads(json.dumps(report)) == report
    assert report["folding_percent"] == 0 and report["seconds"]["total"] > 0


def test_files_come_out_complete_and_apply_repeats_them(pair, weights, tmp_path):
    for name in ("fixed", "moving"):
        sitk.WriteImage(turned(getattr(pair, name), angle=0.1), str(tmp_path / f"{name}.nii.gz"))
    sitk.WriteImage(turned(pair.moving_mask, angle=0.1, dtype="uint8"), str(tmp_path / "label.nii.gz"))
    sitk.WriteImage(turned(pair.fixed_mask, angle=0.1, dtype="uint8"), str(tmp_path / "lungs.nii.gz"))
    pd.DataFrame(pair.fixed_points_xyz.numpy(), columns=list("xyz")).to_csv(tmp_path / "points.csv", index=False)
    pd.DataFrame(pair.moving_points_xyz.numpy(), columns=list("xyz")).to_csv(
        tmp_path / "moving_points.csv", index=False
    )
    out = tmp_path / "out"
    command = [
        "register",
        str(tmp_path / "fixed.nii.gz"),
        str(tmp_path / "moving.nii.gz"),
        "--out",
        str(out),
        "--weights",
        str(weights),
        "--device",
        "cpu",
        "--inverse",
        "--learn2reg",
        "--inconsistency",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        "moved.nii.gz",
        "dvf.nii.gz",
        "report.json",
        "quick_look.png",
        "transform.h5",
        "0GenericAffine.mat",
        "1Warp.nii.gz",
        "inverse.h5",
        "1InverseWarp.nii.gz",
        "learn2reg_displacement.nii.gz",
        "inconsistency.nii.gz",
    }
    report = json.loads((out / "report.json").read_text())
    assert report["inverse_max_error_mm"] < 0.5
    assert f"holds the registered pair, {report['verdict']}, made in" in done.stdout
    missed = sitk.ReadImage(str(out / "inconsistency.nii.gz"))
    assert missed.GetSpacing()[0] == pytest.approx(2 * report["working_spacing_mm"])
    lungs = sitk.Resample(sitk.ReadImage(str(tmp_path / "lungs.nii.gz")), missed, sitk.Transform(), sitk.sitkLinear)
    inside = sitk.GetArrayFromImage(missed)[sitk.GetArrayFromImage(lungs) > 0]
    assert np.median(inside) == pytest.approx(report["inconsistency_mm"], rel=0.1)
    assert (out / "quick_look.png").read_bytes().startswith(b"\x89PNG")

    for name, dtype in (("fixed_mask", "uint8"), ("moving", "int16"), ("moving_mask", "uint8")):
        shift = (0.0, 0.0, 0.0) if name == "fixed_mask" else (900.0, 0.0, 0.0)
        sitk.WriteImage(
            turned(getattr(pair, name), shift, angle=0.1, dtype=dtype), str(tmp_path / f"far_{name}.nii.gz")
        )
    register_files(
        tmp_path / "fixed.nii.gz",
        tmp_path / "far_moving.nii.gz",
        tmp_path / "far",
        weights=weights,
        device="cpu",
        fixed_mask=tmp_path / "far_fixed_mask.nii.gz",
        moving_mask=tmp_path / "far_moving_mask.nii.gz",
    )
    assert (
        json.loads((tmp_path / "far/report.json").read_text(), parse_constant=pytest.fail)["hd_mm_before"] is None
    )  # no lungs on the fixed grid: inf

    again = [
        "apply",
        str(out / "transform.h5"),
        str(tmp_path / "moving.nii.gz"),
        str(tmp_path / "again.nii.gz"),
        "--reference",
        str(tmp_path / "fixed.nii.gz"),
    ]
    assert CliRunner().invoke(app, again).exit_code == 0
    moved, repeated = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (out / "moved.nii.gz", tmp_path / "again.nii.gz")
    )
    assert np.abs(moved - repeated).max() <= 1
    evaluate = ["evaluate", str(tmp_path / "fixed.nii.gz"), str(tmp_path / "moving.nii.gz")]
    points = [
        "--fixed-points",
        str(tmp_path / "points.csv"),
        "--moving-points",
        str(tmp_path / "moving_points.csv"),
        "--out",
        str(tmp_path / "scores.json"),
    ]
    scores = []
    for files in (["transform.h5"], ["1Warp.nii.gz", "0GenericAffine.mat"]):
        assert CliRunner().invoke(app, [*evaluate, *(str(out / name) for name in files), *points]).exit_code == 0
        scores.append(json.loads((tmp_path / "scores.json").read_text()))
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    mapped = map_points(read_transform(out / "transform.h5"), pair.fixed_points_xyz.numpy())
    assert scores[0]["tre_mm_after"] == pytest.approx(
        np.linalg.norm(mapped - pair.moving_points_xyz.numpy(), axis=1).mean(), abs=1e-3
    )
    assert scores[0]["folding_percent"] == 0

    label = [
        "apply",
        str(out / "transform.h5"),
        str(tmp_path / "label.nii.gz"),
        str(tmp_path / "moved_label.nii.gz"),
        "--reference",
        str(tmp_path / "fixed.nii.gz"),
        "--label",
    ]
    assert CliRunner().invoke(app, label).exit_code == 0
    assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "moved_label.nii.gz"))))) == {0, 1}
    points = ["apply", str(out / "transform.h5"), str(tmp_path / "points.csv"), str(tmp_path / "mapped.csv")]
    assert CliRunner().invoke(app, points).exit_code == 0
    np.testing.assert_allclose(pd.read_csv(tmp_path / "mapped.csv"), mapped, atol=1e-3)


def test_wrong_input_is_refused_in_a_sentence(pair, weights, tmp_path):
    fixed, moving = turned(pair.fixed), turned(pair.moving)
    with pytest.raises(ValueError, match="fixed must be a scalar volume"):
        register(fixed[:, :, 0], moving, weights)
    with pytest.raises(ValueError, match="fixed_mask .*is on another grid than fixed"):
        register(
            fixed,
            moving,
            weights,
            fixed_mask=turned(pair.fixed_mask, angle=0.1, dtype="uint8"),
            moving_mask=turned(pair.moving_mask, dtype="uint8"),
        )
    with pytest.raises(ValueError, match="fixed_points has 2 points but moving_points 1; row i"):
        register(fixed, moving, weights, fixed_points=np.zeros((2, 3)), moving_points=np.zeros((1, 3)))
    with pytest.raises(ValueError, match="points were given of one image alone"):
        register(fixed, moving, weights, fixed_points=np.zeros((2, 3)))
    with pytest.raises(FileNotFoundError, match="there are no weights 'best'"):
        register(fixed, moving, "best")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged.safetensors does not hold the weights of a registration"):
        load_weights_file(damaged)
