"""The conventional opponents, pair by pair: ANTs as the paper used it, and convexAdam, a stronger one.

ANTs: rigid + affine + symmetric normalisation (SyN) through ANTsPy. With several threads it is not deterministic
(Mattes MI sums in the order in which threads finish), so pairs are registered in processes with a fixed number of ITK
threads, one by default, and several pairs run at once. Finished pairs are kept in a work folder under a fingerprint of
images, settings and this code: an interrupted run goes on where it stopped.

convexAdam (Siebert et al., IEEE TMI 2024; Heinrich's MIND-SSC features), on the CPU: it searches displacements on a
coarse grid by coupled convex optimisation and refines them by gradient descent, without training. Rigid and affine
differences are not its business, so it starts where ANTs' affine step ends.
"""

import io
import json
import os
import re
import shutil
import tempfile
import time
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import joblib
import pandas as pd
from joblib.externals.loky import ProcessPoolExecutor, as_completed
from joblib.externals.loky.process_executor import BrokenProcessPool
from tqdm import tqdm

from mine_reg.storage.results import MARK, code, digest, is_complete, keep

if TYPE_CHECKING:  # ANTs' processes do without torch
    from torch import Tensor

AFFINE, WARP = "0GenericAffine.mat", "1Warp.nii.gz"  # ANTs' own names; a fixed point goes through WARP, then AFFINE
COLUMNS = ("pair_id", "method", "device", "seconds", "error")


def ants_settings(transform: str, iterations: list[int], seed: int, threads: int) -> dict:
    """Settings of one ANTs run, checked: type of transform, SyN iterations coarse to fine, seed, ITK threads per pair.

    Every level has half the resolution of the next and the last one is full resolution, so (40, 20, 0), ANTsPy's
    default, stops at half of it. Raises ValueError for iterations that are not a list of whole numbers >= 0, or fewer
    than one thread.
    """
    if not iterations or any(not isinstance(n, int) or n < 0 for n in iterations):
        raise ValueError(f"ants.iterations must list whole numbers >= 0, coarse to fine, not {iterations}")
    if threads < 1:
        raise ValueError(f"ants.threads must be at least 1, got {threads}")
    chosen = {"transform": transform, "iterations": list(iterations), "seed": seed, "threads": threads}
    return {"antspyx": version("antspyx"), **chosen}


def run_ants(fixed_path: str | Path, moving_path: str | Path, folder: str | Path, settings: dict) -> dict:
    """Register one pair of NIfTI images with ANTsPy; leaves ``0GenericAffine.mat`` and ``1Warp.nii.gz`` in ``folder``.

    Call it in a process that has ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS set and has not loaded ANTs: ITK reads it only
    once.

    Returns ``seconds`` (of the registration call alone) and ``command``, the line ANTsPy hands to antsRegistration.
    Raises RuntimeError when ANTs fails or writes no warp.
    """
    import ants
    import ants.config

    # ants.registration() of antspyx 0.6.3 ignores a keyword `random_seed`; only this reaches antsRegistration
    ants.config.set_ants_deterministic(on=False, seed_value=settings["seed"])
    # ANTs starts at coinciding centres of mass; with air at 0, as for the networks, these are the bodies' and always
    # exist
    fixed, moving = (
        image - image.min() for image in (ants.image_read(str(fixed_path)), ants.image_read(str(moving_path)))
    )
    folder = Path(folder)
    with _caught_output() as said:
        start = time.perf_counter()
        ants.registration(
            fixed,
            moving,
            type_of_transform=settings["transform"],
            reg_iterations=tuple(settings["iterations"]),
            outprefix=f"{folder}/",
            verbose=True,
        )
        seconds = time.perf_counter() - start
    for name in (AFFINE, WARP):
        if not (folder / name).is_file():
            raise RuntimeError(f"ANTs' {settings['transform']} wrote no {name}; choose an affine + warp such as SyNRA")
    for path in folder.iterdir():
        if path.name not in (AFFINE, WARP):
            path.unlink()
    command = next(line for line in said.getvalue().splitlines() if line.startswith("antsRegistration "))
    # ANTsPy hands images over by their addresses
    for name, address in zip(("fixed", "moving"), re.search(r"-r \[(0x\w+),(0x\w+)", command).groups(), strict=True):
        command = command.replace(address, name)
    return {"seconds": seconds, "command": re.sub(r"--output \S+", "--output ...", command)}


