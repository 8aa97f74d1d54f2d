"""Many trainings by the training notebooks, for ablations, sweeps and comparisons: resumable, parallel, on one machine
or many.

An experiment is an AffineNet and perhaps a DeformNet on top, each trained by its notebook with other values for some of
its parameters, and measured on one split. Experiments that share an AffineNet train it once. What is finished is kept
under a fingerprint of everything that decides it, so an interrupted run goes on where it stopped.
"""

import itertools
import json
import os
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import pandas as pd
import torch
from tqdm import tqdm

from mine_reg.evaluation.metrics import METRICS, evaluate_pair
from mine_reg.models import AffineNet
from mine_reg.pairs.preprocessed import load_pair, read_pairs
from mine_reg.settings import LOSSES, root, settings
from mine_reg.spatial import total_displacement
from mine_reg.storage.results import code, digest, keep
from mine_reg.training.augmentation import VOLUMES
from mine_reg.training.datasets import PairDataset
from mine_reg.training.modules import DeformTraining
from mine_reg.training.weights import load_affinenet, load_deformnet, make_network

NOTEBOOKS = {"affinenet": "04_train_affinenet.ipynb", "deformnet": "05_train_deformnet.ipynb"}
LEARNED_BY = ("models.py", "losses.py", "spatial.py", "training")  # code that decides what a training learns


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
    return {name: value for name, value in changes.items() if hasattr(settings(network), name)}


def run_experiments(
    experiments: Iterable[Experiment],
    pairs: Path,
    work: Path,
    profile: str,
    split: str = "validation",
    workers: int = -1,
    scheduler: str | None = None,
) -> pd.DataFrame:
    """Train and measure all experiments; one row per experiment and pair with the columns of ``metrics.csv`` and more.

    pairs : preprocessed pairs; split : those measured
    work : finished trainings are kept here, each in a folder with its weights, curves and executed notebook
    workers : trainings at once, one thread each; -1 means all cores. Not used with a scheduler
    scheduler : address of a Dask scheduler whose workers see the same files, e.g. ``tcp://host:8786``

    Further columns are ``affinenet_seconds`` and ``deformnet_seconds`` of training, and ``recovery_mm``, what is left
    on average of the known maps with which notebook 04 tries AffineNet. Raises ValueError for two experiments of one
    name and for unknown parameters, before anything is trained; RuntimeError, after all others are done, that names
    each that failed.
    """
    experiments = list(experiments)
    names = [experiment.name for experiment in experiments]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several experiments are called {', '.join(repeated)}")
    for experiment in experiments:
        for network in ("affinenet", "deformnet"):
            if isinstance(changes := getattr(experiment, network), dict):
                settings(network, profile=profile, **changes)
    pairs, work = Path(pairs).resolve(), Path(work).resolve()
    jobs = {experiment.name: _Job(experiment, pairs, work, profile, root()) for experiment in experiments}
    # first every AffineNet once, then what stands on them
    affine = {job.affinenet_folder: job for job in jobs.values() if isinstance(job.experiment.affinenet, dict)}
    errors = _parallel(
        {folder: (job.train_affinenet,) for folder, job in affine.items()}, "AffineNets", workers, scheduler
    )[1]
    ready = {name: job for name, job in jobs.items() if job.affinenet_folder not in errors}
    results, failed = _parallel(
        {name: (job.train_and_measure, split) for name, job in ready.items()}, "experiments", workers, scheduler
    )
    failed |= {name: errors[job.affinenet_folder] for name, job in jobs.items() if name not in ready}
    if failed:
        raise RuntimeError("; ".join(f"experiment {name}: {message}" for name, message in failed.items()))
    return pd.concat([results[name] for name in names], ignore_index=True)


