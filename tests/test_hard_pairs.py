"""Pairs of known truth made hard: the truth stays the truth, and each is hard in the way its name says."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from mine_reg.images.geometry import points_to_voxels, same_grid, to_image
from mine_reg.images.points import read_points
from mine_reg.images.writing import write_image
from mine_reg.pairs.manifest import IMAGES, read_manifest
from mine_reg.synthetic.hard_pairs import HARD, TURNS, known_pair, turned, whole_scan
from mine_reg.synthetic.phantom import grid_origin, make_pair

SIZE, SPACING = (64, 72, 84), 5.0
NAMES = ("fixed", "moving")


@pytest.fixture(scope="module")
def scan():
    """A phantom's CT and lung mask."""
    pair = make_pair(SIZE, SPACING, seed=5, contrast=False)
    origin = np.array(grid_origin(SIZE, SPACING)) + (30.0, -180.0, 500.0)
    return [
        to_image(part, (SPACING,) * 3, origin, dtype=dtype)
        for part, dtype in ((pair.fixed, "float32"), (pair.fixed_mask, "uint8"))
    ]


@pytest.fixture(scope="module")
def pair(scan):
    return known_pair(whole_scan(*scan, SPACING), 3, "tidal")


def array(image):
    return sitk.GetArrayFromImage(image)


def values(image, points):
    """HU at points, linear."""
    return np.array([image.EvaluateAtPhysicalPoint(point.tolist(), sitk.sitkLinear) for point in points])


def lung_ml(mask):
    return array(mask).sum() * np.prod(mask.GetSpacing()) / 1000


def test_a_pair_has_the_field_of_view_of_its_scan(scan, pair):
    assert max(abs(a - b) for a, b in zip(pair.fixed.GetSize(), scan[0].GetSize(), strict=True)) <= 1
    assert np.abs(np.array(pair.fixed.GetOrigin()) - scan[0].GetOrigin()).max() <= SPACING
    assert len(pair.fixed_points) == 150
    assert 2 < np.linalg.norm(pair.moving_points - pair.fixed_points, axis=1).mean() < 20


@pytest.mark.parametrize("group", HARD)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_truth_stays_the_truth(pair, group, seed):
    """What both images show at a pair of points is what the easy pair shows there, and nothing else has points."""
    before = {name: array(getattr(pair, name)) for name in (*IMAGES[:4],)}
    hard, again = HARD[group](pair, seed), HARD[group](pair, seed)
    assert len(hard.fixed_points) == len(hard.moving_points) >= 10
    rows = [np.flatnonzero((pair.fixed_points == point).all(1)).item() for point in hard.fixed_points]
    source = {"fixed": "fixed", "moving": "fixed" if group == "identical" else "moving"}
    for name in NAMES:
        image, points = getattr(hard, name), getattr(hard, f"{name}_points")
        easy = getattr(pair, source[name])
        expected = values(easy, getattr(pair, f"{source[name]}_points")[rows])
        difference = np.abs(values(image, points) - expected)
        # of a voxel that is filled or padded a neighbouring point gets its share
        assert np.median(difference) < 1e-2 and (difference < 1).mean() > 0.9
        assert image.GetPixelID() == sitk.sitkInt16 and same_grid(image, getattr(hard, f"{name}_mask"))
        assert values(getattr(hard, f"{name}_mask"), points).mean() > 0.9
        assert np.array_equal(array(image), array(getattr(again, name)))
        assert np.array_equal(points, getattr(again, f"{name}_points"))
    assert all(np.array_equal(array(getattr(pair, name)), old) for name, old in before.items())


def test_one_lung(pair):
    sides = []
    for seed in range(6):
        hard = HARD["one_lung"](pair, seed)
        own = lung_ml(hard.fixed_mask) / lung_ml(pair.fixed_mask)
        assert 0.3 < own < 0.75 and hard.fixed.GetSize()[0] < 0.62 * pair.fixed.GetSize()[0]
        here = hard.fixed_points[:, 0] > np.median(pair.fixed_points[:, 0])
        assert here.mean() > 0.9 or here.mean() < 0.1
        sides.append(here.mean() > 0.5)
        shift = np.median(hard.moving_points - hard.fixed_points, axis=0)
        assert np.abs(shift - (15, -20, 25)).max() < 15
    assert len(set(sides)) == 2


def test_half_lungs(pair):
    found = set()
    for seed in range(10):
        hard = HARD["half_lungs"](pair, seed)
        share = [lung_ml(getattr(hard, f"{n}_mask")) / lung_ml(getattr(pair, f"{n}_mask")) for n in NAMES]
        cut = int(share[1] < 1)
        assert 0.25 < share[cut] < 0.75 and share[1 - cut] == 1
        upper = np.median(hard.fixed_points[:, 2]) > np.median(pair.fixed_points[:, 2])
        found.add((cut, bool(upper)))
    assert len(found) == 4


def test_effusion(pair):
    found = set()
    for seed in range(10):
        hard = HARD["effusion"](pair, seed)
        lost = [lung_ml(getattr(pair, f"{n}_mask")) - lung_ml(getattr(hard, f"{n}_mask")) for n in NAMES]
        changed = int(lost[1] > 0)
        name = NAMES[changed]
        assert lost[1 - changed] == 0 and 0.12 < lost[changed] / lung_ml(getattr(pair, f"{name}_mask")) < 0.35
        gone = (array(getattr(pair, f"{name}_mask")) > 0) & (array(getattr(hard, f"{name}_mask")) == 0)
        hu = array(getattr(hard, name))[gone]
        assert 0 < hu.mean() < 25 and 10 < hu.std() < 30
        z, y, _ = np.nonzero(gone)
        lungs = np.argwhere(array(getattr(pair, f"{name}_mask")) > 0)
        assert z.mean() < lungs[:, 0].mean() and y.mean() > lungs[:, 1].mean() - 3  # low, and not at the front
        found.add(name)
    assert found == set(NAMES)


