"""The peers of the comparison: direction, units and composition of what each leaves; what is lacking is said; and the
command at toy size."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from joblib.externals.loky import ProcessPoolExecutor
from scipy.ndimage import gaussian_filter, shift

from mine_reg.images.geometry import to_tensor
from mine_reg.pairs.preprocessed import Pair
from mine_reg.synthetic.pair_sets import make_phantom_pairs

KNOWN = (2.0, -1.0, 3.0)  # voxels z, y, x


@pytest.fixture(scope="module")
def peer_methods(repository):
    sys.path.insert(0, str(repository / "benchmarks"))  # also for the processes of the peers
    import peer_methods

    yield peer_methods
    sys.path.remove(str(repository / "benchmarks"))


@pytest.fixture(scope="module")
def case(peer_methods, tmp_path_factory):
    """A textured ball in air, 48^3 voxels of 4 mm away from the origin, moved by KNOWN; the masks are smaller balls."""
    folder, size = tmp_path_factory.mktemp("case"), (48, 48, 48)
    distance = np.linalg.norm(np.indices(size) - 23.5, axis=0)
    texture = gaussian_filter(np.random.default_rng(0).normal(size=size), 1.5) * 3000
    body = gaussian_filter((distance < 17).astype(float), 1) * (800 + texture) - 1000
    arrays = {"fixed": body.clip(-1000, 500), "fixed_mask": (distance < 15).astype(float)}
    arrays["moving"] = shift(arrays["fixed"], KNOWN, order=1, cval=-1000)
    arrays["moving_mask"] = shift(arrays["fixed_mask"], KNOWN, order=0)
    files, tensors = {}, {}
    for name, array in arrays.items():
        image = sitk.GetImageFromArray(array.astype(np.int16 if "mask" not in name else np.uint8))
        image.SetSpacing((4.0, 4.0, 4.0))
        image.SetOrigin((-50.0, 20.0, -130.0))
        files[name], tensors[name] = str(folder / f"{name}.nii.gz"), to_tensor(image)
        sitk.WriteImage(image, files[name])
    for name in ("fixed", "moving"):
        tensors[name] = (tensors[name] + 1000) / 1500
    pair = Pair("toy", **tensors, fixed_mask_observer2=None, fixed_points=None, moving_points=None,
                fixed_lung_distance_mm=torch.zeros(1, *size), spacing_mm=(4.0, 4.0, 4.0), image=image)  # fmt: skip
    return peer_methods.Case(pair, files, affine=torch.zeros(1, 3, *size), threads=1)


NAMES = ["convexadam", "convexadam_masked", "elastix", "greedy", "greedy_masked", "fireants"]


def run_briefly(name, case):
    """The peer, elastix with few iterations, which find the shift all the same."""
    from peer_methods import ELASTIX_STEPS, PEERS

    for step in ELASTIX_STEPS.values():
        step["MaximumNumberOfIterations"] = "20"
    return PEERS[name][0](case)


@pytest.mark.parametrize("name", NAMES)
def test_a_peer_finds_the_shift(peer_methods, case, name):
    if lacking := peer_methods.absent(name, None):
        pytest.skip(lacking)
    pool = ProcessPoolExecutor(max_workers=1, env={"OMP_NUM_THREADS": "1"})  # ITK's Python and Greedy collide
    try:
        found, seconds = pool.submit(run_briefly, name, case).result()
    finally:
        pool.shutdown(kill_workers=True)
    assert found.shape == (1, 3, 48, 48, 48) and found.dtype == torch.float32 and seconds > 0
    inside = found[0][:, case.pair.fixed_mask[0] > 0]
    error = (inside - torch.tensor(KNOWN)[:, None]).norm(dim=0)
    assert error.mean() < 0.7  # voxels; 3.7 before


def test_what_is_lacking_is_said(peer_methods, tmp_path, monkeypatch):
    assert peer_methods.absent("convexadam", None) == peer_methods.absent("convexadam_masked", None) == ""
    monkeypatch.setattr(peer_methods, "find_spec", lambda name: None)
    for name, package in (("elastix", "itk-elastix"), ("greedy_masked", "picsl-greedy"), ("fireants", "fireants")):
        said = peer_methods.absent(name, None)
        assert said.startswith("not installed") and "pip install" in said and package in said
    monkeypatch.setattr(peer_methods, "find_spec", lambda name: name)
    assert "give --unigradicon-weights FILE" in peer_methods.absent("unigradicon", tmp_path / "none.trch")
    (tmp_path / "weights.trch").write_bytes(b"")
    assert peer_methods.absent("unigradicon", tmp_path / "weights.trch") == ""


@pytest.mark.parametrize("name", ["elastix", "greedy", "fireants", "unigradicon"])
def test_every_peer_of_another_package_has_advice(peer_methods, name):
    _, module, advice = peer_methods.PEERS[name]
    assert module and advice.startswith("pip install ")


def test_what_is_measured_is_kept_and_what_failed_is_tried_again(peer_methods, case, tmp_path):
    from peers import kept

    calls = []

    def answer(error=None):
        calls.append(error)
        if error:
            raise error
        return torch.zeros(1, 3, 48, 48, 48), 2.5

    done = tmp_path / "measured/a.csv"
    failed = kept(done, "greedy", case.pair, lambda: answer(RuntimeError("no\n memory")))
    assert failed["note"].tolist() == ["RuntimeError: no memory"] and failed[["dsc", "seconds"]].isna().all(axis=None)
    rows = [kept(done, "greedy", case.pair, answer) for _ in range(2)]
    assert len(calls) == 2  # the failed one and one more
    assert rows[0].equals(rows[1]) and rows[0]["dsc"][0] > 0 and rows[0]["seconds"][0] == 2.5
    with pytest.raises(TypeError):  # a mistake of this program is no result
        kept(tmp_path / "measured/b.csv", "greedy", case.pair, lambda: answer(TypeError("wrong")))


def test_the_comparison_runs(repository, tmp_path):
    """One pair of one group: every row is there, absent peers with what to do."""
    make_phantom_pairs(tmp_path / "hard", 2, (48, 48, 48), 6.6, seed=5, workers=1)
    manifest = pd.read_csv(tmp_path / "hard/manifest.csv").drop(columns="split", errors="ignore")
    manifest.assign(group=["plain", "other"]).to_csv(tmp_path / "hard/manifest.csv", index=False)
    for name in ("dvc.yaml", "params.yaml"):  # the command keeps its work in the study that it is started in
        (tmp_path / name).write_bytes((repository / name).read_bytes())
    methods = ["ants_masked", "convexadam_masked", "unigradicon"]
    command = [sys.executable, str(repository / "benchmarks/peers.py"), "hard", "--groups", "plain"]
    command += ["--size", "48", "--spacing", "6.6", "--threads", "1", "--refine", "2"]
    command += ["--weights", "midiceregnet", "--methods", *methods, "--out", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, encoding="utf-8")
    table = pd.read_csv(tmp_path / "out/peers.csv").set_index("method")
    ours = [f"midiceregnet{how}" for how in ("", " refined", ", masks", " refined, masks")]
    assert list(table.index) == ["none", "ants_affine", *methods[:2], *ours, "unigradicon"]
    assert table.loc["unigradicon", "note"].startswith(("not installed", "no weights"))
    measured = table.drop(index="unigradicon")
    assert measured["note"].isna().all() and measured[["dsc", "tre_mm"]].notna().all(axis=None)
    assert (measured["seconds"].drop("none") > 0).all()
    assert table.loc["convexadam_masked", "seconds"] > table.loc["ants_affine", "seconds"]  # starts from it
    assert table.loc["ants_affine", "tre_mm"] < table.loc["none", "tre_mm"]
    assert len(list(tmp_path.glob("scratch/peers/*/plain/measured/*.csv"))) == len(measured)
    means, everything = (tmp_path / "out/peers.md").read_text().split("\n\n")
    assert len(means.splitlines()) == 2 + len(measured) and "| none " in means
    rows = everything.splitlines()
    assert len(rows) == 2 + len(table) and len({row.count("|") for row in rows}) == 1
