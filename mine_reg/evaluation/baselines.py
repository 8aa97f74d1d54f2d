"""The conventional opponent, pair by pair: ANTs by default, with a longer schedule, with lung masks, and with both.

Rigid + affine + symmetric normalisation (SyN) through ANTsPy. With several threads it is not deterministic
(Mattes MI sums in the order in which threads finish), so pairs are registered in processes with a fixed number of ITK
threads, one by default, and several pairs run at once. Finished pairs are kept in a work folder under a fingerprint of
images, settings and this code: an interrupted run goes on where it stopped.

ANTSPY_METHODS lists what is compared. `ants` is ANTsPy's default, which is not ANTs at its best: it stops at half of
the resolution and looks at the whole trunk. `ants_long` has the schedule 100x70x50x20 of the script that ANTs' authors
ship for general use (antsRegistrationSyN.sh), down to full resolution, with Mattes MI as the default; `ants_masked` has
the default schedule and lung masks for SyN's metric, fixed and moving, as ANTsPy's ``mask`` and ``moving_mask`` mean
them (rigid and affine stay unmasked, and so the same in all four); `ants_long_masked` has both.
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

import joblib
import pandas as pd
from joblib.externals.loky import ProcessPoolExecutor, as_completed
from joblib.externals.loky.process_executor import BrokenProcessPool
from tqdm import tqdm

from mine_reg.storage.results import MARK, code, digest, is_complete, keep

AFFINE, WARP = "0GenericAffine.mat", "1Warp.nii.gz"  # ANTs' own names; a fixed point goes through WARP, then AFFINE
MADE_FROM = "contents"  # column of preprocessed.read_pairs, which ANTs' processes do without
COLUMNS = ("pair_id", "method", "device", "seconds", "error")
# by name: whether the longer schedule, and whether lung masks
ANTSPY_METHODS = {
    "ants": (False, False),
    "ants_long": (True, False),
    "ants_masked": (False, True),
    "ants_long_masked": (True, True),
}


def ants_settings(transform: str, iterations: list[int], seed: int, threads: int, masked: bool = False) -> dict:
    """Settings of one ANTs run, checked: type of transform, SyN iterations coarse to fine, seed, ITK threads per pair,
    and whether SyN's metric gets the lung masks.

    Every level has half the resolution of the next and the last one is full resolution, so (40, 20, 0), ANTsPy's
    default, stops at half of it. Raises ValueError for iterations that are not a list of whole numbers >= 0, or fewer
    than one thread.
    """
    if not iterations or any(not isinstance(n, int) or n < 0 for n in iterations):
        raise ValueError(f"ants.iterations must list whole numbers >= 0, coarse to fine, not {iterations}")
    if threads < 1:
        raise ValueError(f"ants.threads must be at least 1, got {threads}")
    chosen = {"transform": transform, "iterations": list(iterations), "seed": seed, "threads": threads}
    if masked:
        chosen["masked"] = True
    return {"antspyx": version("antspyx"), **chosen}


def run_ants(images: tuple[str | Path, ...], folder: str | Path, settings: dict) -> dict:
    """Register one pair with ANTsPy; leaves ``0GenericAffine.mat`` and ``1Warp.nii.gz`` in ``folder``.

    images : NIfTI files: fixed, moving, and with ``settings["masked"]`` the lung masks of both

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
    fixed, moving, *masks = (ants.image_read(str(path)) for path in images)
    fixed, moving = (image - image.min() for image in (fixed, moving))
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
            **dict(zip(("mask", "moving_mask"), masks, strict=False)),
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
    addresses = dict(zip(("fixed", "moving"), re.search(r"-r \[(0x\w+),(0x\w+)", command).groups(), strict=True))
    if masks:
        found = re.findall(r"-x \[(0x\w+),(0x\w+)", command)[-1]
        addresses |= dict(zip(("fixed_mask", "moving_mask"), found, strict=True))
    for name, address in addresses.items():
        command = command.replace(address, name)
    return {"seconds": seconds, "command": re.sub(r"--output \S+", "--output ...", command)}