def run_ants_on_pairs(
    pairs: pd.DataFrame, folder: str | Path, work: str | Path, settings: dict, workers: int = -1
) -> pd.DataFrame:
    """Register many pairs, several at once, and copy their transforms to ``folder/<pair_id>/``.

    pairs : columns pair_id, fixed, moving (paths of NIfTI images)
    folder : receives this run's transforms and ``settings.json``, in place of an earlier run's
    work : finished pairs are kept here; those with the same images and settings are not repeated
    workers : pairs at once times threads per pair is at most this number of cores; -1 means all

    Returns a frame pair_id, method, device, seconds, error in the order of ``pairs``; a pair that failed has seconds
    NaN and its message under error, and the others are kept. Raises RuntimeError when every pair failed.
    """
    work = Path(work)
    work.mkdir(parents=True, exist_ok=True)
    jobs = {
        row.pair_id: (row.fixed, row.moving, work, _key(row.fixed, row.moving, settings)) for row in pairs.itertuples()
    }
    if not jobs:
        raise ValueError("there are no pairs to register")
    errors = _run(
        {pair_id: job for pair_id, job in jobs.items() if not is_complete(work / job[3], job[3])}, settings, workers
    )
    if len(errors) == len(jobs):
        raise RuntimeError(f"ANTs failed on every pair; the first said: {next(iter(errors.values()))}")

    def gather(made: Path) -> None:
        for pair_id in set(jobs) - set(errors):
            shutil.copytree(work / jobs[pair_id][-1], made / pair_id, ignore=shutil.ignore_patterns("run.json", MARK))
        command = {"command": next(iter(reports.values()))["command"]}
        (made / "settings.json").write_text(json.dumps(settings | command, indent=2) + "\n")

    finished = {pair_id: work / key / "run.json" for pair_id, (*_, key) in jobs.items() if pair_id not in errors}
    reports = {pair_id: json.loads(path.read_text()) for pair_id, path in finished.items()}
    keep(Path(folder), None, gather)
    device = f"cpu, {settings['threads']} thread(s)"
    rows = [
        {"pair_id": pair_id, "method": "ants", "device": device, "error": errors.get(pair_id, "")}
        | {"seconds": reports[pair_id]["seconds"] if pair_id in reports else float("nan")}
        for pair_id in jobs
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def ants_displacement(folder: str | Path, image, affine_only: bool = False):
    """The transform in one pair's ``folder`` as total displacement (1, 3, D, H, W) in voxels, channels z, y, x.

    image : SimpleITK image that gives the grid shared by fixed and moving
    affine_only : leave the warp out, for the rigid and affine part alone
    """
    from mine_reg.images.geometry import displacement_voxels  # here: ANTs' processes do without torch
    from mine_reg.images.transforms import read_ants_transform

    folder = Path(folder)
    transform = read_ants_transform(None if affine_only else folder / WARP, folder / AFFINE)
    return displacement_voxels(transform, image, image)


def _run(jobs: dict, settings: dict, workers: int) -> dict[str, str]:
    """Work through the jobs; returns the messages of those that failed."""
    if not jobs:
        return {}
    at_once = min(len(jobs), max(1, joblib.effective_n_jobs(workers) // settings["threads"]))
    progress = tqdm(total=len(jobs), desc="ANTs", unit="pair")
    with progress as bar:
        outcomes = _pool(jobs, settings, at_once, bar)
        # a killed process (often: out of memory) takes all unfinished pairs with it; each gets a second chance, alone
        for pair_id in [name for name, error in outcomes.items() if isinstance(error, BrokenProcessPool)]:
            outcomes |= _pool({pair_id: jobs[pair_id]}, settings, 1, bar)
    errors = {}
    for pair_id, error in outcomes.items():
        if isinstance(error, BrokenProcessPool):
            errors[pair_id] = "the process was killed, perhaps for lack of memory"
        elif error is not None:
            errors[pair_id] = " ".join(f"{type(error).__name__}: {error}".split())
    return errors


def _pool(jobs: dict, settings: dict, at_once: int, bar: tqdm) -> dict[str, BaseException | None]:
    environment = dict.fromkeys(("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS"), str(settings["threads"]))
    pool = ProcessPoolExecutor(max_workers=at_once, env=environment)  # fresh processes: ITK sees the environment
    try:
        futures = {pool.submit(_one, *job, settings): pair_id for pair_id, job in jobs.items()}
        outcomes = {}
        for future in as_completed(futures):
            outcomes[futures[future]] = future.exception()
            bar.update(not isinstance(future.exception(), BrokenProcessPool))
        return outcomes
    finally:
        pool.shutdown(kill_workers=True)


def _one(fixed: str, moving: str, work: Path, key: str, settings: dict) -> None:
    def make(folder: Path) -> None:
        report = run_ants(fixed, moving, folder, settings)
        (folder / "run.json").write_text(json.dumps(report))

    keep(work / key, key, make)


def _key(fixed: str | Path, moving: str | Path, settings: dict) -> str:
    return digest(settings, *code("evaluation/baselines.py"), Path(fixed), Path(moving))


@contextmanager
def _caught_output():
    """Catch what Python prints, keep ITK's output off the screen, put ITK's reason into the RuntimeError that hides
    it."""
    keep, said = (os.dup(1), os.dup(2)), io.StringIO()
    with tempfile.TemporaryFile("w+b") as log:
        os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
        try:
            with redirect_stdout(said):
                yield said
        except RuntimeError as error:
            log.seek(0)
            reasons = re.findall(r"Description: (?:ITK ERROR: )?(.*)", log.read().decode(errors="replace"))
            raise RuntimeError(reasons[-1] if reasons else str(error)) from error
        finally:
            os.dup2(keep[0], 1), os.dup2(keep[1], 2)
            os.close(keep[0]), os.close(keep[1])


def run_convexadam(
    fixed: "Tensor", moving: "Tensor", affine: "Tensor", grid_spacing: int = 6, search_width: int = 4
) -> tuple["Tensor", float]:
    """Register ``moving`` to ``fixed``, both (1, 1, D, H, W), from the total displacement ``affine`` (1, 3, D, H, W)
    on.

    grid_spacing : voxels between the points of the coarse grid
    search_width : largest displacement searched, in steps of the coarse grid
    affine : in voxels, channels z, y, x, as everywhere

    Returns the total displacement (1, 3, D, H, W) of x -> A(x + u(x)) and the seconds that convexAdam took.
    """
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt  # slow to import, and only wanted here

    from mine_reg.spatial import compose_dvf, warp

    moved = warp(moving, affine)
    start = time.perf_counter()
    field = convex_adam_pt(
        fixed[0, 0],
        moved[0, 0],
        grid_sp=grid_spacing,
        disp_hw=search_width,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    seconds = time.perf_counter() - start
    u = torch.from_numpy(field).float().movedim(-1, 0)[None]
    return compose_dvf(affine, u, fixed.shape[2:]), seconds
