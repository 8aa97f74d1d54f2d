"""One-shot and refined registration against its peers on pairs of known truth, easy and hard.

python benchmarks/peers.py scratch/hard_pairs --groups plain one_lung effusion --out results/benchmarks

The folder is what `hard_pairs.py` wrote from CTs that the shipped weights have not seen. All images are brought to
128^3 voxels of 2.5 mm around the fixed lungs, as their headers place them, and every transform is measured on that grid
by the same code. One pair at a time, --threads for each method; ANTs and every other peer run in a process of their
own. What is measured is kept in scratch/peers under a fingerprint of data and code, so that an interrupted run goes on
and a changed program starts anew.

ANTs takes part by ANTsPy's default (SyNRA), by the longer schedule and with lung masks (sources in
mine_reg/evaluation/baselines.py), the other peers as peer_methods.py says; one that is not installed is a row that says
what to do. `register` runs without masks and with them, one shot and refined. Its seconds are from files to the moved
image, with the search for the lungs; those of the peers are of the registration alone. convexAdam starts from ANTs'
affine part, whose time (SyNRA without iterations of SyN) is in its own.

elastix takes about ten minutes a pair, FireANTs minutes, all the others together about two minutes.
"""

import argparse
import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib.externals.loky import ProcessPoolExecutor
from peer_methods import PEERS, Case, absent
from tqdm import tqdm

from mine_reg.evaluation.baselines import ANTSPY_METHODS, ants_displacement, ants_settings, run_ants_on_pairs
from mine_reg.evaluation.metrics import METRICS, evaluate_pair
from mine_reg.images.geometry import displacement_voxels
from mine_reg.pair_tool.register import register
from mine_reg.pairs.manifest import read_manifest
from mine_reg.pairs.preprocess import preprocess
from mine_reg.pairs.preprocessed import load_pair, read_pairs
from mine_reg.settings import root, settings
from mine_reg.storage.results import code, digest
from mine_reg.storage.tables import read_pair_table
from mine_reg.storage.writing import write_csv
from mine_reg.training.weights import weights_path

FILES = ("fixed", "moving", "fixed_mask", "moving_mask")
SCHEDULES = {False: [40, 20, 0], True: [100, 70, 50, 20]}  # of SyN, by whether it is the longer one
# as this process has loaded them: files may change while it runs
_HERE = [Path(__file__), Path(__file__).with_name("peer_methods.py")]
THEIR_PROGRAM, OUR_PROGRAM = digest(*_HERE, *code("evaluation", "images")), digest(*_HERE, *code("."))
ON_TOP_OF_AFFINE = ("ants_affine", "convexadam", "convexadam_masked")


def make_pairs(options: argparse.Namespace, groups: pd.Series, work: Path) -> list[Path]:
    """Folders of preprocessed pairs, one for each group; ``groups`` by pair_id."""
    manifest, folders = read_manifest(options.folder / "manifest.csv"), []
    for group in options.groups or groups.unique():
        folders.append(work / group / "pairs")
        if not (folders[-1] / "pairs.csv").is_file():
            own = manifest[manifest["pair_id"].map(groups) == group].assign(split="test")
            window = settings("preprocess").window_hu
            preprocess(own, folders[-1], [options.size] * 3, options.spacing, window, "scanner", {}, seed=0)
    return folders


