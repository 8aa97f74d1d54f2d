"""Preprocessed pairs of a folder as training data."""

from pathlib import Path
from types import SimpleNamespace

from torch.utils.data import Dataset

from mine_reg.fitting import PairData
from mine_reg.preprocess import load_pair, read_pairs
from mine_reg.training import POINTS, VOLUMES


def folder_data(cfg: SimpleNamespace, pairs: Path) -> PairData:
    """Training and validation pairs of a preprocessed folder, for the training that ``cfg`` describes.

    Raises ValueError when a split is empty or has fewer subjects than ``cfg.training_subjects``.
    """
    training = PairDataset(pairs, "train", VOLUMES, cfg.in_memory, cfg.training_subjects, cfg.seed)
    return PairData(cfg, training, PairDataset(pairs, "validation", VOLUMES + POINTS, cfg.in_memory), (pairs / "pairs.csv").read_bytes())


class PairDataset(Dataset):
    """Preprocessed pairs of one split as dictionaries of tensors (C, D, H, W); kept in memory when asked to.

    names : attributes of ``preprocess.Pair`` to deliver; those that a pair does not have are left out
    subjects : pairs of so many subjects only, drawn with ``seed``; None: of all

    Raises ValueError when the split is empty or has fewer subjects.
    """

    def __init__(self, folder: Path, split: str, names: tuple[str, ...], in_memory: bool, subjects: int | None = None, seed: int = 0):
        self.folder, self.names = folder, names
        pairs = read_pairs(folder, split)
        if subjects is not None:
            known = pairs["subject_id"].drop_duplicates()
            if not 1 <= subjects <= len(known):
                raise ValueError(f"training_subjects is {subjects}, but split {split!r} has {len(known)} subjects")
            pairs = pairs[pairs["subject_id"].isin(known.sample(subjects, random_state=seed))]
        self.pair_ids = pairs["pair_id"].tolist()
        self.kept = [self._load(pair_id) for pair_id in self.pair_ids] if in_memory else None

    def __len__(self) -> int:
        return len(self.pair_ids)

    def __getitem__(self, index: int) -> dict:
        return self.kept[index] if self.kept else self._load(self.pair_ids[index])

    def _load(self, pair_id: str) -> dict:
        pair = load_pair(self.folder, pair_id)
        values = {name: getattr(pair, name) for name in self.names}
        return {name: value for name, value in values.items() if value is not None}
