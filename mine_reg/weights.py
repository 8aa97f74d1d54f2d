"""Trained networks on disk: ``weights.safetensors``, the ``settings.json`` they were trained with, and ``statistic.safetensors``."""

import inspect
import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from mine_reg.models import AffineNet, DeformNet, StatisticNet


def make_network(kind: type[nn.Module], settings: dict) -> nn.Module:
    """A new AffineNet or DeformNet whose arguments are found by their names in ``settings``, which may hold more.

    Raises ValueError that names the argument when one is missing.
    """
    names = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    missing = [name for name in names if name not in settings]
    if missing:
        raise ValueError(f"the settings of {kind.__name__} lack {', '.join(missing)}; they were written by another version: train it again")
    return kind(**{name: settings[name] for name in names})


def save_network(network: nn.Module, statistic: StatisticNet | None, settings: dict, folder: Path) -> None:
    """Write a network, the T that it was trained against (if any) and its settings to ``folder``, which is made if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / "weights.safetensors")
    if statistic is not None:
        save_file(statistic.state_dict(), folder / "statistic.safetensors")
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_affinenet(folder: Path) -> AffineNet:
    """The AffineNet in ``folder``, ready for inference. Raises FileNotFoundError when there is none."""
    return _restore(AffineNet, folder)


def load_deformnet(folder: Path) -> DeformNet:
    """The DeformNet in ``folder``, ready for inference. Raises FileNotFoundError when there is none."""
    return _restore(DeformNet, folder)


def load_statistic(folder: Path) -> StatisticNet | None:
    """The statistic network T that was trained together with the network in ``folder``; its sizes are those of its weights.

    None when the similarity was not MINE, which alone has a T.
    """
    path = Path(folder) / "statistic.safetensors"
    if not path.is_file():
        return None
    state = load_file(path)
    statistic = StatisticNet(*state["entrance_moving.0.weight"].shape)
    statistic.load_state_dict(state)
    return statistic


def _restore(kind: type[nn.Module], folder: Path) -> nn.Module:
    path = Path(folder) / "settings.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no trained network (settings.json is missing); train it first")
    network = make_network(kind, json.loads(path.read_text(encoding="utf-8")))
    network.load_state_dict(load_file(Path(folder) / "weights.safetensors"))
    return network.eval()
