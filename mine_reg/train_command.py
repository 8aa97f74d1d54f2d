"""What `mine-reg train` does: the training notebooks' work from the command line, in one process or many."""

from pathlib import Path

import lightning
from ruamel.yaml import YAML, YAMLError

from mine_reg.fitting import fit
from mine_reg.pair_data import folder_data
from mine_reg.study import root, settings
from mine_reg.training import AffineTraining, DeformTraining
from mine_reg.weights import load_affinenet, load_statistic


def train_network(network: str, out: Path, pairs: Path, affinenet: Path | None, profile: str | None, assignments: list[str]) -> dict | None:
    """Train ``network`` (affinenet | deformnet) into ``out``, with its learning curves in ``out/curves``.

    affinenet : folder of the AffineNet below a DeformNet
    assignments : ``name=value`` for single settings, the value as in YAML

    Returns what `fit` returns, in the first of several processes; None in the others. Raises ValueError for an unknown network
    or setting, FileNotFoundError for missing pairs or a missing AffineNet.
    """
    if network not in ("affinenet", "deformnet"):
        raise ValueError(f"unknown network {network!r}; choose affinenet or deformnet")
    if not (pairs / "pairs.csv").is_file():
        raise FileNotFoundError(f"{pairs} holds no preprocessed pairs (pairs.csv is missing); make them with `dvc repro preprocess` or notebook 02")
    cfg = settings(network, profile=profile, **dict(map(_assignment, assignments)))
    lightning.seed_everything(cfg.seed, verbose=False)
    if network == "affinenet":
        module = AffineTraining(cfg)
    elif affinenet is None:
        raise ValueError("a DeformNet needs the folder of a trained AffineNet: add --affinenet FOLDER")
    else:
        module = DeformTraining(cfg, load_affinenet(affinenet), load_statistic(affinenet))
    result = fit(module, folder_data(cfg, pairs), out, work=root() / "scratch/checkpoints" / network, curves=out / "curves")
    return result if module.global_rank == 0 else None


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: write NAME=VALUE")
    try:
        return name, YAML(typ="safe").load(value)
    except YAMLError:
        raise ValueError(f"--set {text}: {value!r} is not a YAML value") from None
