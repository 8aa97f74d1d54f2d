"""Trained networks on disk: as a folder that a training leaves, and as the single file that registers a pair.

A folder holds ``weights.safetensors``, the ``settings.json`` it was trained with, and ``statistic.safetensors``. The
single file holds AffineNet, DeformNet, that of the fine level, T, their settings and where they come from.
"""

import errno
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mine_reg.models import AffineNet, DeformNet, StatisticNet
from mine_reg.registration import Registration
from mine_reg.storage.writing import whole_file


def make_network(kind: type[nn.Module], settings: dict) -> nn.Module:
    """A new AffineNet or DeformNet whose arguments are found by their names in ``settings``, which may hold more.

    Raises ValueError that names the argument when one is missing.
    """
    if missing := _lacking(kind, settings):
        raise ValueError(
            f"the settings of {kind.__name__} lack {', '.join(missing)}; they were written by another "
            "version: train it again"
        )
    return kind(**{name: settings[name] for name in _arguments(kind)})


def _arguments(kind: type[nn.Module]) -> list[str]:
    return [name for name in inspect.signature(kind.__init__).parameters if name != "self"]


def _lacking(kind: type[nn.Module], settings: dict) -> list[str]:
    return [name for name in _arguments(kind) if name not in settings]


def save_network(network: nn.Module, statistic: StatisticNet | None, settings: dict, folder: Path) -> None:
    """Write a network, the T that it was trained against (if any) and its settings to ``folder``, which is made if
    needed."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(network.state_dict(), folder / "weights.safetensors")
    if statistic is not None:
        _save(statistic.state_dict(), folder / "statistic.safetensors")
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, read back before it takes its place. Raises OSError that names it when it is not whole."""
    with whole_file(path) as beside:
        try:
            save_file(tensors, beside, metadata=metadata)
            whole = load_file(beside).keys() == tensors.keys()
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error).splitlines()[0], str(path)) from None
        if not whole:
            raise OSError(errno.EIO, "could not be written whole", str(path))


def restore_network(network: nn.Module, statistic: StatisticNet | None, folder: Path) -> None:
    """Load what `save_network` wrote into a network, and into the T that it was trained against (if any)."""
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    if statistic is not None:
        statistic.load_state_dict(load_file(folder / "statistic.safetensors"))


def load_affinenet(folder: Path) -> AffineNet:
    """The AffineNet in ``folder``, ready for inference. Raises FileNotFoundError when there is none, and
    ValueError for another network and for weights that are not finite."""
    return _restore(AffineNet, folder)


def load_deformnet(folder: Path) -> DeformNet:
    """The DeformNet in ``folder``, ready for inference. Raises FileNotFoundError when there is none, and
    ValueError for another network and for weights that are not finite."""
    return _restore(DeformNet, folder)


def load_statistic(folder: Path) -> StatisticNet | None:
    """The statistic network T that was trained together with the network in ``folder``; its sizes are those of its
    weights.

    None when the similarity was not MINE, which alone has a T.
    """
    path = Path(folder) / "statistic.safetensors"
    if not path.is_file():
        return None
    return _statistic(load_file(path))


def _restore(kind: type[nn.Module], folder: Path) -> nn.Module:
    path = Path(folder) / "settings.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no trained network (settings.json is missing); train it first")
    settings = json.loads(path.read_text(encoding="utf-8"))
    other = DeformNet if kind is AffineNet else AffineNet
    if _lacking(kind, settings) and not _lacking(other, settings):
        raise ValueError(f"{folder} holds a {other.__name__}, where a {kind.__name__} is needed; give another folder")
    network, weights = make_network(kind, settings), load_file(Path(folder) / "weights.safetensors")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise ValueError(f"the weights in {folder} are not finite: its training diverged; train again, more slowly")
    network.load_state_dict(weights)
    return network.eval()


def load_registration(affinenet: Path, deformnet: Path, device: str | torch.device = "cpu") -> Registration:
    """The networks in two folders written by the training notebooks. Raises FileNotFoundError when one is missing."""
    return Registration(load_affinenet(affinenet), load_deformnet(deformnet)).eval().to(device)


