"""How many pairs an hour `mine-reg batch` registers, against one `mine-reg register` after another.

python benchmarks/batch.py --out results/benchmarks

Phantom pairs; each way is measured on all of them, from starting Python to the last file. Writes ``batch.csv``:
seconds, pairs per hour, and how many times that of single commands.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from mine_reg.storage.writing import write_csv
from mine_reg.synthetic.pair_sets import make_phantom_pairs

COMMAND = [sys.executable, "-m", "mine_reg.cli"]


def commands(folder: Path, table: pd.DataFrame, workers: list[int]) -> dict[str, list[list[str]]]:
    """The commands of each way, one after another; the pairs of ``table`` lie in ``folder``."""
    single = [
        [*COMMAND, "register", *(str(folder / row[name]) for name in ("fixed", "moving"))]
        + ["--out", str(folder / f"single/{row['pair_id']}")]
        for row in table.to_dict("records")
    ]
    batch = [*COMMAND, "batch", str(folder / "manifest.csv")]
    return {"one command per pair": single} | {
        f"batch, {n} at once": [[*batch, "--workers", str(n), "--out", str(folder / f"batch{n}")]] for n in workers
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--size", type=int, nargs=3, default=[128, 128, 128], help="voxels of the images, x, y, z")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="of the batch")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        table = make_phantom_pairs(name, options.pairs, options.size[::-1], 320 / max(options.size), seed=1)
        for way, steps in tqdm(commands(Path(name), table, options.workers).items(), unit="way"):
            start = time.perf_counter()
            for command in steps:
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            taken = time.perf_counter() - start
            rows.append(
                {"way": way, "pairs": options.pairs, "seconds": taken, "per_hour": 3600 * options.pairs / taken}
            )
    found = pd.DataFrame(rows)
    found["ratio"] = found["per_hour"] / found["per_hour"].iloc[0]
    write_csv(found, options.out / "batch.csv", float_format="%.3g")
    print(found.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
