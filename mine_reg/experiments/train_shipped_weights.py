"""How the weights that come with the package are made: from phantoms, pairs simulated from CTs, and CTs of different
people, all of them varied.

python -m mine_reg.experiments.train_shipped_weights scans.csv --leave-out ricord1012 --out mine_reg/shipped_weights

scans.csv : as data_manifests/example_scans.csv. What is left out is never seen, and serves for the comparison in the
README. MIRegNet and MIDiceRegNet are trained side by side, on a GPU where there is one; what they print is in the
folder of ``--work``. An interrupted run goes on where it stopped; with ``--minutes`` it trains again. With
``--start-from`` the networks of an earlier run go on learning.
"""

import argparse
import contextlib
import copy
import json
import math
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import joblib
import lightning
import torch
from joblib.externals.loky import get_reusable_executor
from torch.utils.data import ConcatDataset

from mine_reg.evaluation.metrics import field_metrics, tre_mm
from mine_reg.experiments.shipped_pairs import GRIDS, VALIDATED, TensorPairs, make_pairs
from mine_reg.losses import soft_dice
from mine_reg.pairs.manifest import read_scans
from mine_reg.registration import halved, predict_on_two_grids
from mine_reg.settings import LOSSES, root, settings
from mine_reg.spatial import total_displacement, warp_mask
from mine_reg.storage.results import digest
from mine_reg.training.augmentation import VOLUMES, AsInClinics
from mine_reg.training.fit import PairData, fit
from mine_reg.training.modules import AffineTraining, DeformTraining, FineTraining, RegistrationTraining
from mine_reg.training.weights import (
    RegistrationWeights,
    load_affinenet,
    load_registration,
    load_statistic,
    load_weights_file,
    save_weights_file,
)

NETWORKS = ("affinenet", "deformnet", "fine")
# what each network has otherwise than the profile laptop
_AFFINE = {"batch_size": 8, "random_affine": {"degrees": 20.0, "translation": 0.25, "scale": 0.2}}
_DEFORM = {"batch_size": 4}
_FINE = {"batch_size": 2, "channels": [8, 16, 32, 32], "passes": 2, "samples": 80_000, "shift_voxels": 8}
_OTHERWISE = {"affinenet": _AFFINE, "deformnet": _DEFORM, "fine": _FINE}
_VALIDATIONS = 5  # in the training of a network
# with --minutes: which part of what is left each network may take; the last one leaves time for its validation
_PARTS = {"affinenet": 0.33, "deformnet": 0.5, "fine": 0.8}
_TRIAL = 30  # steps, of which the second half tells how long a step takes
_LATE = 1.2  # times the time that a network may take, it ends without its last epochs


def train(network: str, loss: str, pairs: dict[str, Path], arguments: argparse.Namespace) -> Path:
    """Train one network on what those below it left, unless it is there; returns its folder."""
    folders = {name: arguments.work / f"{name}-{loss}" for name in NETWORKS}
    began, left = time.monotonic(), arguments.until - time.time()
    lightning.seed_everything(arguments.seed, verbose=False)
    cfg = training_settings(network, loss, arguments, getattr(arguments, f"{network}_epochs"))
    data = training_data(cfg, pairs, "fine" if network == "fine" else "coarse", arguments.repeat_subjects)
    if math.isfinite(left):
        seconds = left * _PARTS[network]
        trial = new_training(network, cfg, folders, earlier(loss, arguments))
        epochs = affordable_epochs(trial, data, seconds - (time.monotonic() - began))
        cfg = training_settings(network, loss, arguments, epochs)
        data.cfg, data.deadline = cfg, began + _LATE * seconds
        print(f"{network}: {seconds:.0f} s are enough for {cfg.epochs} epochs", flush=True)
    module = new_training(network, cfg, folders, earlier(loss, arguments))
    fit(module, data, folders[network], arguments.work / "checkpoints" / folders[network].name)
    print(f"{network}: done after {time.monotonic() - began:.0f} s", flush=True)
    return folders[network]


