"""The conventional opponent: ANTs, rigid + affine + symmetric normalisation (SyN), run pair by pair through ANTsPy.

ANTs with several threads is not deterministic (Mattes MI sums in the order in which threads finish), so pairs are
registered in processes with a fixed number of ITK threads, one by default, and several pairs run at once. Finished pairs
are kept in a work folder under a fingerprint of images, settings and this code: an interrupted run goes on where it stopped.
"""

import hashlib
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

AFFINE, WARP = "0GenericAffine.mat", "1Warp.nii.gz"  # ANTs' own names; a fixed point goes through WARP, then AFFINE
COLUMNS = ("pair_id", "method", "device", "seconds", "error")


def ants_settings(transform: str, iterations: list[int], seed: int, threads: int) -> dict:
    """Settings of one ANTs run, checked: type of transform, SyN iterations coarse to fine, seed, ITK threads per pair.

    Every level has half the resolution of the next and the last one is full resolution, so (40, 20, 0), ANTsPy's
    default, stops at half of it. Raises ValueError for iterations that are not a list of whole numbers >= 0, or fewer than one thread.
    """
    if not iterations or any(not isinstance(n, int) or n < 0 for n in iterations):
        raise ValueError(f"ants.iterations must list whole numbers >= 0, coarse to fine, not {iterations}")
    if threads < 1:
        raise ValueError(f"ants.threads must be at least 1, got {threads}")
    chosen = {"transform": transform, "iterations": list(iterations), "seed": seed, "threads": threads}
    return {"antspyx": version("antspyx"), **chosen}


def ants_register(fixed_path: str | Path, moving_path: str | Path, folder: str | Path, settings: dict) -> dict:
    """Register one pair of NIfTI images with ANTsPy; leaves ``0GenericAffine.mat`` and ``1Warp.nii.gz`` in ``folder``.

    Call it in a process that has ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS set and has not loaded ANTs: ITK reads it only once.

    Returns ``seconds`` (of the registration call alone) and ``command``, the line ANTsPy hands to antsRegistration.
    Raises RuntimeError when ANTs fails or writes no warp.
    """
    import ants
    import ants.config

    # ants.registration() of antspyx 0.6.3 ignores a keyword `random_seed`; only this reaches antsRegistration
    ants.config.set_ants_deterministic(on=False, seed_value=settings["seed"])
    # ANTs starts at coinciding centres of mass; with air at 0, as for the networks, these are the bodies' and always exist
    fixed, moving = (image - image.min() for image in (ants.image_read(str(fixed_path)), ants.image_read(str(moving_path))))
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


