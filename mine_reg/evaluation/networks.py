"""Trained networks on the pairs of a folder: every metric, and what AffineNet leaves of affine maps that are known."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from mine_reg.evaluation.metrics import evaluate_pair
from mine_reg.models import AffineNet, DeformNet
from mine_reg.pairs.preprocessed import Pair, load_pair, read_pairs
from mine_reg.spatial import compose_affine, resample, total_displacement, transform_points, voxel_points
from mine_reg.training.augmentation import random_affine

_EVERY = 20  # lung voxel


def measure(affinenet: AffineNet, deformnet: DeformNet | None, pairs_folder: Path, split: str) -> pd.DataFrame:
    """Every metric of the pairs of ``split`` as both networks (on the CPU) register them, one row per pair.

    deformnet : None measures the affine map alone
    """

    def registered(pair: Pair) -> Tensor:
        fixed, moving = pair.fixed[None], pair.moving[None]
        theta = affinenet.predict(fixed, moving)
        dvf = None if deformnet is None else deformnet.predict(fixed, moving, theta)
        return total_displacement(theta, dvf, fixed.shape[2:])

    return measure_displacements(registered, pairs_folder, split)


def measure_displacements(displacement: Callable[[Pair], Tensor], pairs_folder: Path, split: str) -> pd.DataFrame:
    """Every metric of the pairs of ``split`` under the total displacement (1, 3, D, H, W), in voxels, that a function
    gives each of them: one row per pair with ``pair_id`` and the metrics."""
    rows = []
    for row in read_pairs(pairs_folder, split).itertuples():
        pair = load_pair(pairs_folder, row)
        with torch.inference_mode():
            found = displacement(pair)
        rows.append({"pair_id": pair.pair_id} | evaluate_pair(pair, found))
    return pd.DataFrame(rows)


def recover(
    network: AffineNet, folder: Path, limits: dict, split: str = "validation", draws: int = 4, seed: int = 0
) -> pd.DataFrame:
    """Errors in mm of ``network`` (on the CPU) on images moved by random affine maps, one row per pair of ``split`` and
    draw.

    limits : ``degrees``, ``translation`` and ``scale`` of `random_affine`

    With G the random map and A the network's answer, ``before_mm`` is the mean of |G(x) - x| over voxels x of the fixed
    image's lungs; ``known_mm`` that of |G(A(x)) - x| when F is registered with F(G), so that the right answer is known
    exactly, the inverse of G; and ``tre_mm`` the landmark error of G(A(x)) when F is registered with M(G), NaN without
    landmarks.
    The last cannot become 0: breathing is not affine.
    """
    generator, rows = torch.Generator().manual_seed(seed), []
    for row in read_pairs(folder, split).itertuples():
        pair = load_pair(folder, row)
        fixed, moving, size = pair.fixed[None], pair.moving[None], pair.fixed.shape[1:]
        inside = pair.fixed_mask if pair.fixed_mask is not None else pair.fixed_lung_distance_mm <= 0
        lung = voxel_points(torch.nonzero(inside.flatten() > 0)[::_EVERY].T, size)
        spacing = torch.tensor(pair.spacing_mm)

        def error(theta: Tensor, points: Tensor, goal: Tensor, size=size, spacing=spacing) -> float:
            return float(((transform_points(points, size, theta) - goal) * spacing).norm(dim=-1).mean())

        for draw in range(draws):
            given = random_affine(1, **limits, generator=generator)
            with torch.inference_mode():
                known, unknown = (
                    compose_affine(given, network.predict(fixed, resample(image, given))) for image in (fixed, moving)
                )
            tre = (
                error(unknown, pair.fixed_points[None], pair.moving_points[None])
                if pair.fixed_points is not None
                else float("nan")
            )
            rows.append(
                {
                    "pair_id": pair.pair_id,
                    "draw": draw,
                    "before_mm": error(given, lung, lung),
                    "known_mm": error(known, lung, lung),
                    "tre_mm": tre,
                }
            )
    return pd.DataFrame(rows)
