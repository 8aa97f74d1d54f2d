"""Trained networks on disk: ``weights.safetensors``, the ``settings.json`` they were trained with, and ``statistic.safetensors``."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from mine_reg.models import AffineNet, DeformNet, StatisticNet


def save_network(network: nn.Module, statistic: StatisticNet, settings: dict, folder: Path) -> None:
    """Write a network, the T that it was trained against and its settings to ``folder``, which is made if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / "weights.safetensors")
    save_file(statistic.state_dict(), folder / "statistic.safetensors")
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_affinenet(folder: Path) -> AffineNet:
    """The AffineNet in ``folder``, ready for inference. Raises FileNotFoundError when there is none."""
    settings = _settings(folder)
    return _restore(AffineNet(settings["channels"], settings["largest_size"], settings["passes"]), folder)


def load_deformnet(folder: Path) -> DeformNet:
    """The DeformNet in ``folder``, ready for inference. Raises FileNotFoundError when there is none."""
    settings = _settings(folder)
    return _restore(DeformNet(settings["channels"], settings["first_stride"], settings["passes"]), folder)


def load_statistic(folder: Path) -> StatisticNet:
    """The statistic network T that was trained together with the network in ``folder``; its sizes are those of its weights."""
    state = load_file(Path(folder) / "statistic.safetensors")
    statistic = StatisticNet(*state["entrance_moving.0.weight"].shape)
    statistic.load_state_dict(state)
    return statistic


def _settings(folder: Path) -> dict:
    path = Path(folder) / "settings.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no trained network (settings.json is missing); train it first")
    return json.loads(path.read_text(encoding="utf-8"))


def _restore(network: nn.Module, folder: Path) -> nn.Module:
    network.load_state_dict(load_file(Path(folder) / "weights.safetensors"))
    return network.eval()
