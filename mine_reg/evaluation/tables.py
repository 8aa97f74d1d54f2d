"""Table 1, what this run found beside what the paper printed, and the table of all methods."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from mine_reg.evaluation.metrics import HIGHER_IS_BETTER, LABELS, METRICS
from mine_reg.evaluation.paper import BEST_IN_PAPER, printed
from mine_reg.evaluation.statistics import (
    ACCURACY,
    COMPARED,
    METHODS,
    ROWS,
    SECONDS,
    best_methods,
    paired_test,
    stars,
    values_by_pair,
)

TABLE_LABELS = LABELS | {SECONDS: "Runtime/s"}
DIGITS = {
    "dsc": ".3f",
    "folding_percent": ".3f",
    "sd_log_jacobian": ".3f",
    SECONDS: ".3g",
}  # others .2f, as in the paper


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


def layout(table: pd.DataFrame, latex: bool = False) -> pd.DataFrame:
    """The printed form of `table1`: the paper's five rows, a column for the paper and one for this run per quantity.

    Cells are Markdown or LaTeX text: mean ± SD, the best in bold, the stars behind. Columns are two-level.
    """
    indexed = table.set_index(["method", "metric"])
    columns = [(metric, side) for metric in ("dsc", "asd_mm", "hd_mm", SECONDS) for side in ("paper", "this run")]
    columns += [(metric, "this run") for metric in ("tre_mm", "hd95_mm", "folding_percent", "sd_log_jacobian")]
    cells = {
        (_escape(TABLE_LABELS[metric], latex), side): [
            _cell(indexed.loc[(m, metric)], side, metric, latex) for m in ROWS
        ]
        for metric, side in columns
    }
    return pd.DataFrame(cells, index=[METHODS[method] for method in ROWS])


def caption(table: pd.DataFrame, runtime: pd.DataFrame, profile: str, source: str) -> str:
    """What a reader needs to judge the table: number of pairs, profile, data, devices, definitions."""
    devices = runtime.groupby("device", sort=False)["method"].unique()
    timed = "; ".join(f"{', '.join(METHODS[m] for m in names)} on {device}" for device, names in devices.items())
    return (
        f"Results of the registration: mean ± SD over {table.loc[table['metric'] != SECONDS, 'n'].max()} test pairs "
        f"(profile {profile}, data: {source}) beside the paper's (30 private CT pairs). Bold: the best "
        "of ANTs, MIRegNet "
        "and MIDiceRegNet in accuracy; paired t-test of the best against the other two: * p < 0.05, ** p "
        "< 0.01, *** p < 0.001. "
        "DSC, ASD (symmetric mean surface distance), HD and HD95 of the lung masks; TRE at corresponding points; "
        "folding: voxels with Jacobian determinant J ≤ 0. "
        f"Runtime per pair: {timed or 'not measured'}."
    )


def markdown(table: pd.DataFrame, text: str) -> str:
    """Table 1 in Markdown under the caption ``text``."""
    flat = layout(table)
    flat.columns = [f"{label}, {side}" for label, side in flat.columns]
    return f"**Table 1.** {_escape(text, False)}\n\n" + flat.rename_axis("Method").to_markdown(disable_numparse=True)


def latex(table: pd.DataFrame, text: str) -> str:
    """Table 1 as a LaTeX ``table*`` with the caption ``text``; needs the packages booktabs and graphicx."""
    cells = layout(table, latex=True)
    tabular = cells.style.to_latex(hrules=True, multicol_align="c", column_format="l" + "c" * cells.shape[1])
    lines = [
        "% needs \\usepackage{booktabs} and \\usepackage{graphicx}",
        r"\begin{table*}",
        r"\centering",
        f"\\caption{{{_escape(text, True)}}}",
        r"\label{tab:registration}",
        r"\resizebox{\textwidth}{!}{%",
        tabular.strip() + "}",
        r"\end{table*}",
    ]
    return "\n".join(lines)


def write_table1(table: pd.DataFrame, text: str, folder: Path) -> None:
    """Write ``table1.csv`` (tidy), ``table1.md`` and ``table1.tex``, the last two with the caption ``text``."""
    table.to_csv(folder / "table1.csv", index=False, float_format="%.6g")
    (folder / "table1.md").write_text(markdown(table, text) + "\n", encoding="utf-8")
    (folder / "table1.tex").write_text(latex(table, text) + "\n", encoding="utf-8")


def extended_table(metrics: pd.DataFrame, runtime: pd.DataFrame) -> pd.DataFrame:
    """Every method of the run, also those that the paper does not have, as printed cells: mean ± SD, and the p-values
    of paired t-tests against ANTs in DSC and TRE (empty without ANTs)."""
    columns = {metric: metrics.groupby("method")[metric] for metric in METRICS}
    columns[SECONDS] = runtime.groupby("method")[SECONDS]
    methods = [method for method in METHODS if method in set(metrics["method"])]
    cells = {}
    for metric, groups in columns.items():
        mean, sd = groups.mean(), groups.std()
        cells[TABLE_LABELS[metric]] = [
            "–"
            if np.isnan(mean.get(m, np.nan))
            else _number(mean[m], metric)
            + ("" if metric == SECONDS or np.isnan(sd[m]) else f" ± {_number(sd[m], metric)}")
            for m in methods
        ]
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
    if np.isnan(p):
        return ""
    return f"{p:.2g}"


def findings(table: pd.DataFrame, tests: pd.DataFrame) -> list[str]:
    """What the numbers say, one sentence each: who is ahead by which metric, where TRE contradicts DSC, the paper."""
    mean = table.pivot(index="method", columns="metric", values="mean")
    absent = [method for method in ROWS if mean.loc[method, list(METRICS)].isna().all()]
    present = [method for method in COMPARED if method not in absent]
    said = [f"Not in this run: {', '.join(METHODS[m] for m in absent)}."] if absent else []
    for metric in ACCURACY if len(present) > 1 else ():
        ahead = table.loc[table["best"] & (table["metric"] == metric), "method"].tolist()
        if ahead:
            said.append(_ahead(metric, ahead, mean[metric], tests))
    said += _tre_against_dsc(mean.loc[present])
    for metric in ("folding_percent", "sd_log_jacobian"):
        values = ", ".join(f"{METHODS[m]} {_number(mean.loc[m, metric], metric)}" for m in present)
        said += [f"{TABLE_LABELS[metric]}, regularity of the transforms: {values}."] if present else []
    if {"ants", "ants_affine"} <= set(mean.index) and "ants" in present:
        gain = ", ".join(
            f"{TABLE_LABELS[metric]} from {_number(mean.loc['ants_affine', metric], metric)} to "
            f"{_number(mean.loc['ants', metric], metric)}"
            for metric in ("dsc", "tre_mm")
        )
        said.append(f"What SyN adds to ANTs' affine part: {gain}.")
    affine = [m for m in ("miregnet_affine", "midiceregnet_affine", "ants_affine") if m in mean.index]
    if len(affine) > 1:
        values = "; ".join(
            f"{METHODS[m]} {_number(mean.loc[m, 'dsc'], 'dsc')} and {_number(mean.loc[m, 'tre_mm'], 'tre_mm')} mm"
            for m in affine
        )
        said.append(f"Affine maps alone, DSC and TRE: {values}.")
    if "convexadam" in mean.index:
        values = ", ".join(
            f"{TABLE_LABELS[metric]} {_number(mean.loc['convexadam', metric], metric)}"
            for metric in ("dsc", "asd_mm", "tre_mm")
        )
        said.append(f"convexAdam after ANTs' affine part, an opponent that the paper does not have: {values}.")
    return said + _against_paper(mean.loc[present], table)


def _ahead(metric: str, ahead: list[str], mean: pd.Series, tests: pd.DataFrame) -> str:
    behind = [
        f"{METHODS[t.other]} {_number(mean[t.other], metric)} (p {_p(t.p)}, Holm {_p(t.p_holm)}, dz {t.cohen_dz:.2f})"
        for t in tests.itertuples()
        if t.metric == metric and t.in_paper and t.other not in ahead
    ]
    who = " and ".join(METHODS[m] for m in ahead)
    first = f"{TABLE_LABELS[metric]}: {who} {'tie' if len(ahead) > 1 else 'first'} at {_number(mean[ahead[0]], metric)}"
    return f"{first}; then {', '.join(behind)}." if behind else f"{first}."


def _tre_against_dsc(mean: pd.DataFrame) -> list[str]:
    known = mean[["dsc", "tre_mm"]].dropna()
    if len(known) < 2:
        return []
    said = [
        f"TRE contradicts DSC: {METHODS[a]} overlaps better than {METHODS[b]} ({_number(known.dsc[a], 'dsc')} against "
        f"{_number(known.dsc[b], 'dsc')}) yet misses the landmarks by more ({_number(known.tre_mm[a], 'tre_mm')} "
        f"against {_number(known.tre_mm[b], 'tre_mm')} mm)."
        for a, b in itertools.permutations(known.index, 2)
        if known.dsc[a] > known.dsc[b] and known.tre_mm[a] > known.tre_mm[b]
    ]
    return said or ["TRE and DSC put the methods in the same order."]


def _against_paper(mean: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    paper = table.pivot(index="method", columns="metric", values="paper_mean").loc[mean.index]
    said = []
    for metric in ("dsc", "asd_mm", "hd_mm") if len(mean) > 1 else ():
        ascending = metric not in HIGHER_IS_BETTER
        here, there = (frame[metric].sort_values(ascending=ascending).index.tolist() for frame in (mean, paper))
        if mean[metric].notna().all():
            order = ", ".join(METHODS[m] for m in here)
            agree = "as in the paper" if here == there else f"in the paper {', '.join(METHODS[m] for m in there)}"
            said.append(f"Order by {TABLE_LABELS[metric]}, best first: {order}; {agree}.")
    return said


def _number(value: float, metric: str) -> str:
    return format(value, DIGITS.get(metric, ".2f"))


def _p(p: float) -> str:
    return "not computed" if np.isnan(p) else "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _cell(row: pd.Series, side: str, metric: str, latex: bool) -> str:
    prefix = "paper_" if side == "paper" else ""
    mean, sd, best, marks = (row[prefix + name] for name in ("mean", "sd", "best", "stars"))
    if np.isnan(mean):
        return "–" if not latex else "--"
    text = _number(mean, metric)
    if not np.isnan(sd) and metric != SECONDS:
        text += f" ± {_number(sd, metric)}"
    text = _escape(text, latex)
    if best:
        text = f"\\textbf{{{text}}}" if latex else f"**{text}**"
    return text + ((f"$^{{{marks}}}$" if latex else " " + marks.replace("*", "\\*")) if marks else "")


def _escape(text: str, latex: bool) -> str:
    if not latex:
        return text.replace("*", "\\*")
    for plain, tex in (("\\", r"\textbackslash "), ("%", r"\%"), ("_", r"\_"), ("&", r"\&"), ("#", r"\#"),
                       ("±", r"$\pm$"), ("≤", r"$\leq$"), ("<", "$<$")):  # fmt: skip
        text = text.replace(plain, tex)
    return text
