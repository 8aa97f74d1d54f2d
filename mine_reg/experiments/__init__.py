"""Many trainings: ablation, sweep, Table 2; and the making of the shipped weights."""
