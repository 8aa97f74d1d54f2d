"""Many trainings by the training notebooks, for ablations, sweeps and comparisons: resumable, parallel, on one machine
or many.

An experiment is an AffineNet and perhaps a DeformNet on top, each trained by its notebook with other values for some of
its parameters, and measured on one split. Experiments with equal networks train them once. What is finished is kept, so
an interrupted run goes on where it stopped.
"""

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from mine_reg.evaluation.metrics import METRICS
from mine_reg.evaluation.networks import measure, recover
from mine_reg.experiments.kept import KeptTrainings, identity_of_pairs, training_key
from mine_reg.experiments.notebook_training import NotebookTraining, planned, seconds_of
from mine_reg.models import AffineNet
from mine_reg.settings import LOSSES, settings
from mine_reg.storage.parallel import in_parallel
from mine_reg.storage.results import code, digest, keep
from mine_reg.storage.tables import read_curve
from mine_reg.training.augmentation import VOLUMES
from mine_reg.training.datasets import PairDataset
from mine_reg.training.fit import CURVES
from mine_reg.training.modules import DeformTraining
from mine_reg.training.weights import load_affinenet, load_deformnet, make_network

# code that decides what an AffineNet recovers
RECOVERED_BY = (
    "evaluation/networks.py",
    "models.py",
    "spatial.py",
    "pairs/preprocessed.py",
    "images/geometry.py",
    "training/augmentation.py",
)


@dataclass(frozen=True)
class Experiment:
    """name : of the row; affinenet, deformnet : parameters of the notebooks that differ from params.yaml.

    affinenet may also be the folder of a trained AffineNet; deformnet None measures the affine map alone.
    """

    name: str
    affinenet: dict | Path = field(default_factory=dict)
    deformnet: dict | None = field(default_factory=dict)


def known_to(network: str, changes: dict) -> dict:
    """Those of ``changes`` that are parameters of ``network`` in params.yaml; mu, for one, is DeformNet's alone."""
    known = vars(settings(network))
    return {name: value for name, value in changes.items() if name in known}


def run_experiments(
    experiments: Iterable[Experiment],
    pairs: Path,
    work: Path,
    profile: str,
    split: str = "validation",
    workers: int = -1,
    scheduler: str | None = None,
    kept: Path | None = None,
) -> pd.DataFrame:
    """Train and measure all experiments; one row per experiment and pair with the columns of ``metrics.csv`` and more.

    pairs : preprocessed pairs; split : those measured
    work : finished trainings are kept here, each in a folder with its weights, curves and executed notebook
    workers : trainings at once, one thread each; -1 means all cores. Not used with a scheduler
    scheduler : address of a Dask scheduler whose workers see the same files, e.g. ``tcp://host:8786``
    kept : folder of `KeptTrainings`, to which every experiment is added as it ends, and in which those that it holds
        need no training; None: trained here if they are not in ``work``

    Further columns are ``affinenet_seconds`` and ``deformnet_seconds`` of training, and ``recovery_mm``, what AffineNet
    leaves on average of known maps (`recover`, with ``evaluate.recovery`` of params.yaml); NaN for what was not trained
    here; with ``kept`` also ``training``, the key there. Raises, before anything is trained, ValueError for two
    experiments of one name and for unknown parameters, and FileNotFoundError for missing pairs or networks;
    RuntimeError, after all others are done, that names each that failed.
    """
    experiments = list(experiments)
    names = [experiment.name for experiment in experiments]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several experiments are called {', '.join(repeated)}")
    pairs, work = Path(pairs).resolve(), Path(work).resolve()
    jobs = {experiment.name: _job(experiment, pairs, work, profile) for experiment in experiments}
    limits = settings("evaluate", profile=profile).recovery
    known, keys, results = None, {}, {}
    if kept is not None:
        known, made = KeptTrainings(kept), identity_of_pairs(pairs)
        keys = {name: training_key(job.identities, made, split, limits) for name, job in jobs.items()}
        found = {name: known.get(key) for name, key in keys.items()}
        results = {name: table.assign(method=name) for name, table in found.items() if table is not None}
    to_do = {name: job for name, job in jobs.items() if name not in results}

    # first every AffineNet once, then what stands on them
    affine = {job.affinenet: job.affine_training for job in to_do.values() if job.affine_training is not None}
    calls = {folder: (_train_affinenet, training, pairs, limits) for folder, training in affine.items()}
    recovery, errors = _parallel(calls, "AffineNets", workers, scheduler)
    ready = {name: job for name, job in to_do.items() if job.affinenet not in errors}

    def finished(name: str, measured: tuple[pd.DataFrame, pd.DataFrame]) -> None:
        table, curve = measured
        table = table.assign(recovery_mm=recovery.get(jobs[name].affinenet, float("nan")))
        results[name] = (table if known is None else known.add(keys[name], table, curve)).assign(method=name)

    calls = {name: (_train_and_measure, job, pairs, split) for name, job in ready.items()}
    _, failed = _parallel(calls, "experiments", workers, scheduler, finished)
    failed |= {name: errors[job.affinenet] for name, job in to_do.items() if name not in ready}
    if failed:
        raise RuntimeError("; ".join(f"experiment {name}: {message}" for name, message in failed.items()))
    return pd.concat([results[name] for name in names], ignore_index=True)