def measure(folder: Path, options: argparse.Namespace) -> pd.DataFrame:
    """Every metric, the seconds and what went wrong, of every method for each pair of a folder."""
    work, table = folder.parent, read_pairs(folder, "test")
    ants = {"ants_affine": ([0], False)}  # with what the other methods start from
    ants |= {name: (SCHEDULES[longer], masked) for name, (longer, masked) in ANTSPY_METHODS.items()}
    timed = {
        name: run_ants_on_pairs(
            table,
            work / name,
            work / "ants-work",
            ants_settings("SyNRA", iterations, 1, options.threads, masked),
            options.threads,
            name,
        ).set_index("pair_id")
        for name, (iterations, masked) in ants.items()
        if name == "ants_affine" or name in options.methods
    }
    ours = [
        (f"{Path(name).stem}{' refined' if steps else ''}{', masks' if masked else ''}", name, steps, masked)
        for name, masked, steps in itertools.product(options.weights, (False, True), (0, options.refine))
    ]
    weights = {label: [weights_path(name)] for label, name, *_ in ours}
    for name in options.weights:
        register(table.iloc[0].fixed, table.iloc[0].moving, name)  # a warm-up
    rows = []
    for row in tqdm(list(table.itertuples()), desc=work.name, unit="pair"):
        pair, files = load_pair(folder, row), {name: getattr(row, name) for name in FILES}
        theirs = {"none": partial(_unmoved, pair)}
        for name, found in timed.items():
            theirs[name] = partial(_ants, pair, work / name, found.loc[row.pair_id])
        for name in PEERS:
            if name in options.methods and not absent(name, options.unigradicon_weights):
                theirs[name] = partial(_peer, name, folder, pair, files, work / "ants_affine", options)
        own = {label: partial(_ours, pair, files, *how) for label, *how in ours}
        for answers, program in ((theirs, THEIR_PROGRAM), (own, OUR_PROGRAM)):
            for label, answer in answers.items():
                used = [*map(Path, files.values()), *weights.get(label, ())]
                key = digest(label, options.threads, options.refine, *used, program)
                rows.append(kept(work / "measured" / f"{row.pair_id}-{key[:24]}.csv", label, pair, answer))
    found = pd.concat(rows, ignore_index=True).assign(kind=work.name)
    affine = found["pair_id"].map(timed["ants_affine"]["seconds"])
    on_top = found["method"].isin(ON_TOP_OF_AFFINE) & (found["method"] != "ants_affine")
    found.loc[on_top, "seconds"] += affine[on_top]
    return found


def kept(done: Path, label: str, pair, answer) -> pd.DataFrame:
    """The row of one method, measured if it is not yet; one that failed has a note and is tried again next time."""
    if done.is_file():
        return read_pair_table(done)
    row = {"pair_id": pair.pair_id, "method": label}
    try:
        displacement, seconds = answer()
        row |= evaluate_pair(pair, displacement) | {"seconds": seconds, "note": ""}
    except (RuntimeError, ValueError, OSError) as error:
        note = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return pd.DataFrame([row | dict.fromkeys((*METRICS, "seconds"), np.nan) | {"note": note}])
    done.parent.mkdir(exist_ok=True)
    write_csv(pd.DataFrame([row]), done)
    return read_pair_table(done)


def _unmoved(pair) -> tuple[torch.Tensor, float]:
    return torch.zeros(1, 3, *pair.fixed.shape[1:]), np.nan


def _ants(pair, folder: Path, found) -> tuple[torch.Tensor, float]:
    if found["error"]:
        raise RuntimeError(found["error"])
    affine_only = folder.name == "ants_affine"
    return ants_displacement(folder / pair.pair_id, pair.image, affine_only), found["seconds"]


def _peer(name: str, folder: Path, pair, files: dict, affine: Path, options) -> tuple[torch.Tensor, float]:
    """In a process of its own: ITK's Python packages and Greedy do not bear each other, and threads are set once."""
    start = ants_displacement(affine / pair.pair_id, pair.image, affine_only=True)
    case = Case(None, files, start, options.threads, options.unigradicon_weights)
    names = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    pool = ProcessPoolExecutor(max_workers=1, env=dict.fromkeys(names, str(options.threads)))
    try:
        return pool.submit(_run_peer, name, str(folder), pair.pair_id, case).result()
    finally:
        pool.shutdown(kill_workers=True)


def _run_peer(name: str, folder: str, pair_id: str, case: Case) -> tuple[torch.Tensor, float]:
    torch.set_num_threads(case.threads)
    case.pair = load_pair(folder, pair_id)
    return PEERS[name][0](case)


def _ours(pair, files: dict, weights: str, steps: int, masked: bool) -> tuple[torch.Tensor, float]:
    masks = {name: files[name] for name in FILES[2:]} if masked else {}
    result = register(files["fixed"], files["moving"], weights, refine=steps, **masks)
    seconds = sum(result.report["seconds"][part] for part in ("read", "register", "warp"))
    return displacement_voxels(result.transform, pair.image, pair.image), seconds