class _Job:
    """One experiment, in a form that can be sent to another process."""

    def __init__(self, experiment: Experiment, pairs: Path, work: Path, profile: str, study: Path):
        self.experiment, self.pairs, self.work, self.profile, self.study = experiment, pairs, work, profile, study
        given = experiment.affinenet
        self.affinenet_folder = self._folder("affinenet", given) if isinstance(given, dict) else Path(given).resolve()
        self.deformnet_folder = (
            None if experiment.deformnet is None else self._folder("deformnet", experiment.deformnet)
        )

    def train_affinenet(self) -> None:
        self._train("affinenet", self.affinenet_folder, self.experiment.affinenet)

    def train_and_measure(self, split: str) -> pd.DataFrame:
        if self.deformnet_folder:
            self._train(
                "deformnet",
                self.deformnet_folder,
                self.experiment.deformnet | {"affinenet": str(self.affinenet_folder)},
            )
        affinenet = load_affinenet(self.affinenet_folder)
        deformnet = load_deformnet(self.deformnet_folder) if self.deformnet_folder else None
        rows = []
        for row in read_pairs(self.pairs, split).itertuples():
            pair = load_pair(self.pairs, row)
            fixed, moving = pair.fixed[None], pair.moving[None]
            with torch.inference_mode():
                theta = affinenet.predict(fixed, moving)
                dvf = deformnet.predict(fixed, moving, theta) if deformnet else None
                displacement = total_displacement(theta, dvf, fixed.shape[2:])
            rows.append({"pair_id": pair.pair_id, "method": self.experiment.name} | evaluate_pair(pair, displacement))
        seconds = {
            f"{name}_seconds": json.loads((folder / "run.json").read_text())["seconds"]
            if folder and (folder / "run.json").is_file()
            else float("nan")
            for name, folder in (("affinenet", self.affinenet_folder), ("deformnet", self.deformnet_folder))
        }
        recovered = [
            pd.read_csv(path)["known_mm"].mean() for path in self.affinenet_folder.glob("affine_recovery_*.csv")
        ]
        return pd.DataFrame(rows)[["pair_id", "method", *METRICS]].assign(
            **seconds, recovery_mm=recovered[0] if recovered else float("nan")
        )

    def _folder(self, network: str, changes: dict) -> Path:
        """Where a trained network is kept; the name is the digest of all that decides what the training learns."""
        below = ()
        if network == "deformnet":
            own = isinstance(self.experiment.affinenet, dict)
            below = (self.affinenet_folder.name,) if own else (self.affinenet_folder / "weights.safetensors",)
        values = vars(settings(network, profile=self.profile, **changes))
        notebook = self.study / "notebooks" / NOTEBOOKS[network]
        key = digest(values, _code_cells(notebook), self.pairs / "pairs.csv", *code(*LEARNED_BY), *below)
        return self.work / f"{network}-{key[:16]}"

    def _train(self, network: str, folder: Path, parameters: dict) -> None:
        import papermill  # here: slow to import, and only where something is trained
        from papermill.exceptions import PapermillExecutionError

        def make(made: Path) -> None:
            start = time.perf_counter()
            executed = folder.with_name(f"{folder.name}.ipynb")  # outside, so that it can be read when it fails
            given = {
                "profile": self.profile,
                "pairs": str(self.pairs),
                "out": str(made),
                "curves": str(made / "curves"),
            }
            try:
                papermill.execute_notebook(
                    self.study / "notebooks" / NOTEBOOKS[network],
                    executed,
                    kernel_name="python3",
                    language="python",
                    parameters=parameters | given,
                    cwd=self.study,
                    progress_bar=False,
                    log_output=False,
                )
            except PapermillExecutionError as error:
                raise RuntimeError(
                    f"{NOTEBOOKS[network]} stopped with {error.ename}: {error.evalue}; see {executed}"
                ) from None
            executed.replace(made / "notebook.ipynb")
            seconds = {"seconds": time.perf_counter() - start}
            (made / "run.json").write_text(json.dumps(seconds | parameters, default=str) + "\n")

        keep(folder, folder.name, make)


def _code_cells(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def seconds_per_step(changes: dict[str, dict], pairs: Path, profile: str, repeats: int = 7) -> pd.Series:
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


def _parallel(calls: dict, what: str, workers: int, scheduler: str | None) -> tuple[dict, dict]:
    """Results of ``name: (function, *arguments)``, and the messages of those that failed."""
    results, errors = {}, {}
    if not calls:
        return results, errors
    with ExitStack() as stack:
        if scheduler:
            from dask.distributed import Client

            stack.enter_context(Client(scheduler))
            stack.enter_context(joblib.parallel_config(backend="dask"))
        else:
            stack.enter_context(
                joblib.parallel_config(backend="loky", n_jobs=min(joblib.effective_n_jobs(workers), len(calls)))
            )
        outcomes = joblib.Parallel(return_as="generator_unordered")(
            joblib.delayed(_call)(name, *call) for name, call in calls.items()
        )
        for name, result, error in tqdm(outcomes, total=len(calls), desc=what):
            if error is None:
                results[name] = result
            else:
                errors[name] = error
    return results, errors


def _call(name, function, *arguments):
    os.environ["OMP_NUM_THREADS"] = (
        "1"  # of the notebook's kernel; several trainings at once would only wait for each other
    )
    torch.set_num_threads(1)
    try:
        return name, function(*arguments), None
    except Exception as error:  # noqa: BLE001 - one failed experiment must not stop the others
        return name, None, f"{type(error).__name__}: {error}"