class _Job(NamedTuple):
    """An experiment and its trainings, in a form that can be sent to another process."""

    name: str
    affinenet: Path
    affine_training: NotebookTraining | None  # None: the folder was given
    deform_training: NotebookTraining | None  # None: the affine map alone

    @property
    def identities(self) -> list[str]:
        """What decides both networks, except the pairs."""
        affine = digest(self.affinenet) if self.affine_training is None else self.affine_training.identity
        return [affine] if self.deform_training is None else [affine, self.deform_training.identity]


def _job(experiment: Experiment, pairs: Path, work: Path, profile: str) -> _Job:
    if isinstance(experiment.affinenet, dict):
        training = planned("affinenet", experiment.affinenet, pairs, profile, work)
        affinenet = training.folder
    else:
        training, affinenet = None, Path(experiment.affinenet).resolve()
        load_affinenet(affinenet)  # or an error that says what is missing
    if experiment.deformnet is None:
        return _Job(experiment.name, affinenet, training, None)
    deform = planned("deformnet", experiment.deformnet, pairs, profile, work, training or affinenet)
    return _Job(experiment.name, affinenet, training, deform)


def _train_affinenet(training: NotebookTraining, pairs: Path, limits: dict) -> float:
    """Returns what it leaves of known maps, in mm; measured once, and kept with the network."""
    training.train()

    def make(folder: Path) -> None:
        found = recover(load_affinenet(training.folder), pairs, limits, seed=training.seed)
        found.to_csv(folder / "recovery.csv", index=False, float_format="%.6g")

    kept, weights = training.folder / "recovery", training.folder / "weights.safetensors"
    keep(kept, digest(weights, pairs / "pairs.csv", limits, training.seed, *code(*RECOVERED_BY)), make)
    return pd.read_csv(kept / "recovery.csv")["known_mm"].mean()


def _train_and_measure(job: _Job, pairs: Path, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns rows of metrics, and the learning curves of both networks (`_curve`)."""
    deformnet, seconds = None, float("nan")
    if job.deform_training is not None:
        job.deform_training.train()
        deformnet, seconds = load_deformnet(job.deform_training.folder), seconds_of(job.deform_training.folder)
    table = measure(load_affinenet(job.affinenet), deformnet, pairs, split)[["pair_id", *METRICS]]
    table.insert(1, "method", job.name)
    table = table.assign(affinenet_seconds=seconds_of(job.affinenet), deformnet_seconds=seconds)
    networks = {"affinenet": job.affinenet}
    if job.deform_training is not None:
        networks["deformnet"] = job.deform_training.folder
    curves = [_curve(folder, network) for network, folder in networks.items()]
    return table, pd.concat([curve for curve in curves if len(curve)] or curves[:1], ignore_index=True)


def _curve(folder: Path, network: str) -> pd.DataFrame:
    """One row per validation of a training: ``step``, ``network``, ``val_tre_mm``, the landmark error (NaN: there are
    no points), and ``val_loss``, by which the model was chosen (of pairs moved by random maps where there are such)."""
    found = [read_curve(folder / CURVES, name) for name in ("val_loss", "val_far_loss", "val_tre_mm")]
    loss, far, tre = (pd.DataFrame({"step": [], "value": []}) if curve is None else curve for curve in found)
    chosen_by = (far if len(far) else loss).rename(columns={"value": "val_loss"})[["step", "val_loss"]]
    curve = chosen_by.merge(tre.rename(columns={"value": "val_tre_mm"})[["step", "val_tre_mm"]], on="step", how="left")
    return curve.assign(network=network)


def seconds_per_step(changes: dict[str, dict], pairs: Path, profile: str, repeats: int = 21) -> pd.Series:
    """Median seconds of a training step (forward and backward) of DeformNet on one pair, for several settings timed in
    turn.

    changes : name -> parameters that differ from params.yaml
    """
    modules, seconds = {}, {name: [] for name in changes}
    for name, change in changes.items():
        cfg = settings("deformnet", profile=profile, **{"loss": LOSSES[0], **change})
        modules[name] = DeformTraining(cfg, make_network(AffineNet, vars(settings("affinenet", profile=profile))), None)
        modules[name].log_dict = lambda *_args, **_how: None  # there is no trainer
    data = PairDataset(Path(pairs), "train", VOLUMES, in_memory=False)
    batch = {name: volume[None] for name, volume in data[0].items()}
    for repeat, (name, module) in itertools.product(range(repeats + 1), modules.items()):
        torch.manual_seed(repeat)  # the same number of passes for all
        start = time.perf_counter()
        module.training_step(batch, 1).backward()
        if repeat:  # the first is a warm-up
            seconds[name].append(time.perf_counter() - start)
    return pd.DataFrame(seconds).median()


def _parallel(
    calls: dict,
    what: str,
    workers: int,
    scheduler: str | None,
    finished: Callable[[str, object], None] = lambda _name, _result: None,
) -> tuple[dict, dict]:
    """Results of ``name: (function, *arguments)``, and the messages of those that failed.

    finished : is called with name and result as soon as there is one
    """
    results, errors = {}, {}
    tried = {name: (_tried, *call) for name, call in calls.items()}
    for name, (result, error) in tqdm(in_parallel(tried, workers, scheduler), total=len(calls), desc=what):
        if error is None:
            results[name] = result
            finished(name, result)
        else:
            errors[name] = error
    return results, errors


def _tried(function, *arguments) -> tuple[object, str | None]:
    try:
        return function(*arguments), None
    except Exception as error:  # noqa: BLE001 - one failed experiment must not stop the others
        return None, f"{type(error).__name__}: {error}"
