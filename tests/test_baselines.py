"""The ANTs baseline: exact settings, reproducible results, failures and interruptions."""

import json
import os
import re

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter, shift

from mine_reg.evaluation.baselines import (
    ANTSPY_METHODS,
    ants_displacement,
    ants_settings,
    refuse_other_pairs,
    run_ants_on_pairs,
)
from mine_reg.storage.results import keep

SETTINGS = ants_settings("SyNRA", [10, 5, 0], seed=7, threads=1)
SHIFT = (1.5, 0.0, -1.0)  # voxels z, y, x


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Pairs 24^3 of 4 mm whose moving image is the fixed one moved by SHIFT, and one whose fixed image is not an
    image."""
    folder = tmp_path_factory.mktemp("images")
    rows = []
    for number in range(2):
        z, y, x = np.indices((24, 24, 24)) - 11.5
        texture = gaussian_filter(np.random.default_rng(number).normal(size=(24, 24, 24)), 1.5) * 3000
        body = gaussian_filter(((z / 9) ** 2 + (y / 7) ** 2 + (x / 8) ** 2 < 1).astype(float), 1)
        fixed = body * (1000 + texture) - 1000
        paths = {"pair_id": f"pair_{number}"}
        for name, array in (("fixed", fixed), ("moving", shift(fixed, SHIFT, order=3, cval=-1000))):
            image = sitk.GetImageFromArray(array.astype(np.int16))
            image.SetSpacing((4.0, 4.0, 4.0))
            paths[name] = str(folder / f"{name}_{number}.nii.gz")
            sitk.WriteImage(image, paths[name])
        rows.append(paths)
    (folder / "broken.nii.gz").write_bytes(b"not an image")
    rows.insert(1, rows[0] | {"pair_id": "broken", "fixed": str(folder / "broken.nii.gz")})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ants")
    return folder, run_ants_on_pairs(images, folder / "ants", folder / "work", SETTINGS, workers=2)


def test_a_failing_pair_is_reported_and_the_others_kept(run):
    folder, runtime = run
    assert runtime["pair_id"].tolist() == ["pair_0", "broken", "pair_1"]
    assert runtime["seconds"].notna().tolist() == [True, False, True]
    assert "broken.nii.gz" in runtime["error"][1] and runtime["error"][0] == ""
    assert sorted(p.name for p in (folder / "ants").glob("[!.]*")) == ["pair_0", "pair_1", "settings.json"]
    assert sorted(p.name for p in (folder / "ants/pair_0").iterdir()) == ["0GenericAffine.mat", "1Warp.nii.gz"]
    assert len(list((folder / "work").iterdir())) == 2  # no leftovers of the failed pair


def test_the_saved_command_is_what_was_asked_for(run):
    saved = json.loads((run[0] / "ants/settings.json").read_text())
    assert {name: saved[name] for name in SETTINGS} == SETTINGS
    for part in ("Rigid[", "Affine[", "SyN[", "--convergence [10x5x0,", "mattes[fixed,moving,", "--random-seed 7"):
        assert part in saved["command"]
    assert not re.search("0x[0-9a-f]{6}", saved["command"])  # no addresses, which would differ in every run


def test_transforms_of_other_images_are_refused(images, run, tmp_path):
    pairs = images.drop(index=1).assign(contents=["one", "two"])
    run_ants_on_pairs(pairs, tmp_path / "ants", run[0] / "work", SETTINGS, workers=2)  # nothing is registered again
    refuse_other_pairs(tmp_path / "ants", pairs)
    refuse_other_pairs(tmp_path / "ants", pairs.assign(pair_id=["other", "names"]))
    with pytest.raises(ValueError, match="ants/pair_1 was not made from these images; run notebook 06"):
        refuse_other_pairs(tmp_path / "ants", pairs.assign(contents=["one", "changed"]))
    with pytest.raises(ValueError, match="ants/pair_0 was not made from these images"):
        refuse_other_pairs(run[0] / "ants", pairs)  # which does not say from which


def test_ants_finds_the_shift(run, images):
    image = sitk.ReadImage(images["fixed"][0])
    truth = torch.tensor(SHIFT).reshape(1, 3, 1, 1, 1)
    for affine_only in (False, True):
        displacement = ants_displacement(run[0] / "ants/pair_0", image, affine_only)
        assert displacement.shape == (1, 3, 24, 24, 24)
        error = (displacement - truth)[..., 6:-6, 6:-6, 6:-6].norm(dim=1)
        assert error.mean() < 0.3  # voxels; 1.8 before


def test_same_seed_same_bytes(run, images, tmp_path):
    good = images[images["pair_id"] == "pair_1"]
    run_ants_on_pairs(good, tmp_path / "ants", tmp_path / "work", SETTINGS, workers=1)
    for name in ("0GenericAffine.mat", "1Warp.nii.gz"):
        assert (tmp_path / "ants/pair_1" / name).read_bytes() == (run[0] / "ants/pair_1" / name).read_bytes()


def test_finished_pairs_are_not_repeated_unless_settings_change(run, images, tmp_path, monkeypatch):
    folder, before = run
    started = []
    monkeypatch.setattr(
        "mine_reg.evaluation.baselines._pool",
        lambda jobs, *_: started.append(list(jobs)) or dict.fromkeys(jobs, OSError("x")),
    )
    again = run_ants_on_pairs(images, tmp_path / "ants", folder / "work", SETTINGS, workers=2)
    assert started == [["broken"]]
    assert again["seconds"].equals(before["seconds"])
    assert (tmp_path / "ants/pair_0/1Warp.nii.gz").is_file()
    with pytest.raises(RuntimeError, match="ANTs failed on every pair"):
        run_ants_on_pairs(images, tmp_path / "other", folder / "work", SETTINGS | {"seed": 8}, workers=2)
    assert not (tmp_path / "other").exists()


def test_a_killed_process_costs_only_its_own_pair(images, tmp_path, monkeypatch):
    def dies_on_broken(images, work, key, settings):
        if "broken" in images[0]:
            os._exit(1)
        done = json.dumps({"seconds": 1.0, "command": "none"})
        keep(work / key, key, lambda folder: (folder / "run.json").write_text(done))

    monkeypatch.setattr("mine_reg.evaluation.baselines._one", dies_on_broken)
    runtime = run_ants_on_pairs(images, tmp_path / "ants", tmp_path / "work", SETTINGS, workers=2)
    assert runtime["error"].tolist() == ["", "the process was killed, perhaps for lack of memory", ""]


@pytest.mark.parametrize("iterations", [[], [40, 2.5], [10, -1], None])
def test_iterations_are_checked(iterations):
    with pytest.raises(ValueError, match="ants.iterations must list whole numbers"):
        ants_settings("SyNRA", iterations, 1, 1)


def test_threads_are_checked():
    with pytest.raises(ValueError, match="ants.threads must be at least 1"):
        ants_settings("SyNRA", [1], 1, 0)


@pytest.fixture(scope="module")
def masked_pair(images, tmp_path_factory):
    """The second pair with masks of its body, outside of which the moving image is another, brighter one."""
    folder, row = tmp_path_factory.mktemp("masked"), images.iloc[2].to_dict()
    z, y, x = np.indices((24, 24, 24)) - 11.5
    for name, at in (("fixed", (0, 0, 0)), ("moving", SHIFT)):
        body = ((z - at[0]) / 9) ** 2 + ((y - at[1]) / 7) ** 2 + ((x - at[2]) / 8) ** 2 < 1
        image = sitk.ReadImage(row[name])
        mask = sitk.GetImageFromArray(body.astype(np.uint8))
        mask.CopyInformation(image)
        row[f"{name}_mask"] = str(folder / f"{name}_mask.nii.gz")
        sitk.WriteImage(mask, row[f"{name}_mask"])
    return pd.DataFrame([row])


def test_masks_and_the_longer_schedule_reach_ants(masked_pair, tmp_path):
    commands, warps = {}, {}
    for method, (longer, masked) in ANTSPY_METHODS.items():
        settings = ants_settings("SyNRA", [10, 8, 5, 2] if longer else [10, 5, 0], 7, 1, masked)
        runtime = run_ants_on_pairs(masked_pair, tmp_path / method, tmp_path / "work", settings, 1, method)
        assert runtime["method"].tolist() == [method] and runtime["error"].tolist() == [""]
        commands[method] = json.loads((tmp_path / method / "settings.json").read_text())["command"]
        warps[method] = (tmp_path / method / "pair_1/1Warp.nii.gz").read_bytes()
    assert len(set(warps.values())) == 4
    affines = {(tmp_path / method / "pair_1/0GenericAffine.mat").read_bytes() for method in warps}
    assert len(affines) == 1  # rigid and affine are the same
    assert "--convergence [10x8x5x2," in commands["ants_long"] and "--shrink-factors 8x4x2x1" in commands["ants_long"]
    assert "-x [fixed_mask,moving_mask]" in commands["ants_masked"] and "fixed_mask" not in commands["ants"]
    both = commands["ants_long_masked"]
    assert "-x [fixed_mask,moving_mask]" in both and "--convergence [10x8x5x2," in both
    assert not any(re.search("0x[0-9a-f]{6}", command) for command in commands.values())


def test_another_mask_is_another_registration(masked_pair, tmp_path):
    settings = ants_settings("SyNRA", [5, 2, 0], 7, 1, masked=True)
    run_ants_on_pairs(masked_pair, tmp_path / "ants", tmp_path / "work", settings, 1)
    mask = sitk.ReadImage(masked_pair["fixed_mask"][0])
    other = masked_pair.assign(fixed_mask=str(tmp_path / "other.nii.gz"))
    sitk.WriteImage(sitk.BinaryErode(mask, (3, 3, 3)), other["fixed_mask"][0])
    run_ants_on_pairs(other, tmp_path / "ants", tmp_path / "work", settings, 1)
    assert len(list((tmp_path / "work").iterdir())) == 2