def ants_register_pairs(
    pairs: pd.DataFrame, folder: str | Path, work: str | Path, settings: dict, workers: int = -1
) -> pd.DataFrame:
    """Register many pairs, several at once, and copy their transforms to ``folder/<pair_id>/``.

    pairs : columns pair_id, fixed, moving (paths of NIfTI images)
    folder : replaced at the end by this run's transforms and ``settings.json``
    work : finished pairs are kept here; those with the same images and settings are not repeated
    workers : pairs at once times threads per pair is at most this number of cores; -1 means all

    Returns a frame pair_id, method, device, seconds, error in the order of ``pairs``; a pair that failed has seconds
    NaN and its message under error, and the others are kept. Raises RuntimeError when every pair failed.
    """
    work = Path(work)
    work.mkdir(parents=True, exist_ok=True)
    jobs = {
        row.pair_id: (row.fixed, row.moving, work / _fingerprint(row.fixed, row.moving, settings))
        for row in pairs.itertuples()
    }
    if not jobs:
        raise ValueError("there are no pairs to register")
    errors = _run({pair_id: job for pair_id, job in jobs.items() if not job[2].exists()}, work, settings, workers)
    if len(errors) == len(jobs):
        raise RuntimeError(f"ANTs failed on every pair; the first said: {next(iter(errors.values()))}")

    partial = Path(f"{folder}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    rows = []
    for pair_id, (_, _, done) in jobs.items():
        row = {"pair_id": pair_id, "method": "ants", "device": f"cpu, {settings['threads']} thread(s)"}
        if pair_id in errors:
            rows.append(row | {"seconds": float("nan"), "error": errors[pair_id]})
            continue
        shutil.copytree(done, partial / pair_id, ignore=shutil.ignore_patterns("done.json"))
        report = json.loads((done / "done.json").read_text())
        rows.append(row | {"seconds": report["seconds"], "error": ""})
    (partial / "settings.json").write_text(json.dumps(settings | {"command": report["command"]}, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return pd.DataFrame(rows, columns=COLUMNS)


def ants_displacement(folder: str | Path, image, affine_only: bool = False):
    """The transform in one pair's ``folder`` as total displacement (1, 3, D, H, W) in voxels, channels z, y, x.

    image : SimpleITK image that gives the grid shared by fixed and moving
    affine_only : leave the warp out, for the rigid and affine part alone
    """
    from mine_reg.itk import displacement_voxels, read_ants_transform  # here: ANTs' processes do without torch

    folder = Path(folder)
    transform = read_ants_transform(None if affine_only else folder / WARP, folder / AFFINE)
    return displacement_voxels(transform, image, image)


def _run(jobs: dict, work: Path, settings: dict, workers: int) -> dict[str, str]:
    """Work through the jobs; returns the messages of those that failed."""
    if not jobs:
        return {}
    at_once = min(len(jobs), max(1, joblib.effective_n_jobs(workers) // settings["threads"]))
    progress = tqdm(total=len(jobs), desc="ANTs", unit="pair")
    with tempfile.TemporaryDirectory(prefix="running-", dir=work) as scratch, progress as bar:
        outcomes = _pool(jobs, scratch, settings, at_once, bar)
        # a killed process (often: out of memory) takes all unfinished pairs with it; each gets a second chance, alone
        for pair_id in [name for name, error in outcomes.items() if isinstance(error, BrokenProcessPool)]:
            finished = jobs[pair_id][2].exists()  # it may have been done, but not yet reported
            outcomes |= {pair_id: None} if finished else _pool({pair_id: jobs[pair_id]}, scratch, settings, 1, bar)
    errors = {}
    for pair_id, error in outcomes.items():
        if isinstance(error, BrokenProcessPool):
            errors[pair_id] = "the process was killed, perhaps for lack of memory"
        elif error is not None:
            errors[pair_id] = " ".join(f"{type(error).__name__}: {error}".split())
    return errors


def _pool(jobs: dict, scratch: str, settings: dict, at_once: int, bar: tqdm) -> dict[str, BaseException | None]:
    environment = dict.fromkeys(("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS"), str(settings["threads"]))
    pool = ProcessPoolExecutor(max_workers=at_once, env=environment)  # fresh processes: ITK sees the environment
    try:
        futures = {pool.submit(_one, *job, scratch, settings): pair_id for pair_id, job in jobs.items()}
        outcomes = {}
        for future in as_completed(futures):
            outcomes[futures[future]] = future.exception()
            bar.update(not isinstance(future.exception(), BrokenProcessPool))
        return outcomes
    finally:
        pool.shutdown(kill_workers=True)


def _one(fixed: str, moving: str, done: Path, scratch: str, settings: dict) -> None:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    report = ants_register(fixed, moving, folder, settings)
    (folder / "done.json").write_text(json.dumps(report))
    folder.chmod(0o755)
    folder.rename(done)  # complete or absent


def _fingerprint(fixed: str | Path, moving: str | Path, settings: dict) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in (__file__, fixed, moving):  # this code, too, decides what ANTs is asked
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()[:24]


@contextmanager
def _caught_output():
    """Catch what Python prints, keep ITK's output off the screen, put ITK's reason into the RuntimeError that hides it."""
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
