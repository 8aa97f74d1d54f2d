"""Preprocessed pairs of a folder as training data, and the training of a network on them by one call."""

from pathlib import Path
from types import SimpleNamespace

import lightning
from ruamel.yaml import YAML, YAMLError
from torch.utils.data import Dataset

from mine_reg.pairs.preprocessed import load_pair, read_pairs
from mine_reg.settings import root, settings
from mine_reg.training.augmentation import VALIDATION_POINTS, VOLUMES
from mine_reg.training.fit import PairData, fit
from mine_reg.training.modules import AffineTraining, DeformTraining
from mine_reg.training.weights import load_affinenet, load_statistic


def folder_data(cfg: SimpleNamespace, pairs: Path) -> PairData:
    """Training and validation pairs of a preprocessed folder, for the training that ``cfg`` describes.

    Raises ValueError when a split is empty or has fewer subjects than ``cfg.training_subjects``.
    """
    training = PairDataset(pairs, "train", VOLUMES, cfg.in_memory, cfg.training_subjects, cfg.seed)
    return PairData(
        cfg,
        training,
        PairDataset(pairs, "validation", VOLUMES + VALIDATION_POINTS, cfg.in_memory),
        (pairs / "pairs.csv").read_bytes(),
    )


class PairDataset(Dataset):
    """Preprocessed pairs of one split as dictionaries of tensors (C, D, H, W); kept in memory when asked to.

    names : attributes of `preprocessed.Pair` to deliver; those that a pair does not have are left out
    subjects : pairs of so many subjects only, drawn with ``seed``; None: of all

    Raises ValueError when the split is empty or has fewer subjects.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        names: tuple[str, ...],
        in_memory: bool,
        subjects: int | None = None,
        seed: int = 0,
    ):
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


def train_network(
    network: str, out: Path, pairs: Path, affinenet: Path | None, profile: str | None, assignments: list[str]
) -> dict | None:
    """Train ``network`` (affinenet | deformnet) into ``out``, with its learning curves in ``out/curves``.

    affinenet : folder of the AffineNet below a DeformNet
    assignments : ``name=value`` for single settings, the value as in YAML

    Returns what `fit` returns, in the first of several processes; None in the others. Raises ValueError for an unknown
    network or setting, FileNotFoundError for missing pairs or a missing AffineNet.
    """
    if network not in ("affinenet", "deformnet"):
        raise ValueError(f"unknown network {network!r}; choose affinenet or deformnet")
    if not (pairs / "pairs.csv").is_file():
        raise FileNotFoundError(
            f"{pairs} holds no preprocessed pairs (pairs.csv is missing); make them with `dvc repro "
            "preprocess` or notebook 02"
        )
    cfg = settings(network, profile=profile, **dict(map(_assignment, assignments)))
    lightning.seed_everything(cfg.seed, verbose=False)
    if network == "affinenet":
        module = AffineTraining(cfg)
    elif affinenet is None:
        raise ValueError("a DeformNet needs the folder of a trained AffineNet: add --affinenet FOLDER")
    else:
        module = DeformTraining(cfg, load_affinenet(affinenet), load_statistic(affinenet))
    result = fit(
        module, folder_data(cfg, pairs), out, work=root() / "scratch/checkpoints" / network, curves=out / "curves"
    )
    return result if module.global_rank == 0 else None


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: write NAME=VALUE")
    try:
        return name, YAML(typ="safe").load(value)
    except YAMLError:
        raise ValueError(f"--set {text}: {value!r} is not a YAML value") from None
