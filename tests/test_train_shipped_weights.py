"""The weights that come with the package: made from CTs by one command, and able to register."""

from types import SimpleNamespace

import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from mine_reg.experiments.shipped_pairs import TensorPairs, make_pairs
from mine_reg.experiments.train_shipped_weights import main, new_training, training_settings
from mine_reg.images.geometry import same_grid, to_image
from mine_reg.pair_tool.register import register
from mine_reg.pairs.manifest import read_scans
from mine_reg.pairs.preprocessed import load_pair, read_pairs
from mine_reg.storage.results import MARK
from mine_reg.synthetic.phantom import grid_origin, make_pair
from mine_reg.training.weights import load_weights_file, save_network

pytestmark = pytest.mark.slow
SIZE, SPACING = (64, 64, 64), 5.0


@pytest.fixture
def call(tmp_path, repository, monkeypatch):
    """The command on three phantoms as scans, of which the third has no mask; an eighth of the time by small grids."""
    rows = []
    for number, seed in enumerate((1, 2, 3)):
        pair, name = make_pair(SIZE, SPACING, seed), f"s{number}"
        for part, values, dtype in (("image", pair.moving, "int16"), ("mask", pair.moving_mask, "uint8")):
            image = to_image(values, (SPACING,) * 3, grid_origin(SIZE, SPACING), dtype=dtype)
            sitk.WriteImage(image, str(tmp_path / f"{part}{number}.nii.gz"))
        mask = f"mask{number}.nii.gz" if number != 1 else ""
        rows.append({"scan_id": name, "image": f"image{number}.nii.gz", "mask": mask, "subject_id": name})
    pd.DataFrame(rows).to_csv(tmp_path / "scans.csv", index=False)
    small = {"coarse": ([32] * 3, 10.0), "fine": ([63] * 3, 5.0)}
    monkeypatch.setattr("mine_reg.experiments.shipped_pairs.GRIDS", small)
    monkeypatch.chdir(repository)

    def call(*arguments: str) -> None:
        given = ["train_shipped_weights", f"{tmp_path}/scans.csv", "--out", f"{tmp_path}/shipped"]
        monkeypatch.setattr("sys.argv", [*given, "--work", f"{tmp_path}/work", *arguments])
        main()

    return call


def test_weights_are_made_from_scans_and_register_a_pair(call, tmp_path):
    few = ["--phantoms", "2", "--simulated", "2"]
    few += [word for network in ("affinenet", "deformnet", "fine") for word in (f"--{network}-epochs", "1")]
    call("--leave-out", "s2", *few)
    shipped, work = tmp_path / "shipped", tmp_path / "work"
    assert sorted(path.name for path in shipped.iterdir()) == ["midiceregnet.safetensors", "miregnet.safetensors"]
    assert {path.name for path in (work / "subjects/fine").iterdir() if path.is_dir()} == {"s0-s1", "s1-s0"}
    assert (work / "subjects/raw/s1_lungs.nii.gz").is_file()
    _, fine, statistic, provenance = load_weights_file(shipped / "miregnet.safetensors")
    assert fine is not None and statistic is not None
    assert provenance["scans"] == ["s0", "s1"] and provenance["method"] == "miregnet"
    assert set(provenance["validation"]) == {"phantom", "simulated"}
    assert 0.5 < provenance["validation"]["phantom"]["dsc_after"] < 1
    assert str(tmp_path) not in str(provenance)  # nobody's folders travel with the weights
    fixed, moving = (sitk.ReadImage(str(tmp_path / f"image{i}.nii.gz")) for i in (0, 1))
    result = register(fixed, moving, shipped / "miregnet.safetensors", refine=10)
    assert same_grid(result.moved, fixed)
    assert result.report["refinement"]["objective_after"] <= result.report["refinement"]["objective_before"]

    marks = {path: path.stat().st_mtime_ns for path in work.glob(f"*/{MARK}")}
    assert len(marks) == 3 + 6  # kinds of pairs, networks
    call("--leave-out", "s2", *few)
    assert {path: path.stat().st_mtime_ns for path in work.glob(f"*/{MARK}")} == marks  # nothing is made again
    assert load_weights_file(shipped / "miregnet.safetensors").provenance == provenance


