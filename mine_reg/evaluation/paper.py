"""What the paper printed (Table 1 of Huang et al., 30 test pairs, lungs), and whether a study's pairs are as hard as
its were."""

import re

import joblib
import pandas as pd

from mine_reg.evaluation.metrics import mask_metrics
from mine_reg.pairs.preprocessed import load_pair, read_pairs
from mine_reg.storage.borrowing import one_torch_thread

# The best method of a column is the one that the stars refer to.
TABLE1 = {
    "none": {"dsc": "0.929 ± 0.028", "asd_mm": "2.39 ± 1.21", "hd_mm": "21.16 ± 13.4"},
    "inter_observer": {"dsc": "0.987 ± 0.006", "asd_mm": "0.42 ± 0.17", "hd_mm": "22.76 ± 7.25"},
    "ants": {"dsc": "0.944 ± 0.030 ***", "asd_mm": "0.92 ± 0.58 ***", "hd_mm": "10.39 ± 6.27", "seconds": "707"},
    "miregnet": {"dsc": "0.960 ± 0.009 ***", "asd_mm": "0.70 ± 0.17 ***", "hd_mm": "11.92 ± 6.94", "seconds": "14"},
    "midiceregnet": {"dsc": "0.963 ± 0.007", "asd_mm": "0.64 ± 0.13", "hd_mm": "12.26 ± 7.29 *", "seconds": "14"},
}
BEST_IN_PAPER = {"dsc": "midiceregnet", "asd_mm": "midiceregnet", "hd_mm": "ants"}


def printed(method: str, metric: str) -> tuple[float, float, str]:
    """Mean, SD and stars of a cell; NaN, NaN and "" where the paper has none."""
    mean, sd, marks = re.fullmatch(r"([\d.]*)(?: ± ([\d.]+))? ?(\**)", TABLE1.get(method, {}).get(metric, "")).groups()
    return float(mean or "nan"), float(sd or "nan"), marks


MASKS_COMPARED = {
    "none": "moving_mask",
    "inter_observer": "fixed_mask_observer2",
}  # row of Table 1, the mask held against the fixed one
PRINTED_METRICS = ("dsc", "asd_mm", "hd_mm")


def before_registration(folder, workers: int = -1) -> pd.DataFrame:
    """`metrics.mask_metrics` of every preprocessed pair before registration and, where there is one, of the second
    observer.

    folder : preprocessed pairs; workers : processes, -1 means all cores. Columns pair_id, method, dsc, asd_mm, hd_mm.
    """
    jobs = (joblib.delayed(_measured_before)(folder, row) for row in read_pairs(folder).itertuples())
    rows = [row for rows in joblib.Parallel(n_jobs=workers)(jobs) for row in rows]
    return pd.DataFrame(rows, columns=["pair_id", "method", *PRINTED_METRICS])


def compare_with_paper(measured: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD of `before_registration` beside the paper's, and their ratios to it; one row per row and column of
    Table 1."""
    rows = []
    for method, values in measured.groupby("method", sort=False):
        for metric in PRINTED_METRICS:
            mean, sd, (paper_mean, paper_sd, _) = values[metric].mean(), values[metric].std(), printed(method, metric)
            rows.append(
                {
                    "method": method,
                    "metric": metric,
                    "pairs": len(values),
                    "mean": mean,
                    "sd": sd,
                    "paper_mean": paper_mean,
                    "paper_sd": paper_sd,
                    "mean_ratio": mean / paper_mean,
                    "sd_ratio": sd / paper_sd,
                }
            )
    return pd.DataFrame(rows)


@one_torch_thread()
def _measured_before(folder, row) -> list[dict]:
    pair = load_pair(folder, row)
    found = []
    for method, name in MASKS_COMPARED.items():
        if (mask := getattr(pair, name)) is not None:
            metrics = mask_metrics(pair.fixed_mask, mask, pair.spacing_mm)
            found.append(
                {"pair_id": pair.pair_id, "method": method} | {metric: metrics[metric] for metric in PRINTED_METRICS}
            )
    return found
