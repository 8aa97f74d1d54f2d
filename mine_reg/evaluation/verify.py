"""``make verify``: is results/metrics.csv of the working tree the committed one, within tolerances? And with a profile,
``make verify PROFILE=workstation``, results/workstation/metrics.csv?

The same machine and seed give the same numbers. Another processor, number of threads or GPU rounds differently, and
training amplifies that; so what must agree is the set of pairs and methods, and each method's mean of each metric.
"""

import io
import subprocess
import sys

import numpy as np
import pandas as pd

from mine_reg.evaluation.tables import read_results
from mine_reg.settings import root
from mine_reg.storage.tables import read_pair_table

# largest difference of a method's mean over the test pairs: of networks about four times what two trainings differ by
# (SD, results/seeds.csv), so that one without its lead over ANTs (0.005 in DSC, 0.31 mm) is not taken for the same
TOLERANCE = {
    "dsc": 0.001,
    "asd_mm": 0.03,
    "hd_mm": 2.0,
    "hd95_mm": 0.25,
    "tre_mm": 0.25,
    "folding_percent": 0.02,
    "sd_log_jacobian": 0.01,
}
WIDER = {
    "miregnet_affine": {"dsc": 0.005, "asd_mm": 0.2, "tre_mm": 0.3},
    "midiceregnet_affine": {"dsc": 0.005, "asd_mm": 0.2, "tre_mm": 0.3},
    "convexadam": {"folding_percent": 0.05, "sd_log_jacobian": 0.05},
    "convexadam_masked": {"folding_percent": 0.05, "sd_log_jacobian": 0.05},
}


def verdict(committed: pd.DataFrame, here: pd.DataFrame) -> tuple[bool, str]:
    """Whether two metrics tables (columns as in results/metrics.csv) agree, and one sentence that says so."""
    committed, here = (frame.set_index(["pair_id", "method"]).sort_index() for frame in (committed, here))
    if not committed.index.equals(here.index):
        lost, new = len(committed.index.difference(here.index)), len(here.index.difference(committed.index))
        twice = f", {here.index.duplicated().sum()} listed twice" if here.index.has_duplicates else ""
        return False, f"not reproduced: of the committed rows (pair, method) {lost} are missing, {new} are new{twice}"
    committed, here = committed[list(TOLERANCE)], here[list(TOLERANCE)]
    if here.equals(committed):
        return True, f"reproduced: all {len(here)} rows are identical to the committed ones"
    old, new = (frame.replace([np.inf, -np.inf], np.nan).groupby("method").mean() for frame in (committed, here))
    tolerance = pd.DataFrame({method: TOLERANCE | WIDER.get(method, {}) for method in old.index}).T
    # a value that is known, or finite, on one side only, be it of a single pair, is a difference beyond any tolerance
    one_side = (committed.map(_kind) != here.map(_kind)).groupby("method").any()
    ratio = ((new - old).abs() / tolerance).where(~one_side, np.inf).fillna(0.0).stack()
    method, metric = worst = ratio.idxmax()
    if one_side.loc[worst]:
        lost = (committed[metric].map(_kind) != here[metric].map(_kind)).xs(method, level="method").sum()
        return False, f"not reproduced: {metric} of {method} is no number on one side, for {lost} of the pairs"
    where = f"{metric} of {method}: {old.loc[worst]:.4g} committed, {new.loc[worst]:.4g} here"
    where += f", tolerance {tolerance.loc[worst]:g}"
    if ratio[worst] <= 1:
        return True, f"reproduced within tolerances; the largest difference of means is {where}"
    beyond = f"{(ratio > 1).sum()} of {len(ratio)} means differ by more than the tolerance"
    return False, f"not reproduced: {beyond}, most of all {where}"


def _kind(value: float) -> str:
    """What a value is where it is no finite number; empty where it is one."""
    return "" if np.isfinite(value) else str(value)


def main(profile: str | None = None) -> int:
    """Print the verdict in one line; 0 reproduced, 1 not, 2 nothing to compare.

    profile : of a run by `make repro PROFILE=...`; None: the run in results/ itself
    """
    path = f"results/{profile}/metrics.csv" if profile else "results/metrics.csv"
    command = f"make repro PROFILE={profile}" if profile else "make repro"
    try:
        here = read_results(root() / path, tuple(TOLERANCE))
    except FileNotFoundError:
        print(f"nothing to compare: {path} does not exist; run `{command}` first")
        return 2
    except ValueError as error:
        print(f"nothing to compare: {error} with `{command}`")
        return 2
    shown = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=root(), capture_output=True, text=True, check=False)
    if shown.returncode:
        print(f"nothing to compare with: git has no committed {path} ({shown.stderr.strip()})")
        return 2
    reproduced, sentence = verdict(read_pair_table(io.StringIO(shown.stdout)), here)
    print(f"{path}: {sentence}")
    return 0 if reproduced else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