def test_minutes_bound_the_training(call, tmp_path):
    """Every network trains for at least an epoch, and the time that is left decides how many."""
    few = ["--leave-out", "s2", "--phantoms", "2", "--simulated", "2", "--minutes", "0.5", "--commit", "abc"]
    call(*few, "--start-from", "mine_reg/shipped_weights")
    _, fine, _, provenance = load_weights_file(tmp_path / "shipped/midiceregnet.safetensors")
    assert provenance["starts_from"] == load_weights_file("midiceregnet").provenance
    assert fine is not None and provenance["code"] == "abc" and provenance["command"]["minutes"] == 0.5
    log = (tmp_path / "work/midiceregnet.log").read_text(encoding="utf-8")
    assert [log.count(f"{network}: done after") for network in ("affinenet", "deformnet", "fine")] == [1, 1, 1]
    assert "val_tre_mm" in log


@pytest.mark.parametrize("network", ["affinenet", "deformnet", "fine"])
def test_training_starts_from_the_weights_that_are_given(network, tmp_path):
    """The new training holds the earlier network's weights, and the T that came with them."""
    shipped = load_weights_file("midiceregnet")
    arguments = SimpleNamespace(seed=7, region_mm=5.0)
    cfg = training_settings(network, "midiceregnet", arguments, 1)
    folders = {name: tmp_path / name for name in ("affinenet", "deformnet")}
    parts = {"affinenet": shipped.registration.affinenet, "deformnet": shipped.registration.deformnet}
    for name, folder in folders.items():
        save_network(
            parts[name], shipped.statistic, vars(training_settings(name, "midiceregnet", arguments, 1)), folder
        )
    module = new_training(network, cfg, folders, shipped)
    for name, value in (parts | {"fine": shipped.fine})[network].state_dict().items():
        assert torch.equal(module.network.state_dict()[name], value), name
    for name, value in shipped.statistic.state_dict().items():
        assert torch.equal(module.similarity.statistic.state_dict()[name], value), name


def test_a_scan_to_leave_out_must_be_there(call, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call("--leave-out", "s2", "s3")
    assert "scans.csv has no scan s3" in capsys.readouterr().err and not (tmp_path / "work").exists()


def test_pairs_follow_what_makes_them(call, tmp_path):
    """Another number of phantoms makes phantoms anew, and nothing else."""
    scans = read_scans(tmp_path / "scans.csv").iloc[[0, 2]]
    folders = make_pairs(scans, tmp_path / "work", phantoms=1, simulated=1, seed=0)
    marks = {kind: (folder / MARK).stat().st_mtime_ns for kind, folder in folders.items()}
    make_pairs(scans, tmp_path / "work", phantoms=2, simulated=1, seed=0)
    now = {kind: (folder / MARK).stat().st_mtime_ns for kind, folder in folders.items()}
    assert {kind for kind in marks if marks[kind] != now[kind]} == {"phantom"}
    assert len(read_pairs(folders["phantom"] / "fine")) == 2


def test_tensors_are_the_pairs_on_both_grids(call, tmp_path):
    scans = read_scans(tmp_path / "scans.csv").iloc[[0, 2]]
    folder = make_pairs(scans, tmp_path / "work", phantoms=2, simulated=1, seed=0)["phantom"]
    fine, coarse = (TensorPairs(folder, "validation", grid) for grid in ("fine", "coarse"))
    assert len(fine) == len(coarse) == 1
    pair = load_pair(folder / "fine", read_pairs(folder / "fine", "validation").iloc[0])
    fine, coarse = fine[0], coarse[0]
    for name in ("fixed", "moving"):
        assert torch.allclose(fine[name], getattr(pair, name), atol=1e-3)
        assert coarse[name].shape == (1, 32, 32, 32)
        assert (coarse[name] - fine[name][:, ::2, ::2, ::2]).abs().mean() < 0.05
    assert torch.equal(fine["moving_mask"].float(), pair.moving_mask)
    assert torch.equal(coarse["fixed_mask"], fine["fixed_mask"][:, ::2, ::2, ::2])
    assert torch.equal(fine["fixed_lung_distance_mm"].float(), pair.fixed_lung_distance_mm)
    for name in ("fixed_points", "moving_points"):
        assert torch.equal(fine[name], getattr(pair, name)) and torch.equal(coarse[name], fine[name] / 2)
    assert fine["spacing_mm"] == (5.0, 5.0, 5.0) and coarse["spacing_mm"] == (10.0, 10.0, 10.0)
