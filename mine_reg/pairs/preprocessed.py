"""Preprocessed pairs of a folder, read back as tensors."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import SimpleITK as sitk
import torch

from mine_reg.images.geometry import points_to_voxels, to_tensor
from mine_reg.images.points import read_points
from mine_reg.pairs.manifest import IMAGES, POINTS, SPLITS

SHIFT = ("start_x", "start_y", "start_z")
MADE_FROM = "contents"  # column of pairs.csv: digest of the files of a pair and of the window that scales them
LUNG_DISTANCE = "fixed_lung_distance"  # image of each pair beside those of the manifest


@dataclass
class Pair:
    """One preprocessed pair on its grid (D, H, W); intensities are scaled so that air is 0, the window's end 1."""

    pair_id: str
    fixed: torch.Tensor  # (1, D, H, W) float32
    moving: torch.Tensor
    fixed_mask: torch.Tensor  # (1, D, H, W) float32, 0 or 1
    moving_mask: torch.Tensor
    fixed_mask_observer2: torch.Tensor | None
    fixed_points: torch.Tensor | None  # (N, 3) float32, voxels z, y, x; row i corresponds to row i of moving_points
    moving_points: torch.Tensor | None
    fixed_lung_distance_mm: (
        torch.Tensor
    )  # (1, D, H, W) float32, whole mm up to 255, to the lungs that a threshold finds in fixed
    spacing_mm: tuple[float, float, float]  # z, y, x
    image: sitk.Image  # the grid in physical space


def read_pairs(folder: str | Path, split: str | None = None) -> pd.DataFrame:
    """``pairs.csv`` of a preprocessed folder, or one split of it, with absolute paths; "" for what was not given.

    Raises FileNotFoundError when the folder holds no pairs.csv and ValueError when the split is empty.
    """
    folder = Path(folder).resolve()
    if not (folder / "pairs.csv").is_file():
        raise FileNotFoundError(f"{folder} holds no pairs.csv; give a folder made by the preprocessing step")
    frame = pd.read_csv(folder / "pairs.csv", dtype=str, keep_default_na=False)
    frame = frame.astype(dict.fromkeys(SHIFT, float))
    for column in (*IMAGES, *POINTS):
        frame[column] = [str(folder / value) if value else "" for value in frame[column]]
    if split is not None:
        frame = frame[frame["split"] == split].reset_index(drop=True)
        if frame.empty:
            raise ValueError(f"{folder / 'pairs.csv'} has no pair in split {split!r}; splits are {', '.join(SPLITS)}")
    return frame


def load_pair(folder: str | Path, pair) -> Pair:
    """One pair as tensors; ``pair`` is a pair_id or a row of ``read_pairs``. Raises ValueError for an unknown id."""
    if isinstance(pair, str):
        frame = read_pairs(folder)
        found = frame[frame["pair_id"] == pair]
        if found.empty:
            raise ValueError(f"{Path(folder) / 'pairs.csv'} has no pair {pair!r}")
        pair = found.iloc[0]
    low, high = json.loads((Path(folder) / "settings.json").read_text())["window_hu"]
    # plain ReadImage: these files are our own, and the checks of read_image cost as much as reading
    fixed, moving = sitk.ReadImage(pair.fixed), sitk.ReadImage(pair.moving)
    masks = {name: to_tensor(sitk.ReadImage(path)) if (path := getattr(pair, name)) else None for name in IMAGES[2:]}
    points = {
        name: points_to_voxels(read_points(path), fixed).float() if (path := getattr(pair, name)) else None
        for name in POINTS
    }
    return Pair(
        pair_id=pair.pair_id,
        fixed=(to_tensor(fixed) - low) / (high - low),
        moving=(to_tensor(moving) - low) / (high - low),
        **masks,
        **points,
        fixed_lung_distance_mm=to_tensor(sitk.ReadImage(str(Path(pair.fixed).with_name(f"{LUNG_DISTANCE}.nii.gz")))),
        spacing_mm=tuple(fixed.GetSpacing()[::-1]),
        image=fixed,
    )
