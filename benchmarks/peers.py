"""One-shot and refined registration against ANTs and convexAdam on CTs that the shipped weights have not seen.

python benchmarks/peers.py scans.csv --left-out lidc1011 --out results/benchmarks

Simulated pairs of the scans left out, whose true correspondence is known, and pairs of a left-out scan with those of
other people, for which lung masks are all there is; there the lungs' centres coincide at the start. All images have
128^3 voxels of 2.5 mm, and every transform is measured on that grid. One pair at a time, all cores for each method;
what is measured is kept in scratch/peers, so that an interrupted run goes on. Seconds of
``register`` are from files to the moved image, with the search for the lungs; those of ANTs and convexAdam are of the
registration alone. convexAdam starts from ANTs' affine part, whose time (SyNRA without iterations of SyN) is in its
own.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from tqdm import tqdm

from mine_reg.evaluation.baselines import ants_displacement, ants_settings, run_ants_on_pairs
from mine_reg.evaluation.convexadam import run_convexadam
from mine_reg.evaluation.metrics import evaluate_pair
from mine_reg.experiments.train_shipped_weights import read_unsplit_manifest
from mine_reg.images.geometry import displacement_voxels, voxels_to_points
from mine_reg.images.reading import read_image
from mine_reg.pair_tool.register import register
from mine_reg.pairs.manifest import read_scans
from mine_reg.pairs.preprocess import preprocess
from mine_reg.pairs.preprocessed import Pair, load_pair, read_pairs
from mine_reg.settings import root, settings
from mine_reg.storage.tables import read_pair_table
from mine_reg.synthetic.pair_sets import make_simulated_pairs

SIZE, SPACING_MM = [128, 128, 128], 2.5


def make_pairs(scans: pd.DataFrame, left_out: list[str], simulated: int, work: Path, seed: int) -> list[Path]:
    """Preprocessed folders of the simulated pairs and of the pairs of different people."""
    held, others = (scans[scans["scan_id"].isin(left_out) == out] for out in (True, False))
    folders = [work / name / "pairs" for name in ("simulated", "subjects")]
    for pairs in folders:
        raw, name = pairs.parent / "raw", pairs.parent.name
        if (pairs / "pairs.csv").is_file():
            continue
        if name == "simulated":
            make_simulated_pairs(raw, held.assign(split="test"), {"test": simulated}, SIZE, SPACING_MM, seed)
        else:
            raw.mkdir(parents=True, exist_ok=True)
            rows = [
                _lungs_together(a, b, raw)
                for h in held.itertuples()
                for o in others.itertuples()
                for a, b in ((h, o), (o, h))
            ]
            pd.DataFrame(rows).assign(split="test").to_csv(raw / "manifest.csv", index=False)
        preprocess(
            read_unsplit_manifest(raw / "manifest.csv").assign(split="test"),
            pairs,
            SIZE,
            SPACING_MM,
            settings("preprocess").window_hu,
            "scanner",
            {},
            seed,
        )
    return folders


def _lungs_together(fixed, moving, folder: Path) -> dict:
    """A row of a manifest whose moving image is shifted so that the centres of the lungs coincide, which no method then
    has to find."""
    images = {
        name: read_image(path)
        for name, path in (("fixed", fixed.mask), ("moving", moving.image), ("moving_mask", moving.mask))
    }
    centres = [
        voxels_to_points(np.argwhere(sitk.GetArrayViewFromImage(images[name])).mean(0), images[name]).numpy()[0]
        for name in ("fixed", "moving_mask")
    ]
    row = {"pair_id": f"{fixed.scan_id}-{moving.scan_id}", "fixed": fixed.image, "fixed_mask": fixed.mask}
    for name in ("moving", "moving_mask"):
        images[name].SetOrigin((images[name].GetOrigin() + centres[0] - centres[1]).tolist())
        row[name] = str(folder / f"{row['pair_id']}_{name}.nii.gz")
        sitk.WriteImage(images[name], row[name])
    return row


def measure(folder: Path, work: Path, weights: list[str], threads: int) -> pd.DataFrame:
    """Every metric and the seconds of every method for each pair of a folder."""
    table = read_pairs(folder, "test")
    seconds, affine_seconds = (
        run_ants_on_pairs(
            table, work / name, work / f"{name}-work", ants_settings("SyNRA", iterations, 1, threads), threads
        ).set_index("pair_id")["seconds"]
        for name, iterations in (("ants", [40, 20, 0]), ("ants-affine", [0]))
    )
    for name in weights:
        register(table.iloc[0].fixed, table.iloc[0].moving, name)  # a warm-up
    (work / "measured").mkdir(exist_ok=True)
    for row in tqdm(list(table.itertuples()), desc=folder.parent.name, unit="pair"):
        if not (done := work / "measured" / f"{row.pair_id}.csv").is_file():
            _measure(load_pair(folder, row), row, work / "ants" / row.pair_id, seconds[row.pair_id], weights).to_csv(
                done, index=False
            )
    found = pd.concat(
        [read_pair_table(work / "measured" / f"{name}.csv") for name in table["pair_id"]], ignore_index=True
    ).assign(kind=folder.parent.name)
    on_top = found["method"].isin(["ants_affine", "convexadam"])  # the latter starts from the former
    found.loc[on_top, "seconds"] = found["seconds"].fillna(0) + found["pair_id"].map(affine_seconds)
    return found


def _measure(pair: Pair, row, ants: Path, ants_seconds: float, weights: list[str]) -> pd.DataFrame:
    affine = ants_displacement(ants, pair.image, affine_only=True)
    answers = {
        "none": (torch.zeros_like(affine), 0.0),
        "ants_affine": (affine, float("nan")),
        "ants": (ants_displacement(ants, pair.image), ants_seconds),
        "convexadam": run_convexadam(pair.fixed[None], pair.moving[None], affine),
    }
    for name, steps in itertools.product(weights, (0, 100)):
        result = register(row.fixed, row.moving, name, refine=steps)
        label = Path(name).stem + (" refined" if steps else "")
        answers[label] = (
            displacement_voxels(result.transform, pair.image, pair.image),
            sum(result.report["seconds"][part] for part in ("read", "register", "warp")),
        )
    return pd.DataFrame(
        [
            {"pair_id": pair.pair_id, "method": name} | evaluate_pair(pair, d) | {"seconds": s}
            for name, (d, s) in answers.items()
        ]
    )


def table(results: pd.DataFrame) -> str:
    """Mean and SD over the pairs of each kind, as Markdown."""
    columns = {
        "dsc": ("DSC", 3),
        "asd_mm": ("ASD/mm", 2),
        "hd95_mm": ("HD95/mm", 1),
        "tre_mm": ("TRE/mm", 2),
        "folding_percent": ("folding/%", 3),
        "seconds": ("seconds", 1),
    }
    groups = results.groupby(["kind", "method"], sort=False)
    cells = {
        label: groups[name].agg(
            lambda values, n=digits: f"{values.mean():.{n}f} ± {values.std():.{n}f}" if values.notna().any() else "–"
        )
        for name, (label, digits) in columns.items()
    }
    return pd.DataFrame(cells).reset_index().to_markdown(index=False) + "\n"


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("scans", type=Path, help="table of CTs with lung masks, as data_manifests/example_scans.csv")
parser.add_argument("--left-out", nargs="+", required=True, metavar="SCAN_ID")
parser.add_argument("--simulated", type=int, default=6, help="number of simulated pairs")
parser.add_argument("--weights", nargs="+", default=["miregnet", "midiceregnet"])
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seed", type=int, default=11)
parser.add_argument("--out", type=Path, required=True)
arguments = parser.parse_args()
work = root() / "scratch/peers"
folders = make_pairs(read_scans(arguments.scans), arguments.left_out, arguments.simulated, work, arguments.seed)
results = pd.concat(
    [measure(folder, work / folder.parent.name, arguments.weights, arguments.threads) for folder in folders],
    ignore_index=True,
)
arguments.out.mkdir(parents=True, exist_ok=True)
results.to_csv(arguments.out / "peers.csv", index=False, float_format="%.6g")
(arguments.out / "peers.md").write_text(table(results), encoding="utf-8")
print(table(results))
