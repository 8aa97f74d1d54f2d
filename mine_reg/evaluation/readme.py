"""The results in README.md, written from results/.

``python -m mine_reg.evaluation.readme`` writes them anew; with ``--check`` it only compares, and exits with 1 when they
differ.
"""

import argparse
import re
import textwrap
from pathlib import Path

import pandas as pd

from mine_reg.evaluation.statistics import METHODS, ROWS
from mine_reg.evaluation.tables import layout
from mine_reg.settings import root

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
LEFT_OUT = ("HD95/mm", "SD log J")  # of Table 1's columns; they are in results/table1.md


def results_block(results: Path) -> str:
    """Table 1 in Markdown, as the paper prints it with TRE and folding beside it, from the tables of ``results``.

    Raises FileNotFoundError when a table is missing.
    """
    table = pd.read_csv(results / "table1.csv").fillna({"stars": "", "paper_stars": ""})
    runtime = pd.read_csv(results / "runtime.csv")
    printed = (results / "table1.md").read_text(encoding="utf-8")
    pairs, run = re.search(r"over (\d+ test pairs) \((.+?)\) beside", printed).groups()
    devices = runtime[runtime["method"].isin(ROWS)].groupby("device", sort=False)["method"].unique()
    timed = "; ".join(f"{', '.join(METHODS[m] for m in names)} on {device}" for device, names in devices.items())
    caption = (
        f"**Table 1**, mean ± SD over {pairs} ({run}), beside the paper's over 30 private CT pairs. Bold: the best of "
        "ANTs and both networks; stars: paired t-test of the best against that method, \\* p < 0.05, \\*\\* p < 0.01, "
        f"\\*\\*\\* p < 0.001. Runtime: {timed}."
    )
    cells, best = (frame.drop(columns=list(LEFT_OUT), level=0) for frame in layout(table))
    cells = cells.replace(r"\*", r"\\*", regex=True)
    cells = cells.mask(best, "**" + cells + "**")
    header = ["", *(f"{label}, {'paper' if side == 'paper' else 'here'}" for label, side in cells.columns)]
    rows = [header, [":--"] * len(header), *([name, *row] for name, row in zip(cells.index, cells.values, strict=True))]
    return "\n".join([textwrap.fill(caption, 118), "", *(f"| {' | '.join(row)} |" for row in rows)])


def with_results(readme: str, block: str) -> str:
    """``readme`` with ``block`` between its marks. Raises ValueError when a mark is missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no {BEGIN} followed by {END}")
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def main() -> int:
    """0: the results in README.md are those of results/, or have been written; 1: ``--check`` found others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    path = root() / "README.md"
    old = path.read_text(encoding="utf-8")
    new = with_results(old, results_block(root() / "results"))
    if check:
        print(
            "README.md shows results/" if new == old else "README.md shows other results than results/: `make readme`"
        )
        return int(new != old)
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
