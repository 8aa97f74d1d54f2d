"""Trained networks of one method as a single file: AffineNet, DeformNet, that of the fine level, T, their settings and where they come from."""

import json
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mine_reg.models import AffineNet, DeformNet, StatisticNet
from mine_reg.registration import Registration
from mine_reg.weights import load_affinenet, load_deformnet, load_statistic, make_network

SHIPPED = Path(__file__).with_name("shipped")
_KINDS = {"affinenet": AffineNet, "deformnet": DeformNet, "fine": DeformNet}


class Weights(NamedTuple):
    """What registers a pair, ready for inference on the CPU; ``fine`` (see `fine_level`) and T may be None."""

    registration: Registration
    fine: DeformNet | None
    statistic: StatisticNet | None
    recipe: dict


def pack(affinenet: Path, deformnet: Path, path: Path, recipe: dict, fine: Path | None = None) -> None:
    """Write the networks in two or three folders, as `fitting.fit` leaves them, and the T of the last one to one safetensors file.

    recipe : what a user wants to know of the weights: data, seed, code version, scores; kept in the file's header
    """
    tensors, header = {}, {"recipe": json.dumps(recipe)}
    folders = {"affinenet": affinenet, "deformnet": deformnet} | ({"fine": fine} if fine is not None else {})
    for name, folder in folders.items():
        network = (load_affinenet if name == "affinenet" else load_deformnet)(folder)
        tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        header[name] = (Path(folder) / "settings.json").read_text(encoding="utf-8")
    if (statistic := load_statistic(fine or deformnet)) is not None:
        tensors |= {f"statistic.{key}": value for key, value in statistic.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=header)


def unpack(weights: str | Path) -> Weights:
    """The networks of a shipped name or of a file made by `pack`.

    Raises FileNotFoundError when there is none, and ValueError when the file is damaged or holds something else.
    """
    path = Path(weights)
    if not path.suffix:
        path = SHIPPED / f"{weights}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.safetensors"))) or "none yet"
        raise FileNotFoundError(f"there are no weights {str(weights)!r}; the package holds {known}; or give a file that `python -m mine_reg.ship` "
                                "has made")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safetensors' own object
        parts = {name: {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
                 for name in (*_KINDS, "statistic")}
        networks = {name: make_network(kind, json.loads(header[name])) for name, kind in _KINDS.items() if name in header or name != "fine"}
        for name, network in networks.items():
            network.load_state_dict(parts[name])
            network.eval()
        statistic = StatisticNet(*parts["statistic"]["entrance_moving.0.weight"].shape) if parts["statistic"] else None
        if statistic:
            statistic.load_state_dict(parts["statistic"])
        recipe = json.loads(header["recipe"])
    except (SafetensorError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} does not hold the weights of a registration ({reason}); get or make it again") from None
    return Weights(Registration(networks["affinenet"], networks["deformnet"]), networks.get("fine"), statistic, recipe)
