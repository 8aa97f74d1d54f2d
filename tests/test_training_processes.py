"""Training in processes of its own: killed at any moment and started again; shared by two; from the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mine_reg.pairs.preprocessed import load_pair, read_pairs
from mine_reg.settings import settings
from mine_reg.training.datasets import folder_data
from mine_reg.training.fit import fit
from mine_reg.training.modules import AffineTraining
from mine_reg.training.weights import load_affinenet, load_deformnet

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SMALL = {
    "epochs": 6,
    "batch_size": 1,
    "samples": 2048,
    "validate_every": 1,
    "channels": [4, 8],
    "warmup_steps": 2,
    "accelerator": "cpu",
}
FOR_AFFINENET = {"random_affine": {"degrees": 15.0, "translation": 0.1875, "scale": 0.1}}


@pytest.fixture(scope="module")
def pairs(make_small_pairs):
    return make_small_pairs(train=4, validation=3)


@pytest.fixture
def study(make_study_copy):
    """Where the commands run: checkpoints go into the study's scratch folder."""
    return make_study_copy().folder


def command(network: str, pairs: Path, out: Path, *more: str, **changes) -> list[str]:
    chosen = {**SMALL, **(FOR_AFFINENET if network == "affinenet" else {}), **changes}
    assignments = [f"--set={name}={json.dumps(value)}" for name, value in chosen.items()]
    return [
        sys.executable,
        "-m",
        "mine_reg.cli",
        "train",
        network,
        "--profile=smoke",
        f"--pairs={pairs}",
        f"--out={out}",
        *more,
        *assignments,
    ]


def test_a_training_killed_again_and_again_ends_with_the_weights_of_an_uninterrupted_one(pairs, tmp_path, study):
    subprocess.run(command("affinenet", pairs, tmp_path / "whole", epochs=12), check=True, env=ENVIRONMENT, cwd=study)
    checkpoints = study / "scratch/checkpoints/affinenet"

    def newest_checkpoint() -> list[int]:
        return [path.stat().st_mtime_ns for path in checkpoints.glob("*/last.ckpt")]

    for attempt in range(5):
        mark = newest_checkpoint()
        process = subprocess.Popen(
            command("affinenet", pairs, tmp_path / "parts", epochs=12), env=ENVIRONMENT, cwd=study
        )
        while process.poll() is None and attempt < 4:  # the last one may finish
            if newest_checkpoint() not in ([], mark):  # further than the last attempt, and then at no particular moment
                time.sleep(0.037 * attempt)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        assert process.wait() == (-signal.SIGKILL if attempt < 4 else 0)
    whole, parts = (load_affinenet(tmp_path / name).state_dict() for name in ("whole", "parts"))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=0)
    # a row that was not yet on disk when its process was killed is missing; none is wrong, and none is there twice
    for path in (tmp_path / "parts/curves").rglob("metrics/*/*.tsv"):  # not epoch.tsv, which repeats itself
        rows = path.read_text().splitlines()
        assert len(set(rows)) == len(rows)
        assert set(rows) <= set(
            (tmp_path / "whole/curves" / path.relative_to(tmp_path / "parts/curves")).read_text().splitlines()
        )
    assert not list(checkpoints.iterdir())  # nothing is left behind


