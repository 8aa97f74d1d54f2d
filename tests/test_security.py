"""Files that somebody else may have written are read without running what is in them."""

import ast
import os
import pickle
import re

import lightning
import pytest
import torch
from torch.utils.data import Dataset

from mine_reg.models import AffineNet, DeformNet
from mine_reg.registration import Registration
from mine_reg.settings import settings
from mine_reg.spatial import smooth
from mine_reg.training.augmentation import DISTANCE
from mine_reg.training.fit import PairData, fit
from mine_reg.training.modules import FineTraining
from mine_reg.training.weights import load_weights_file

SIZE = (15, 15, 15)


class Textures(Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict:
        fixed, moving = smooth(torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(index)), 1.5)[:, None]
        mask = torch.ones(1, *SIZE)
        volumes = {"fixed": fixed[0], "moving": moving[0], "fixed_mask": mask, "moving_mask": mask}
        return volumes | {DISTANCE: torch.zeros(1, *SIZE)}


def train(folder, stop_after=None):
    cfg = settings(
        "deformnet", profile="smoke", channels=[4, 8], passes=1, epochs=3, validate_every=1, samples=500,
        shift_voxels=1, flip_axes=[], warmup_steps=1,
    )  # fmt: skip

    class Stopped(FineTraining):
        def training_step(self, batch, index):
            if stop_after is not None and self.global_step == stop_after:
                raise KeyboardInterrupt
            return super().training_step(batch, index)

    lightning.seed_everything(0, verbose=False)
    module = Stopped(cfg, Registration(AffineNet((4, 8)), DeformNet((4, 8))), None)
    return fit(module, PairData(cfg, Textures(), Textures(), b""), folder / "out", folder / "work")


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_trap_works(tmp_path):
    torch.save({"state": Malicious(tmp_path / "executed")}, tmp_path / "trap.pt")
    torch.load(tmp_path / "trap.pt", weights_only=False)
    assert (tmp_path / "executed").is_dir()


@pytest.mark.parametrize("kind", ["zip", "pickle", "cut"])
def test_a_checkpoint_that_another_person_has_put_into_scratch_is_not_executed(tmp_path, kind):
    whole = train(tmp_path / "whole")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tmp_path / "trapped", stop_after=4)
    (last,) = tmp_path.glob("trapped/work/*/last.ckpt")
    state, trap = torch.load(last, weights_only=True), {"trap": Malicious(tmp_path / "executed")}
    if kind == "zip":
        torch.save(state | trap, last)
    elif kind == "pickle":
        last.write_bytes(pickle.dumps(trap))
    else:
        last.write_bytes(last.read_bytes()[:-1000])
    with pytest.warns(
        UserWarning, match=r"last.ckpt is damaged, or no checkpoint, and is not used; the training start"
    ):
        assert train(tmp_path / "trapped") == whole
    assert not (tmp_path / "executed").exists()


def test_a_whole_checkpoint_is_used(tmp_path, recwarn):
    whole = train(tmp_path / "whole")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tmp_path / "parts", stop_after=4)
    assert train(tmp_path / "parts") == whole
    assert not [warning for warning in recwarn if "starts anew" in str(warning.message)]


def test_weights_that_are_a_pickle_are_refused(tmp_path):
    torch.save({"trap": Malicious(tmp_path / "executed")}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights.safetensors does not hold the weights of a registration"):
        load_weights_file(tmp_path / "weights.safetensors")
    assert not (tmp_path / "executed").exists()


def calls(path):
    """Names and arguments of all calls in a file of code, or in the code of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        import nbformat

        cells = nbformat.reads(text, as_version=4).cells
        text = "\n".join(re.sub(r"^[%!].*$", "", c.source, flags=re.M) for c in cells if c.cell_type == "code")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


def test_nothing_in_the_repository_unpickles_or_evaluates_files(repository):
    forbidden = re.compile(
        r"(c?pickle|joblib|shelve|marshal|dill|cloudpickle)\.(load|loads|open|Unpickler)|(pd|pandas)\.read_pickle|"
        r"eval|exec|yaml\.(unsafe_load|full_load)|.*\.load_from_checkpoint"
    )
    places = [
        path for name in ("mine_reg", "benchmarks", "docs", "notebooks") for path in (repository / name).rglob("*")
    ]
    loads = 0
    for path in places:
        if path.suffix not in (".py", ".ipynb") or ".ipynb_checkpoints" in path.parts:
            continue
        for name, words in calls(path):
            assert not forbidden.fullmatch(name), f"{path} calls {name}"
            if name == "torch.load" or (name.endswith(".fit") and "ckpt_path" in words):
                assert words.get("weights_only") == "True", f"{path}: {name} without weights_only=True"
                loads += 1
            assert words.get("allow_pickle", "False") == "False", f"{path}: {name} with allow_pickle"
            if name == "YAML":
                assert words.get("typ", "'rt'") in ("'safe'", "'rt'"), f"{path}: {name} with {words}"
    assert loads >= 5