def table(results: pd.DataFrame) -> str:
    """Mean and SD over the pairs of each kind, as Markdown; at the end the peers that could not take part."""
    columns = {
        "dsc": ("DSC", 3),
        "asd_mm": ("ASD/mm", 2),
        "hd95_mm": ("HD95/mm", 1),
        "tre_mm": ("TRE/mm", 2),
        "folding_percent": ("folding/%", 3),
        "sd_log_jacobian": ("SD log J", 3),
        "seconds": ("seconds", 1),
    }
    groups = results.groupby(["kind", "method"], sort=False)
    cells = {
        label: groups[name].agg(
            lambda values, n=digits: f"{values.mean():.{n}f} ± {values.std():.{n}f}" if values.notna().any() else "–"
        )
        for name, (label, digits) in columns.items()
    }
    cells["note"] = groups["note"].agg(_note)
    return pd.DataFrame(cells).reset_index().to_markdown(index=False, disable_numparse=True) + "\n"


def by_group(results: pd.DataFrame) -> str:
    """Mean TRE in mm, one row per method and one column per kind of pairs, and mean seconds, as Markdown."""
    measured = results[results["kind"] != "–"]
    tre = measured.pivot_table(index="method", columns="kind", values="tre_mm", sort=False)
    seconds = measured.groupby("method", sort=False)["seconds"].mean()
    cells = tre.map("{:.2f}".format).assign(seconds=seconds.map("{:.0f}".format).replace("nan", "–"))
    cells.columns = cells.columns.str.replace("_", " ")
    return cells.reset_index().to_markdown(index=False, disable_numparse=True) + "\n"


def _note(notes: pd.Series) -> str:
    said = notes.fillna("")[notes.fillna("") != ""]
    if said.empty or len(notes) == 1:
        return "".join(said).replace("|", "/")
    return f"{len(said)} of {len(notes)} pairs failed: {said.iloc[0]}".replace("|", "/")


def main() -> None:
    choices = (*ANTSPY_METHODS, *PEERS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of hard_pairs.py")
    parser.add_argument("--groups", nargs="+", metavar="GROUP", help="of its pairs; all by default")
    parser.add_argument("--weights", nargs="*", default=["miregnet", "midiceregnet"])
    parser.add_argument("--refine", type=int, default=100, help="steps of the refined rows")
    parser.add_argument("--methods", nargs="*", default=choices, choices=choices, metavar="PEER", help="of the peers")
    parser.add_argument("--unigradicon-weights", type=Path, metavar="FILE")
    parser.add_argument("--size", type=int, default=128, help="voxels of all images along each axis")
    parser.add_argument("--spacing", type=float, default=2.5, help="of these voxels, mm")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = [Path(name).stem for name in options.weights]
    if len(set(names)) < len(names):
        parser.error("--weights: two files have one name, by which their rows are told apart; rename one")
    listed = read_pair_table(options.folder / "manifest.csv")
    if unknown := sorted({*(options.groups or ())} - {*listed["group"]}):
        parser.error(f"--groups: {options.folder} has no group {', '.join(unknown)}")
    files = [options.folder / path for name in FILES for path in listed[name]]
    window = settings("preprocess").window_hu
    made_from = [options.size, options.spacing, window, options.folder / "manifest.csv", *files]
    work = root() / "scratch/peers" / digest(*made_from, *code("images", "pairs"))[:16]
    found = [measure(folder, options) for folder in make_pairs(options, listed.set_index("pair_id")["group"], work)]
    lacking = {name: absent(name, options.unigradicon_weights) for name in PEERS if name in options.methods}
    rows = [{"kind": "–", "pair_id": "–", "method": name, "note": said} for name, said in lacking.items() if said]
    results = pd.concat([*found, pd.DataFrame(rows)], ignore_index=True)
    options.out.mkdir(parents=True, exist_ok=True)
    results.to_csv(options.out / "peers.csv", index=False, float_format="%.6g")
    (options.out / "peers.md").write_text(f"{by_group(results)}\n{table(results)}", encoding="utf-8")
    print(by_group(results), table(results), sep="\n")


if __name__ == "__main__":
    main()