def run_ants_on_pairs(
    pairs: pd.DataFrame, folder: str | Path, work: str | Path, settings: dict, workers: int = -1, method: str = "ants"
) -> pd.DataFrame:
    """Register many pairs, several at once, and copy their transforms to ``folder/<pair_id>/``.

    pairs : columns pair_id, fixed, moving (paths of NIfTI images), with ``settings["masked"]`` fixed_mask, moving_mask
    folder : receives this run's transforms and ``settings.json``, in place of an earlier run's
    work : finished pairs are kept here; those with the same images and settings are not repeated
    workers : pairs at once times threads per pair is at most this number of cores; -1 means all
    method : its name in the returned frame and in ``results/metrics.csv``

    Returns a frame pair_id, method, device, seconds, error in the order of ``pairs``; a pair that failed has seconds
    NaN and its message under error, and the others are kept. Raises ValueError for no pairs, and RuntimeError when
    every pair failed.
    """
    work = Path(work)
    work.mkdir(parents=True, exist_ok=True)
    used = ["fixed", "moving", *(("fixed_mask", "moving_mask") if settings.get("masked") else ())]
    jobs = {}
    for pair_id, *images in pairs[["pair_id", *used]].itertuples(index=False):
        jobs[pair_id] = (tuple(images), work, _key(images, settings))
    if not jobs:
        raise ValueError("there are no pairs to register")
    errors = _run(
        {pair_id: job for pair_id, job in jobs.items() if not is_complete(work / job[2], job[2])}, settings, workers
    )
    if len(errors) == len(jobs):
        raise RuntimeError(f"ANTs failed on every pair; the first said: {next(iter(errors.values()))}")

    def gather(made: Path) -> None:
        for pair_id in set(jobs) - set(errors):
            shutil.copytree(work / jobs[pair_id][-1], made / pair_id, ignore=shutil.ignore_patterns("run.json", MARK))
        about = {"command": next(iter(reports.values()))["command"]}
        if MADE_FROM in pairs:
            about[MADE_FROM] = dict(pairs[["pair_id", MADE_FROM]].itertuples(index=False))
        (made / "settings.json").write_text(json.dumps(settings | about, indent=2) + "\n")

    finished = {pair_id: work / key / "run.json" for pair_id, (*_, key) in jobs.items() if pair_id not in errors}
    reports = {pair_id: json.loads(path.read_text()) for pair_id, path in finished.items()}
    keep(Path(folder), None, gather)
    device = f"cpu, {settings['threads']} thread(s)"
    rows = [
        {"pair_id": pair_id, "method": method, "device": device, "error": errors.get(pair_id, "")}
        | {"seconds": reports[pair_id]["seconds"] if pair_id in reports else float("nan")}
        for pair_id in jobs
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def refuse_other_pairs(folder: str | Path, pairs: pd.DataFrame) -> None:
    """Raise ValueError when the transforms in ``folder`` are of other images than ``pairs``, a table of ``read_pairs``,
    though of the same ids, or do not say of which."""
    path = Path(folder) / "settings.json"
    made_from = json.loads(path.read_text(encoding="utf-8")).get(MADE_FROM, {}) if path.is_file() else {}
    for pair_id, contents in pairs[["pair_id", MADE_FROM]].itertuples(index=False):
        if (Path(folder) / pair_id).is_dir() and made_from.get(pair_id) != contents:
            raise ValueError(f"{folder}/{pair_id} was not made from these images; run notebook 06 on them")


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


def _one(images: tuple[str, ...], work: Path, key: str, settings: dict) -> None:
    def make(folder: Path) -> None:
        report = run_ants(images, folder, settings)
        (folder / "run.json").write_text(json.dumps(report))

    keep(work / key, key, make)


def _key(images: list[str | Path], settings: dict) -> str:
    return digest(settings, *code("evaluation/baselines.py"), *map(Path, images))


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