def training_settings(network: str, loss: str, arguments: argparse.Namespace, epochs: int) -> SimpleNamespace:
    """Those of the profile laptop but for `_OTHERWISE`, with about five validations in the epochs."""
    every = max(1, epochs // _VALIDATIONS)
    return settings(
        "affinenet" if network == "affinenet" else "deformnet",
        profile="laptop",
        loss=loss,
        seed=arguments.seed,
        epochs=max(1, epochs // every) * every,
        validate_every=every,
        region_mm=None if network == "affinenet" else arguments.region_mm,
        **_OTHERWISE[network],
    )


def earlier(loss: str, arguments: argparse.Namespace) -> RegistrationWeights | None:
    """What training starts from; None: new networks."""
    return None if arguments.start_from is None else load_weights_file(arguments.start_from / f"{loss}.safetensors")


def new_training(
    network: str, cfg: SimpleNamespace, folders: dict[str, Path], first: RegistrationWeights | None
) -> RegistrationTraining:
    """folders : of the networks, of which those below ``network`` are trained
    first : has the weights that ``network`` starts with
    """
    if network == "affinenet":
        module = AffineTraining(cfg, first and first.statistic)
        start = first and first.registration.affinenet
    elif network == "deformnet":
        module = DeformTraining(cfg, load_affinenet(folders["affinenet"]), load_statistic(folders["affinenet"]))
        start = first and first.registration.deformnet
    else:
        below = load_registration(folders["affinenet"], folders["deformnet"])
        module = FineTraining(cfg, below, load_statistic(folders["deformnet"]))
        start = first and first.fine
    if start is not None:
        module.network.load_state_dict(start.state_dict())
    return module


class TimedData(PairData):
    """Pairs whose training ends early when it is later than ``deadline`` (of `time.monotonic`)."""

    deadline = math.inf

    def on_after_batch_transfer(self, batch: dict, index: int) -> dict:
        if time.monotonic() > self.deadline:
            self.trainer.should_stop = True
        return super().on_after_batch_transfer(batch, index)


def training_data(cfg: SimpleNamespace, pairs: dict[str, Path], grid: str, repeat_subjects: int) -> TimedData:
    """Varied pairs of all kinds for training, the pairs with a validation split as they are for validation; on the GPU
    where there is one."""
    device = _device()
    training = {kind: TensorPairs(folder, "train", grid, device) for kind, folder in pairs.items()}
    training["subjects"] = ConcatDataset([training["subjects"]] * repeat_subjects)
    validation = [TensorPairs(pairs[kind], "validation", grid, device) for kind in VALIDATED]
    identity = digest(repeat_subjects, *(folder / "fine/pairs.csv" for folder in pairs.values()))
    varied = AsInClinics(ConcatDataset(training.values()))
    return TimedData(cfg, varied, ConcatDataset(validation), identity.encode())


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


class _Clock(lightning.Callback):
    """When the steps of a short training ended, in seconds."""

    def __init__(self):
        self.times = []

    def on_train_batch_end(self, *_args) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.monotonic())


def affordable_epochs(module: RegistrationTraining, data: PairData, seconds: float) -> int:
    """So many epochs, of which some with a validation, take about ``seconds``, as a trial of ``module`` tells.

    A step of validation counts as one of training.
    """
    began, clock = time.monotonic(), _Clock()
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trial = lightning.Trainer(
        max_steps=_TRIAL, limit_val_batches=0, enable_checkpointing=False, devices=1, callbacks=[clock], **options
    )
    trial.fit(copy.deepcopy(module), datamodule=data)
    second_half = clock.times[len(clock.times) // 2 - 1 :]
    step = (second_half[-1] - second_half[0]) / max(1, len(second_half) - 1)
    left = seconds - (time.monotonic() - began) - _VALIDATIONS * step * len(data.validation)
    epoch = step * math.ceil(len(data.training) / data.cfg.batch_size)
    print(f"trial: {1000 * step:.0f} ms a step, {epoch:.1f} s an epoch, {left:.0f} s left", flush=True)
    return max(1, int(0.92 * left / epoch))


@torch.inference_mode()
def validation_means(weights: RegistrationWeights, folder: Path) -> dict[str, float]:
    """Mean DSC, TRE (mm) and folding (%) over the validation pairs of ``folder``, before and after registration."""
    device = _device()
    weights.registration.to(device)
    weights.fine.to(device)
    rows = []
    pairs = TensorPairs(folder, "validation", "fine", device)
    for index in range(len(pairs)):
        pair = pairs[index]
        volumes = {name: pair[name].float()[None] for name in VOLUMES}
        images = volumes["fixed"], volumes["moving"]
        theta, dvf = predict_on_two_grids(weights.registration, weights.fine, tuple(map(halved, images)), images)
        after = total_displacement(theta, dvf, images[0].shape[2:])
        row = {"folding_percent": field_metrics(after)["folding_percent"]}
        for when, displacement in (("before", torch.zeros_like(after)), ("after", after)):
            moved = warp_mask(volumes["moving_mask"], displacement)
            row[f"dsc_{when}"] = soft_dice(moved.flatten(1), volumes["fixed_mask"].flatten(1)).item()
            row[f"tre_mm_{when}"] = tre_mm(
                displacement, pair["fixed_points"], pair["moving_points"], pair["spacing_mm"]
            )
        rows.append(row)
    return {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in rows[0]}


def make_weights(loss: str, pairs: dict[str, Path], scans: list[str], arguments: argparse.Namespace) -> dict:
    """Train all networks by one loss and write them to one file; returns the provenance.

    scans : names of those that were seen

    Where there is no file yet, one without the fine level is there as soon as DeformNet is trained.
    """
    with (
        open(arguments.work / f"{loss}.log", "a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        path = arguments.out / f"{loss}.safetensors"
        provenance = {
            "method": loss,
            "command": {name: value for name, value in vars(arguments).items() if name in _RECORDED},
            "scans": scans,
            "seed": arguments.seed,
            "code": arguments.commit or _commit(),
            "grids": GRIDS,
        }
        if (first := earlier(loss, arguments)) is not None:
            provenance["starts_from"] = first.provenance
        affinenet, deformnet = (train(network, loss, pairs, arguments) for network in NETWORKS[:2])
        if not path.is_file():
            save_weights_file(affinenet, deformnet, path, provenance)
        fine = train("fine", loss, pairs, arguments)
        save_weights_file(affinenet, deformnet, path, provenance, fine)
        weights = load_weights_file(path)
        provenance["validation"] = {kind: validation_means(weights, pairs[kind]) for kind in VALIDATED}
        save_weights_file(affinenet, deformnet, path, provenance, fine)
        print(json.dumps(provenance), flush=True)
    return provenance


_RECORDED = ("leave_out", "phantoms", "simulated", "repeat_subjects", "region_mm", "minutes", "seed")
_RECORDED += tuple(f"{network}_epochs" for network in NETWORKS)


def _commit() -> str:
    """The commit of this checkout, with ``-dirty`` where files differ from it; "" where there is none."""
    with contextlib.suppress(OSError):
        command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, cwd=root()).stdout.strip()
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="SCAN_ID")
    parser.add_argument("--phantoms", type=int, default=24)
    parser.add_argument("--simulated", type=int, default=120, help="pairs, dealt out evenly over the scans")
    parser.add_argument("--repeat-subjects", type=int, default=1, help="how often a pair of people comes in an epoch")
    parser.add_argument("--affinenet-epochs", type=int, default=60)
    parser.add_argument("--deformnet-epochs", type=int, default=16)
    parser.add_argument("--fine-epochs", type=int, default=4)
    parser.add_argument("--minutes", type=float, help="for everything; epochs follow from the time that a step takes")
    parser.add_argument("--region-mm", type=float, default=5.0, help="from the lungs, in which both DeformNets are led")
    parser.add_argument("--start-from", type=Path, metavar="FOLDER", help="with the files of an earlier run")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--commit", help="of this code, where it is no checkout")
    parser.add_argument("--work", type=Path, default=root() / "scratch/shipped_weights", help="for what is finished")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def main() -> None:
    began = time.time()
    parser = _parser()
    arguments = parser.parse_args()
    arguments.until = math.inf if arguments.minutes is None else began + 60 * arguments.minutes
    scans = read_scans(arguments.scans)
    if unknown := sorted({*arguments.leave_out} - {*scans["scan_id"]}):
        parser.error(f"--leave-out: {arguments.scans} has no scan {', '.join(unknown)}")
    scans = scans[~scans["scan_id"].isin(arguments.leave_out)]
    pairs = make_pairs(scans, arguments.work, arguments.phantoms, arguments.simulated, arguments.seed)
    print(f"pairs: there after {time.time() - began:.0f} s", flush=True)
    get_reusable_executor().shutdown()  # its processes have one thread each
    calls = (joblib.delayed(make_weights)(loss, pairs, scans["scan_id"].tolist(), arguments) for loss in LOSSES)
    print(json.dumps(joblib.Parallel(len(LOSSES))(calls), indent=2))


if __name__ == "__main__":
    main()