def test_two_equal_trainings_at_once_leave_the_same_weights(pairs, tmp_path, study):
    commands = [command("affinenet", pairs, tmp_path / name, epochs=4) for name in ("one", "two")]
    processes = [subprocess.Popen(each, env=ENVIRONMENT, cwd=study) for each in commands]
    assert [process.wait() for process in processes] == [0, 0]
    one, two = (load_affinenet(tmp_path / name).state_dict() for name in ("one", "two"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not list((study / "scratch/checkpoints/affinenet").iterdir())


def test_two_processes_share_the_pairs_and_stay_one_network(pairs, tmp_path):
    cfg = {
        **vars(settings("affinenet", profile="smoke")),
        **SMALL,
        **FOR_AFFINENET,
        "epochs": 2,
        "shift_voxels": 0,
        "flip_axes": [],
        "devices": 2,
    }
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(Path(__file__).with_name("ddp_worker.py")),
    ]
    subprocess.run([*torchrun, json.dumps(cfg), str(pairs), str(tmp_path)], check=True, env=ENVIRONMENT)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))

    assert first["world"] == second["world"] == 2
    for name in ("gradients", "parameters", "metrics", "result"):
        assert first[name] == second[name], name
    assert (
        len(first["parameters"]) == 4 and len(set(first["parameters"])) == 4
    )  # four pairs, two at once, two epochs; each step learns
    sums = {
        split: sorted(float(load_pair(pairs, i).fixed.double().sum()) for i in read_pairs(pairs, split)["pair_id"])
        for split in ("train", "validation")
    }
    for epoch in range(2):
        assert (
            sorted(first["pairs"][2 * epoch : 2 * epoch + 2] + second["pairs"][2 * epoch : 2 * epoch + 2])
            == sums["train"]
        )
    assert sorted(first["validated"] + second["validated"]) == sorted(2 * sums["validation"])

    # one process with the weights that the two left measures what they logged, over an uneven number of pairs
    class Restored(AffineTraining):
        def on_fit_start(self):
            self.network.load_state_dict(load_affinenet(tmp_path / "out").state_dict())

    frozen = {**cfg, "devices": 1, "epochs": 1, "learning_rate": 0.0, "weight_decay": 0.0}
    cfg = SimpleNamespace(**frozen)
    alone = Restored(cfg)
    fit(alone, folder_data(cfg, pairs), tmp_path / "alone", tmp_path / "alone.work")
    chosen = min(first["metrics"], key=lambda metrics: metrics[alone.monitor])
    assert chosen[alone.monitor] == pytest.approx(first["result"]["val_loss"])
    for name in ("val_dsc", "val_far_dsc", "val_tre_mm"):
        assert float(alone.trainer.callback_metrics[name]) == pytest.approx(chosen[name], rel=1e-5)


def test_both_networks_train_from_the_command_line(pairs, tmp_path, study):
    run = {"check": True, "env": ENVIRONMENT, "cwd": study, "encoding": "utf-8", "stdout": subprocess.PIPE}
    done = subprocess.run(command("affinenet", pairs, tmp_path / "a", epochs=1), **run)
    assert f"{tmp_path / 'a'} holds the trained affinenet: validation loss " in done.stdout
    below = f"--affinenet={tmp_path / 'a'}"
    subprocess.run(command("deformnet", pairs, tmp_path / "d", below, epochs=1), **run)
    load_deformnet(tmp_path / "d")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rigidnet"], "unknown network 'rigidnet'; choose affinenet or deformnet"),
        (["deformnet"], "a DeformNet needs the folder of a trained AffineNet: add --affinenet FOLDER"),
        (["affinenet", "--set", "epochs"], "--set epochs: write NAME=VALUE"),
        (["affinenet", "--set", "epoch=3"], "unknown setting 'epoch' in affinenet; did you mean 'epochs'?"),
        (["affinenet", "--set", "loss=dice"], "unknown loss 'dice' for affinenet; choose from miregnet, midiceregnet"),
        (["affinenet", "--pairs", "nowhere"], "nowhere holds no preprocessed pairs (pairs.csv is missing)"),
    ],
)
def test_a_wrong_command_is_answered_with_a_sentence(pairs, tmp_path, repository, arguments, message):
    where = [] if "--pairs" in arguments else ["--pairs", str(pairs)]
    done = subprocess.run(
        [sys.executable, "-m", "mine_reg.cli", "train", *arguments, *where, "--out", str(tmp_path / "out")],
        env=ENVIRONMENT,
        cwd=repository,
        encoding="utf-8",
        stderr=subprocess.PIPE,
        check=False,
    )
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
