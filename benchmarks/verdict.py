"""Accuracy on pairs of known truth that are hard, and how well the verdict tells right results from wrong ones.

python benchmarks/verdict.py scratch/hard_pairs --refine 100 --out results/benchmarks

The folder is what `hard_pairs.py` wrote. Writes hard_pairs.csv, a row per pair with and without refinement, and
verdict.csv, how often results with errors in each range are trusted; prints both by group.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from mine_reg.pair_tool.register import register
from mine_reg.storage.writing import write_csv

MEASURED = ("tre_mm_before", "tre_mm_after", "dsc_after", "folding_percent", "sd_log_jacobian")
JUDGED_BY = ("agreement", "overlap", "inconsistency_mm", "inconsistency95_mm", "region_dsc")
RANGES = {"below 2 mm": (0, 2), "2 to 5 mm": (2, 5), "above 5 mm": (5, float("inf"))}


def measure(folder: Path, row, refine: int, with_masks: bool) -> dict:
    """One pair's row: what was measured, the verdict and what it rests on. Masks are for the report alone unless they
    are given to the registration."""
    files = {name: folder / getattr(row, name) for name in ("fixed_points", "moving_points")}
    if with_masks:
        files |= {name: folder / getattr(row, name) for name in ("fixed_mask", "moving_mask")}
    report = register(folder / row.fixed, folder / row.moving, refine=refine, **files).report
    said = {name: report.get(name) for name in ("verdict", *MEASURED, *JUDGED_BY, "start", "start_by")}
    seconds = report["seconds"]["total"]
    return {"pair_id": row.pair_id, "group": row.group, "refine": refine, "seconds": seconds} | said


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """For each range of TRE the number of results, and how many percent of them are trusted, doubtful and failed."""
    rows = []
    for name, (low, high) in RANGES.items():
        inside = table[(table["tre_mm_after"] >= low) & (table["tre_mm_after"] < high)]
        shares = inside["verdict"].value_counts(normalize=True).reindex(["trusted", "doubtful", "failed"]).fillna(0)
        rows.append({"tre": name, "results": len(inside), **(100 * shares).round(1)})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--refine", type=int, nargs="+", default=[0, 100], help="numbers of steps, each a run")
    parser.add_argument("--masks", action="store_true", help="give the registration the masks")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    pairs, rows = pd.read_csv(arguments.folder / "manifest.csv"), []
    calls = [(row, steps) for steps in arguments.refine for row in pairs.itertuples()]
    for row, steps in tqdm(calls, unit="pair"):
        rows.append(measure(arguments.folder, row, steps, arguments.masks))
        write_csv(pd.DataFrame(rows), arguments.out / "hard_pairs.csv", float_format="%.4g")
    table = pd.DataFrame(rows)
    write_csv(rates(table), arguments.out / "verdict.csv")
    numbers = ["tre_mm_before", "tre_mm_after", "folding_percent", "sd_log_jacobian", "seconds"]
    print(f"{torch.get_num_threads()} threads, masks {'given' if arguments.masks else 'not given'}")
    print(table.groupby(["refine", "group"], sort=False)[numbers].mean().round(3).to_string())
    print(rates(table).to_string(index=False))


if __name__ == "__main__":
    main()
