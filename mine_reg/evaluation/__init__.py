"""Judging any method: metrics, baselines, statistics, Table 1."""
