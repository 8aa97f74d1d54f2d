"""The benchmark of batches registers every pair in every way, and the table of docs/speed.md is that of its file."""

import re
import subprocess
import sys

import pandas as pd
import pytest


@pytest.mark.slow
def test_every_way_registers_all_pairs(repository, tmp_path):
    command = [sys.executable, "benchmarks/batch.py", "--pairs", "2", "--size", "48", "48", "48", "--workers", "1"]
    subprocess.run([*command, "--out", str(tmp_path)], cwd=repository, check=True, capture_output=True)
    table = pd.read_csv(tmp_path / "batch.csv")
    assert table["way"].tolist() == ["one command per pair", "batch, 1 at once"]
    assert (table["per_hour"] * table["seconds"] / 3600).tolist() == pytest.approx([2, 2], rel=0.02)
    assert table["ratio"].tolist() == pytest.approx((table["per_hour"] / table["per_hour"][0]).tolist(), rel=0.02)


def test_the_page_says_what_was_measured(repository):
    page = (repository / "docs/speed.md").read_text(encoding="utf-8")
    measured = pd.read_csv(repository / "results/benchmarks/shared_machine.csv")
    rows = re.findall(
        r"^\| [^|]+ \| ([\d.]+) \| ([\d.]+) \| (\d\.\d) \|$", page[page.index("## A shared machine") :], re.M
    )
    expected = [(f"{r.alone_s:g}", f"{r.shared_s:g}", f"{r.ratio:.1f}") for r in measured.itertuples()]
    assert rows[: len(expected)] == expected
    many = page[page.index("## Many pairs") : page.index("## Memory")]
    assert all(f" {speed:g}" in many for speed in pd.read_csv(repository / "results/benchmarks/batch.csv")["per_hour"])
