"""Is the phantom as hard on the paper's grid (320^3 at 1 mm) as on the laptop's (64^3 at 5 mm)? The same pairs on both,
and what they take.

python benchmarks/paper_grid.py --pairs 8 --workers 2 --out results/calibration_paper_grid.csv
"""

import argparse
import time

import pandas as pd
import torch
from joblib import Parallel, delayed
from tqdm import tqdm

from mine_reg.evaluation.metrics import mask_metrics
from mine_reg.evaluation.paper import PRINTED_METRICS, compare_with_paper
from mine_reg.settings import settings
from mine_reg.synthetic.phantom import make_pair


def measure(number: int, size: int, seed: int) -> list[dict]:
    """Rows none and inter_observer of pair ``number`` of the study with ``seed``, with the seconds that making it
    took."""
    torch.set_num_threads(1)
    spacing = 320 / size
    start = time.perf_counter()
    pair = make_pair((size,) * 3, spacing, 1000 * seed + number)
    seconds = time.perf_counter() - start
    rows = []
    for method, mask in (("none", pair.moving_mask), ("inter_observer", pair.fixed_mask_observer2)):
        metrics = mask_metrics(pair.fixed_mask, mask, (spacing,) * 3)
        rows.append(
            {"pair": number, "size": size, "method": method, "seconds": seconds}
            | {name: metrics[name] for name in PRINTED_METRICS}
        )
    return rows


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--pairs", type=int, default=8)
parser.add_argument("--size", type=int, default=320, help="voxels along an axis of the fine grid")
parser.add_argument("--workers", type=int, default=2, help="pairs at once, one thread each")
parser.add_argument("--out", help="CSV to write")
arguments = parser.parse_args()
seed = settings("data").seed
jobs = [delayed(measure)(number, size, seed) for size in (64, arguments.size) for number in range(arguments.pairs)]
found = list(tqdm(Parallel(n_jobs=arguments.workers, return_as="generator")(jobs), total=len(jobs), unit="pair"))
measured = pd.DataFrame([row for rows in found for row in rows])
tables = {
    size: compare_with_paper(rows).assign(size=size, seconds_per_pair=rows["seconds"].median())
    for size, rows in measured.groupby("size")
}
table = pd.concat(tables.values())
print(table.drop(columns=["paper_mean", "paper_sd"]).round(3).to_string(index=False))
if arguments.out:
    table.to_csv(arguments.out, index=False, float_format="%.4g")
