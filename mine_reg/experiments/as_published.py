"""The networks as the paper describes them, beside the study's own: their names, the weight of TV, what is tested."""

import math
from collections.abc import Sequence

import pandas as pd

from mine_reg.evaluation.metrics import METRICS
from mine_reg.evaluation.statistics import METHODS
from mine_reg.evaluation.strongest import NETWORKS, OPPONENTS, against_strongest

READINGS = ("mean", "sum")  # of the paper's TV over the voxels of the DVF
SHOWN = METHODS | {
    f"{network}_as_published_{part}": f"{METHODS[network]} as published, {words}"
    for network in NETWORKS
    for part, words in (("affine", "AffineNet alone"), ("mean", "TV as mean"), ("sum", "TV as sum"))
}


def weight_of_tv(mu: float, reading: str, size: Sequence[int]) -> float:
    """The weight that the mean of TV over the voxels (`losses.total_variation`) must have to be ``mu`` times the TV of
    a reading.

    reading : ``mean``, or ``sum`` over the voxels of a DVF of ``size`` (D, H, W)

    Raises ValueError for another reading.
    """
    if reading not in READINGS:
        raise ValueError(f"unknown reading {reading!r} of TV; choose from {', '.join(READINGS)}")
    return mu * math.prod(size) if reading == "sum" else mu


def compared(metrics: pd.DataFrame, readings: Sequence[str] = READINGS, alpha: float = 0.05) -> pd.DataFrame:
    """What is tested, in every metric: each network as published against this study's own of the same loss and against
    the strongest setting of ANTs; and MIDiceRegNet against MIRegNet, both as published.

    metrics : one row per pair and method, as in ``results/metrics.csv``
    alpha : as of `strongest.against_strongest`, which says what is strongest

    Columns metric, network and opponent, as `trainings.crossed_tests` takes them.
    """
    found = against_strongest(metrics, alpha)
    ants = found[found["opponent"].isin(OPPONENTS["ANTs"])].groupby("metric")["opponent"].first()
    rows = []
    for metric in METRICS:
        for reading in readings:
            published = [f"{network}_as_published_{reading}" for network in NETWORKS]
            rows += [(metric, one, own) for one, own in zip(published, NETWORKS, strict=True)]
            rows += [(metric, one, ants[metric]) for one in published if metric in ants]
            rows.append((metric, published[1], published[0]))
    return pd.DataFrame(rows, columns=["metric", "network", "opponent"])