def test_zero_padding(pair):
    shapes = set()
    for seed in range(8):
        hard = HARD["zero_padding"](pair, seed)
        for name in NAMES:
            hu = array(getattr(hard, name))
            assert (hu[[0, 1, -2, -1]] == 0).all() and (hu[:, [0, -1]][:, :, [0, -1]] == 0).all()
            shapes.add((hu[:, 0] == 0).all().item())  # a box leaves nothing of the front, a circle touches it
            lungs = array(getattr(hard, f"{name}_mask")) > 0
            assert (hu[lungs] == 0).mean() < 0.01 and not lungs[[0, 1, -2, -1]].any()
    assert len(shapes) == 2


def test_cropped_to_the_lungs(pair):
    hard = HARD["cropped_to_lungs"](pair, 0)
    for name in NAMES:
        lungs = np.argwhere(array(getattr(hard, f"{name}_mask")))
        size = np.array(getattr(hard, name).GetSize()[::-1])
        assert (np.ptp(lungs, axis=0) + 1 + 2 >= size).all()
        assert lung_ml(getattr(hard, f"{name}_mask")) == lung_ml(getattr(pair, f"{name}_mask"))


@pytest.mark.parametrize("how", TURNS)
def test_turns_and_mirrors_are_what_their_names_say(pair, how):
    """The map from the easy moving voxels to the hard ones has this trace and determinant."""
    hard = turned(pair, 0, how)
    before, after = (points_to_voxels(p.moving_points, p.moving).numpy() for p in (pair, hard))
    ones = np.c_[before, np.ones(len(before))]
    linear = np.linalg.lstsq(ones, after, rcond=None)[0]
    assert np.abs(ones @ linear - after).max() < 1e-3
    degrees = int(how.split()[0]) if how[0].isdigit() else None
    trace = 1 if degrees is None else {90: 1, 180: -1}[degrees]
    assert np.trace(linear[:3]) == pytest.approx(trace, abs=1e-4)
    assert np.linalg.det(linear[:3]) == pytest.approx(-1 if degrees is None else 1, abs=1e-4)
    kept = "zyx".index(how[-1])
    assert linear[kept, kept] == pytest.approx(-1 if degrees is None else 1, abs=1e-4)
    assert hard.moving.GetOrigin() == pair.moving.GetOrigin()
    with pytest.raises(ValueError, match="'upside down' is no way to turn an image; take one of 90 degrees about x"):
        turned(pair, 0, "upside down")


def test_far_headers_and_other_fields_of_view(pair):
    far = HARD["far_headers"](pair, 4)
    assert np.linalg.norm(np.subtract(far.moving.GetOrigin(), pair.moving.GetOrigin())) == pytest.approx(150)
    voxels = {np.prod(HARD["other_field_of_view"](pair, seed).moving.GetSize()) for seed in range(8)}
    own = np.prod(pair.moving.GetSize())
    assert len(voxels) == 2 and min(voxels) < 0.6 * own and max(voxels) > 3 * own


def test_a_tilt_turns_the_header_about_the_middle_of_the_image(pair):
    hard = HARD["tilted"](pair, 4)
    turn = Rotation.from_matrix(np.reshape(hard.moving.GetDirection(), (3, 3)))  # the pair's own is the identity
    assert 20 < np.rad2deg(turn.magnitude()) < 30
    middle = [(n - 1) / 2 for n in pair.moving.GetSize()]
    middles = [image.TransformContinuousIndexToPhysicalPoint(middle) for image in (pair.moving, hard.moving)]
    assert np.allclose(*middles)
    expected = middles[0] + turn.apply(pair.moving_points - middles[0])
    assert np.allclose(hard.moving_points, expected)


def test_too_few_points_are_refused(pair):
    few = pair.with_points(np.arange(150) < 12)
    with pytest.raises(ValueError, match="points lie in what both images show; take another scan or seed"):
        for seed in range(4):
            HARD["half_lungs"](few, seed)


def test_the_command_writes_a_manifest_of_hard_pairs(repository, scan, tmp_path):
    for name, image in zip(("image", "mask"), scan, strict=True):
        write_image(image, tmp_path / f"{name}.nii.gz")
    pd.DataFrame([{"scan_id": "one", "image": "image.nii.gz", "mask": "mask.nii.gz"}]).to_csv(
        tmp_path / "scans.csv", index=False
    )
    command = [sys.executable, repository / "benchmarks/hard_pairs.py", "--scans", tmp_path / "scans.csv"]
    groups = ["--groups", "plain", "one_lung", "--per-group", "1", "--spacing", "6", "--out", tmp_path / "hard"]
    subprocess.run([*command, *groups], check=True, capture_output=True, timeout=300)
    table = pd.read_csv(tmp_path / "hard/manifest.csv")
    assert table["group"].tolist() == ["plain", "one_lung"]
    with pytest.warns(UserWarning, match="unknown column group ignored"):
        rows = read_manifest(tmp_path / "hard/manifest.csv")
    for row in rows.itertuples():
        image = sitk.ReadImage(row.moving)
        assert image.GetSpacing() == (6, 6, 6) and same_grid(image, sitk.ReadImage(row.moving_mask))
        assert len(read_points(row.fixed_points)) == len(read_points(row.moving_points)) >= 10
