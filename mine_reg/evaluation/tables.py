"""Table 1, what this run found beside what the paper printed, and the table of all methods."""

from pathlib import Path

import numpy as np
import pandas as pd

from mine_reg.evaluation.metrics import LABELS, METRICS
from mine_reg.evaluation.paper import BEST_IN_PAPER, printed
from mine_reg.evaluation.statistics import (
    ACCURACY,
    METHODS,
    ROWS,
    SECONDS,
    best_methods,
    paired_test,
    stars,
    values_by_pair,
)
from mine_reg.images.points import read_points
from mine_reg.storage.tables import read_pair_table

TABLE_LABELS = LABELS | {SECONDS: "Runtime/s"}
# others .2f, as in the paper
DIGITS = {"dsc": ".3f", "folding_percent": ".3f", "sd_log_jacobian": ".3f", SECONDS: ".3g"}
_SAME_PAIR_MM = 0.1  # phantoms differ in a last digit between processors
_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "%_&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "≤": r"$\leq$", "<": "$<$", ">": "$>$", "–": "--"}
)


def read_results(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A table of one row per pair and method, with ``columns`` of numbers, as metrics.csv or runtime.csv.

    Raises ValueError, one sentence that names the file, for anything else.
    """
    try:
        table = read_pair_table(path)
        lacking = [name for name in ("pair_id", "method", *columns) if name not in table]
        if lacking:
            raise ValueError(f"it lacks the column {lacking[0]}")
        if not all(map(pd.api.types.is_numeric_dtype, (table[name] for name in columns))):
            raise ValueError("it holds text where numbers belong")
        twice = table.duplicated(["pair_id", "method"])
        if twice.any():
            row = table[twice].iloc[0]
            raise ValueError(f"it lists {row['method']} of {row['pair_id']} twice")
    except (ValueError, IsADirectoryError) as error:
        reason = "it is a folder" if isinstance(error, IsADirectoryError) else str(error).splitlines()[0]
        raise ValueError(f"{path} is no whole table of results: {reason}; make it again") from None
    return table


def refuse_other_runtimes(metrics: pd.DataFrame, runtime: pd.DataFrame) -> None:
    """Raise ValueError for runtimes of pairs of which nothing else was measured."""
    if others := sorted(set(runtime["pair_id"]) - set(metrics["pair_id"])):
        raise ValueError(f"there are runtimes, and no metrics, of the pair {others[0]}; take both tables of one run")


def refuse_other_metrics(metrics: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Raise ValueError unless ``metrics`` are of ``pairs``, a table of `read_pairs`: of the same ids, and, where there
    are landmarks, with their distances before registration (method ``none``), to 0.1 mm."""
    before = metrics[metrics["method"] == "none"].set_index("pair_id")["tre_mm"]
    if others := sorted(set(before.index) ^ set(pairs["pair_id"])):
        where = "the metrics, not the pairs," if others[0] in before else "the pairs, not the metrics,"
        raise ValueError(f"{where} hold {others[0]}; take the metrics that notebook 07 has measured on these pairs")
    for row in pairs[pairs["fixed_points"] != ""].itertuples():
        apart = read_points(row.moving_points) - read_points(row.fixed_points)
        distance = np.linalg.norm(apart, axis=1).mean()
        if not abs(distance - before[row.pair_id]) < _SAME_PAIR_MM:
            raise ValueError(
                f"the metrics are of another {row.pair_id}: {before[row.pair_id]:.2f} mm before registration, where "
                f"its landmarks are {distance:.2f} mm apart; run notebook 07 on these pairs"
            )


def table1(metrics: pd.DataFrame, runtime: pd.DataFrame, tests: pd.DataFrame) -> pd.DataFrame:
    """Table 1 as a tidy frame, one row per method and quantity (the metrics and ``seconds``), this run beside the
    paper.

    Columns method, metric, n, mean, sd (of the sample, n - 1), stars, best; paper_mean, paper_sd, paper_stars,
    paper_best. ``best`` marks the best mean of ANTs, MIRegNet and MIDiceRegNet (several at a tie), ``stars`` the paired
    t-test of the best against that method, both for measures of accuracy alone. What the run or the paper does not have
    is NaN.
    The paper's five rows come first, then further methods of the run.
    """
    key = ["pair_id", "method"]
    measured = [metrics.melt(key, METRICS, "metric"), runtime.melt(key, [SECONDS], "metric")]
    with np.errstate(invalid="ignore"):  # the SD of an infinite distance is NaN
        summary = pd.concat(measured).groupby(["method", "metric"])["value"].agg(n="count", mean="mean", sd="std")
    methods = [*ROWS, *(m for m in METHODS if m not in ROWS and m in set(metrics["method"]))]
    table = summary.reindex(pd.MultiIndex.from_product([methods, [*METRICS, SECONDS]], names=["method", "metric"]))
    table["n"] = table["n"].fillna(0).astype(int)

    marks = {(t.other, t.metric): stars(t.p) for t in tests.itertuples() if t.in_paper and t.metric in ACCURACY}
    best = {(method, metric) for metric in ACCURACY for method in best_methods(values_by_pair(metrics, metric), metric)}
    paper = [printed(method, metric) for method, metric in table.index]
    table["stars"] = [marks.get(cell, "") for cell in table.index]
    table["best"] = [cell in best for cell in table.index]
    table[["paper_mean", "paper_sd", "paper_stars"]] = pd.DataFrame(paper, index=table.index)
    table["paper_best"] = [BEST_IN_PAPER.get(metric) == method for method, metric in table.index]
    return table.reset_index()


def layout(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The printed form of `table1`: the paper's five rows, a column for the paper and one for this run per quantity.

    Returns the cells as plain text, mean ± SD and the stars behind, with n where it is of fewer pairs than others, and
    which of them are the best. Columns are two-level.
    """
    most = _pairs(table)
    columns = [(metric, side) for metric in ("dsc", "asd_mm", "hd_mm", SECONDS) for side in ("paper", "this run")]
    columns += [(metric, "this run") for metric in ("tre_mm", "hd95_mm", "folding_percent", "sd_log_jacobian")]
    cells, best = {}, {}
    for metric, side in columns:
        prefix, column = "paper_" if side == "paper" else "", (TABLE_LABELS[metric], side)
        rows = table[table["metric"] == metric].set_index("method").loc[list(ROWS)]
        numbers = rows[[f"{prefix}mean", f"{prefix}sd", f"{prefix}stars"]].itertuples(index=False)
        cells[column] = [f"{_mean_sd(mean, sd, metric)} {marks}".rstrip() for mean, sd, marks in numbers]
        if side != "paper" and metric != SECONDS:
            fewer = [f" (n = {n})" if 0 < n < most else "" for n in rows["n"]]
            cells[column] = [cell + n for cell, n in zip(cells[column], fewer, strict=True)]
        best[column] = rows[f"{prefix}best"].to_numpy()
    names = [METHODS[method] for method in ROWS]
    return pd.DataFrame(cells, index=names), pd.DataFrame(best, index=names)


def caption(table: pd.DataFrame, runtime: pd.DataFrame, profile: str, source: str) -> str:
    """What a reader needs to judge the table: number of pairs, profile, data, devices, definitions."""
    devices = runtime.groupby("device", sort=False)["method"].unique()
    timed = "; ".join(f"{', '.join(METHODS[m] for m in names)} on {device}" for device, names in devices.items())
    fewer = table.loc[table["metric"] != SECONDS, "n"].between(1, _pairs(table) - 1).any()
    return (
        f"Results of the registration: mean ± SD over {_pairs(table)} test pairs "
        f"(profile {profile}, data: {source}) beside the paper's (30 private CT pairs). Bold: the best "
        "of ANTs, MIRegNet and MIDiceRegNet in accuracy; paired t-test of the best against the other two: "
        "* p < 0.05, ** p < 0.01, *** p < 0.001. "
        "DSC, ASD (symmetric mean surface distance), HD and HD95 of the lung masks; TRE at corresponding points; "
        "folding: voxels with Jacobian determinant J ≤ 0. "
        f"Runtime per pair: {timed or 'not measured'}."
        + (" Some pairs lack a result: n says of how many a mean is; tests are over the common ones." if fewer else "")
    )


def _pairs(table: pd.DataFrame) -> int:
    return table.loc[table["metric"] != SECONDS, "n"].max()


def markdown(table: pd.DataFrame, text: str) -> str:
    """Table 1 in Markdown under the caption ``text``."""
    cells, best = layout(table)
    cells = cells.replace(r"\*", r"\\*", regex=True)
    cells = cells.mask(best, "**" + cells + "**").rename_axis("Method")
    cells.columns = [", ".join(column) for column in cells.columns]
    title = "**Table 1.** " + text.replace("*", r"\*")
    return f"{title}\n\n{cells.to_markdown(disable_numparse=True)}"


def latex(table: pd.DataFrame, text: str) -> str:
    """Table 1 as a LaTeX ``table*`` with the caption ``text``; needs the packages booktabs and graphicx."""
    cells, best = layout(table)
    style = cells.style.format(_latex).format_index(_latex, axis="index").format_index(_latex, axis="columns")
    style = style.apply(lambda _: best.replace({True: "textbf: --rwrap;", False: ""}), axis=None)
    made = style.to_latex(
        environment="table*",
        position_float="centering",
        caption=_latex(text),
        label="tab:registration",
        column_format="l" + "c" * cells.shape[1],
        multicol_align="c",
        hrules=True,
    )
    # thirteen columns are wider than a page
    made = made.replace(r"\begin{tabular}", "\\resizebox{\\textwidth}{!}{%\n\\begin{tabular}")
    made = made.replace(r"\end{tabular}", r"\end{tabular}}")
    return "% needs \\usepackage{booktabs} and \\usepackage{graphicx}\n" + made


def write_table1(table: pd.DataFrame, text: str, folder: Path) -> None:
    """Write ``table1.csv`` (tidy), ``table1.md`` and ``table1.tex``, the last two with the caption ``text``."""
    table.to_csv(folder / "table1.csv", index=False, float_format="%.6g")
    (folder / "table1.md").write_text(markdown(table, text) + "\n", encoding="utf-8")
    (folder / "table1.tex").write_text(latex(table, text), encoding="utf-8")


def extended_table(metrics: pd.DataFrame, runtime: pd.DataFrame) -> pd.DataFrame:
    """Every method of the run, also those that the paper does not have, as printed cells: mean ± SD, and the p-values
    of paired t-tests against ANTs in DSC and TRE (empty without ANTs)."""
    groups = {metric: metrics.groupby("method")[metric] for metric in METRICS}
    groups[SECONDS] = runtime.groupby("method")[SECONDS]
    methods = [method for method in METHODS if method in set(metrics["method"])]
    cells = {}
    for metric, group in groups.items():
        numbers = group.agg(["mean", "std"]).reindex(methods).itertuples(index=False)
        cells[TABLE_LABELS[metric]] = [_mean_sd(mean, sd, metric) for mean, sd in numbers]
    for metric in ("dsc", "tre_mm"):
        wide = metrics.pivot(index="pair_id", columns="method", values=metric)
        cells[f"p, {TABLE_LABELS[metric].split('/')[0]} against ANTs"] = [
            _p_against(wide, method, "ants") for method in methods
        ]
    return pd.DataFrame(cells, index=pd.Index([METHODS[m] for m in methods], name="Method"))


def _p_against(wide: pd.DataFrame, method: str, other: str) -> str:
    if method in (other, "none", "inter_observer") or other not in wide or method not in wide:
        return ""
    both = wide[[method, other]].dropna()
    p = paired_test(both[method].to_numpy(), both[other].to_numpy(), 0.05)["p"]
    return "" if np.isnan(p) else f"{p:.2g}"


def _mean_sd(mean: float, sd: float, metric: str) -> str:
    """As the paper prints it: runtimes without SD, what is not known as a dash."""
    if np.isnan(mean):
        return "–"
    numbers = [mean] if metric == SECONDS or np.isnan(sd) else [mean, sd]
    return " ± ".join(format(number, DIGITS.get(metric, ".2f")) for number in numbers)


def _latex(text: str) -> str:
    return text.translate(_LATEX)