SHIPPED = Path(__file__).parents[1] / "shipped_weights"
_KINDS = {"affinenet": AffineNet, "deformnet": DeformNet, "fine": DeformNet}


class RegistrationWeights(NamedTuple):
    """What registers a pair, ready for inference on the CPU; ``fine`` (see `registration`) and T may be None."""

    registration: Registration
    fine: DeformNet | None
    statistic: StatisticNet | None
    provenance: dict


def save_weights_file(affinenet: Path, deformnet: Path, path: Path, provenance: dict, fine: Path | None = None) -> None:
    """Write the networks in two or three folders, as `fit.fit` leaves them, and the T of the last one to one
    safetensors file.

    provenance : what a user wants to know of the weights: data, seed, code version, scores; kept in the file's header
    """
    tensors, header = {}, {"recipe": json.dumps(provenance)}
    folders = {"affinenet": affinenet, "deformnet": deformnet} | ({"fine": fine} if fine is not None else {})
    for name, folder in folders.items():
        network = (load_affinenet if name == "affinenet" else load_deformnet)(folder)
        tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        header[name] = (Path(folder) / "settings.json").read_text(encoding="utf-8")
    if (statistic := load_statistic(fine or deformnet)) is not None:
        tensors |= {f"statistic.{key}": value for key, value in statistic.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(tensors, path, metadata=header)


def weights_path(weights: str | Path) -> Path:
    """The file of weights that ship with the package under this name, or the file itself.

    Raises FileNotFoundError when there is none.
    """
    path = Path(weights)
    if not path.suffix:
        path = SHIPPED / f"{weights}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.safetensors"))) or "none yet"
        raise FileNotFoundError(
            f"there are no weights {str(weights)!r}; the package holds {known}; or give a file that "
            "`python -m mine_reg.experiments.train_shipped_weights` has made"
        )
    return path


def load_weights_file(weights: str | Path) -> RegistrationWeights:
    """The networks of a shipped name or of a file made by `save_weights_file`.

    Raises FileNotFoundError when there is none, and ValueError when the file is damaged or holds something else.
    """
    path = weights_path(weights)
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safetensors' own object
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise ValueError("values that are not finite")
        networks = {name: _network(kind, name, header, tensors) for name, kind in _KINDS.items() if name in header}
        registration = Registration(networks["affinenet"], networks["deformnet"])
        state = _part("statistic", tensors)
        statistic = _filled(lambda: StatisticNet(*_sizes(state)), state) if state else None
        provenance = json.loads(header["recipe"])
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, OSError, RuntimeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise ValueError(
            f"{path} does not hold the weights of a registration ({reason}); get or make it again"
        ) from None
    return RegistrationWeights(registration, networks.get("fine"), statistic, provenance)


def _network(kind: type[nn.Module], name: str, header: dict[str, str], tensors: dict[str, Tensor]) -> nn.Module:
    return _filled(lambda: make_network(kind, json.loads(header[name])), _part(name, tensors)).eval()


class _WithoutFirstWeights(TorchFunctionMode):
    """Leaves out torch.nn.init: what it does to tensors without values loads torch's compiler, a second of every
    start."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return function(*args, **(kwargs or {}))


def _filled(make: Callable[[], nn.Module], state: dict[str, Tensor]) -> nn.Module:
    """The network that ``make`` makes, with these weights; first weights, which take random numbers and the types and
    devices that the process has set, are never there."""
    with torch.device("meta"), _WithoutFirstWeights():
        network = make()
    network.load_state_dict(state, assign=True)
    return network.float()


def _part(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors of the file that belong to one network."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def _statistic(state: dict[str, Tensor]) -> StatisticNet | None:
    """T from its weights, which tell its sizes; None from none."""
    if not state:
        return None
    statistic = StatisticNet(*_sizes(state))
    statistic.load_state_dict(state)
    return statistic


def _sizes(state: dict[str, Tensor]) -> torch.Size:
    """Width and inputs of a T."""
    return state["entrance_moving.0.weight"].shape
