"""What a reader sees of `mine-reg benchmark`: means over the cases as the collection's owners take them, and a page
with the table of cases beside published results."""

import pandas as pd

from mine_reg.pair_tool.published_results import PUBLISHED, Published
from mine_reg.pairs.collection_layouts import Collection

TABLE, AGGREGATES, TEXT = "benchmark.csv", "aggregates.csv", "benchmark.md"
_LABELS = {
    "pair_id": "case",
    "split": "split",
    "points": "points",
    "count": "number",
    "tre_before_mm": "TRE before/mm",
    "tre_mm": "TRE/mm",
    "tre_snapped_mm": "TRE snapped/mm",
    "dsc_before": "DSC before",
    "dsc_after": "DSC",
    "folding_percent": "folding/%",
    "sd_log_jacobian": "SD log J",
    "verdict": "verdict",
}
_DIGITS = {"dsc_before": 3, "dsc_after": 3, "folding_percent": 4, "sd_log_jacobian": 3}  # others: 2
_SDS = {"tre_before_mm": "tre_before_sd_mm", "tre_mm": "tre_sd_mm", "tre_snapped_mm": "tre_snapped_sd_mm"}
_MEASURES = [name for name in _LABELS if name.endswith("_mm") or name in _DIGITS]
_DIRLAB = (
    "TRE: the landmarks of the fixed scan (end of inspiration) are taken through the transform into the moving scan "
    "(expiration), and compared with the experts' landmarks there, in voxel indices times spacing. Snapped: what was "
    "reached is first rounded to whole voxels, on which the landmarks were placed; compare with published results that "
    "were snapped, and the other column with those that were not. ± is the SD over the landmarks of a case, below "
    "over the cases."
)
_LEARN2REG = (
    "TRE as the challenge's evaluation has it: points of the fixed scan through the transform, against those of the "
    "moving scan, in voxel indices times the moving scan's spacing, never rounded; before registration the indices "
    "themselves are compared, whatever the headers' origins. Manual landmarks (TRE_lm) and automatic keypoints "
    "(TRE_kp) are told apart. ± is the SD over the points of a case, below over the cases; 30 % is the 30th "
    "percentile over the cases, as the challenge reports it."
)
_EMPIRE10 = (
    "EMPIRE10 keeps its landmarks secret, so what can be computed here is the overlap of its lung masks (DSC) and the "
    "folding of the transform, and a TRE comes from its organisers alone."
)
_FIELD = "DSC is of the lung masks; folding and SD log J are of the whole transform on the registration's own grid."


def aggregate(table: pd.DataFrame, percentile: bool) -> pd.DataFrame:
    """Mean and SD of every measure over the cases, by split and kind of points, and the 30th percentile where
    ``percentile``; cases that could not be judged are left out."""
    rows = []
    for (split, points), group in table[table["error"] == ""].groupby(["split", "points"], sort=False):
        for measure in table.columns.intersection(_MEASURES, sort=False):
            values = group[measure].dropna()
            if values.empty:
                continue
            row = {"split": split, "points": points, "measure": measure, "cases": len(values)}
            row |= {"mean": values.mean(), "sd": values.std()}
            rows.append(row | ({"p30": values.quantile(0.3)} if percentile else {}))
    columns = ["split", "points", "measure", "cases", "mean", "sd", *(["p30"] if percentile else [])]
    return pd.DataFrame(rows, columns=columns)


def as_markdown(collection: str, source: Collection, table: pd.DataFrame, totals: pd.DataFrame) -> str:
    """The page: definitions, cases that failed, all cases, means, and published results with their sources."""
    how = _DIRLAB if source.raw else _LEARN2REG if source.task else _EMPIRE10
    failed, judged = table[table["error"] != ""], table[table["error"] == ""]
    parts = [f"# {collection}", f"{how} {_FIELD}"]
    if len(failed):
        reasons = [[row.pair_id, row.error] for row in failed.itertuples()]
        parts += ["## Not judged", _grid(["case", "reason"], reasons)]
    published = [entry for entry in PUBLISHED if entry.collection == collection]
    if len(judged):
        parts += ["## Cases", _cases(judged, [entry for entry in published if entry.by_case])]
        parts += ["## Over the cases", _totals(totals)]
        warned = dict(zip(judged["pair_id"], judged["warnings"], strict=True))
        if any(warned.values()):
            parts += [
                "## Warnings",
                _grid(["case", "of its registration"], [[*item] for item in warned.items() if item[1]]),
            ]
    if source.raw or source.task:
        parts += ["## Published", _published(published)]
    return "\n\n".join(parts) + "\n"


def _cases(judged: pd.DataFrame, published: list[Published]) -> str:
    shown = [name for name in _LABELS if name in judged and not judged[name].isin(["", None]).all()]
    header = [_LABELS[name] for name in shown] + [f"{entry.method}, published" for entry in published]
    rows = []
    for row in judged.to_dict("records"):
        cells = [_cell(name, row[name], row.get(_SDS.get(name))) for name in shown]
        number = int("".join(filter(str.isdigit, row["pair_id"])) or 0)
        rows.append(cells + [f"{entry.by_case[number - 1]:.2f}" for entry in published])
    return _grid(header, rows)


def _cell(name: str, value, sd=None) -> str:
    if name == "count":
        return _number(value, 0)
    if name not in _MEASURES:
        return str(value)
    return _number(value, _DIGITS.get(name, 2)) + ("" if sd is None or pd.isna(sd) else f" ± {sd:.2f}")


def _totals(totals: pd.DataFrame) -> str:
    percentile, groups = "p30" in totals, [name for name in ("split", "points") if totals[name].any()]
    rows = []
    for row in totals.itertuples():
        digits = _DIGITS.get(row.measure, 2)
        values = [row.mean, row.sd, *([row.p30] if percentile else [])]
        numbers = [_number(value, digits) for value in values]
        named = [getattr(row, name) for name in groups]
        rows.append([*named, _LABELS[row.measure], str(row.cases), *numbers])
    return _grid([*groups, "measure", "cases", "mean", "SD", *(["30 %"] if percentile else [])], rows)


def _published(entries: list[Published]) -> str:
    if not entries:
        return "No published numbers on this collection could be traced to their source."
    snapped = {True: "yes", False: "no", None: "not said"}
    rows = [
        [
            entry.method,
            f"{entry.tre_mm:.2f}",
            *(_number(value, 2) for value in (entry.sd_mm, entry.p30_mm)),
            snapped[entry.snapped],
            entry.points,
            ", ".join(filter(None, (entry.split, entry.note))),
            entry.source,
        ]
        for entry in entries
    ]
    return _grid(["method", "TRE/mm", "SD", "30 %", "snapped", "points", "remarks", "source"], rows)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def _grid(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
