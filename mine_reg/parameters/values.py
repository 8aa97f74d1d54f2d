"""What each setting can be: the names of params.yaml, and of each its type and range, which pydantic checks.

Words that a setting chooses from (similarity, pooling, ...) are text here; where they are used, an unknown one is told
what there is.
"""

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

# no text for a number, no number for a truth value, nothing that is not finite but where it is said
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _rising(window: list) -> list:
    if not window[0] < window[1]:
        raise ValueError("the lower end comes first")
    return window


def _some(workers: int) -> int:
    if workers < 1 and workers != -1:
        raise ValueError("give how many processes, or -1 for all cores")
    return workers


def _device(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError("choose from cpu, cuda, cuda:0, cuda:1, ...")
    return name


def _each_once(seeds: list) -> list:
    if len(set(seeds)) < len(seeds):
        raise ValueError("each seed stands once, or one training counts twice")
    return seeds


Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]  # of Adam
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Distance = Annotated[float, Field(ge=0, allow_inf_nan=True)]  # .inf: no limit
OrAll = Literal[float("inf")]  # .inf: all that there is
Workers = Annotated[int, AfterValidator(_some)]
Device = Annotated[str, AfterValidator(_device)]
Window = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_rising)]
Axis = Annotated[int, Field(ge=0, le=2)]
Seeds = Annotated[list[Whole], AfterValidator(_each_once)]
Loss = Literal["miregnet", "midiceregnet"]
Changes = dict[str, Any]  # of a network's settings, which are checked as such


class Affine(BaseModel):
    """Limits of random affine maps, see params.yaml."""

    model_config = _STRICT
    degrees: Weight
    translation: Weight
    scale: Annotated[float, Field(ge=0, lt=1)]


class Split(BaseModel):
    """Pairs of each part."""

    model_config = _STRICT
    train: Count
    validation: Count
    test: Count


_NETWORK = {
    "lambda_mine": Weight,
    "lambda_dice": Weight,
    "similarity": str,
    "bound": str,
    "centring": Weight,
    "descriptor": str,
    "channels": Annotated[list[Count], Field(min_length=1)],
    "passes": Count,
    "region_mm": Distance,
    "statistic_width": Count,
    "learning_rate": Rate,
    "statistic_learning_rate": Rate,
    "weight_decay": Weight,
    "warmup_steps": Whole,
    "gradient_clip": Weight,
    "flip_axes": list[Axis],
    "training_subjects": Count | None,
    "patience": Count | None,
    "diagnose_every": Count,
    "accelerator": str,
    "devices": Count | Literal["auto"],
    "nodes": Count,
    "precision": str,
    "epochs": Count,
    "batch_size": Count,
    "samples": OrAll | Annotated[int, Field(ge=2)],
    "shift_voxels": Whole,
    "validate_every": Count,
    "in_memory": bool,
    "loader_workers": Whole,
}
TYPES = {
    "data": {
        "source": str,
        "manifest": Path | str,
        "scans": Path | str,
        "workers": Workers,
        "device": Device,
        "pairs": Count,
    },
    "preprocess": {
        "window_hu": Window,
        "start": str,
        "workers": Workers,
        "size": Annotated[list[Count], Field(min_length=3, max_length=3)],
        "spacing_mm": Positive,
        "split": Split,
    },
    "estimator": {
        "dimensions": list[Count],
        "correlations": list[Annotated[float, Field(gt=-1, lt=1)]],
        "batch": Annotated[int, Field(ge=2)],
        "learning_rate": Rate,
        "width": Count,
        "bins": Annotated[int, Field(ge=2)],
        "shifts_voxels": list[Whole],
        "steps": Count,
    },
    "train": {"workers": Workers},
    "affinenet": _NETWORK
    | {
        "pooling": str,
        "last_norm": bool,
        "coordinates": bool,
        "largest_size": OrAll | Count,
        "random_affine": Affine,
    },
    "deformnet": _NETWORK
    | {
        "mu": Weight,
        "local_contrast": bool,
        "first_stride": Literal[1, 2],
        "smoothing": Weight,
        "partial_affine": Share,
    },
    "experiments": {"workers": Workers, "scheduler": str | None},
    "ablation": {"affinenet": dict[str, Changes], "deformnet": dict[str, Changes], "budget": dict[str, Changes]},
    "sweep": {"training_subjects": Count, "mu": list[Weight], "lambda_dice": list[Weight], "budget": Changes},
    "table2": {
        "similarities": dict[str, Changes],
        "trials": dict[str, dict[str, list]],
        "training_subjects": Count,
        "folding_percent": Weight,
        "seeds": dict[Loss, Seeds],
        "cases": dict[str, dict[Loss, Seeds]],
        "margin_mm": Positive,
        "accuracy_mm": Positive,
        "budget": dict[str, Changes],
    },
    "seeds": {"seeds": Annotated[Seeds, Field(min_length=1)]},
    "as_published": {
        "seeds": Annotated[Seeds, Field(min_length=1)],
        "affinenet": Changes,
        "deformnet": Changes,
        "tv": list[str],
        "budget": dict[str, Changes],
    },
    "ants": {
        "transform": str,
        "threads": Count,
        "workers": Workers,
        "iterations": Annotated[list[Whole], Field(min_length=1)],
        "long_iterations": Annotated[list[Whole], Field(min_length=1)],
    },
    "evaluate": {"device": Literal["auto"] | Device, "recovery": Affine},
    "statistics": {"alpha": Annotated[float, Field(gt=0, lt=0.5)]},
    "figures": {
        "pair": str | None,
        "planes": Annotated[list[Literal["sagittal", "coronal", "axial"]], Field(min_length=1)],
        "window_hu": Window,
        "difference_hu": Positive,
        "dpi": Positive,
    },
}
NAMES = {section: tuple(types) for section, types in TYPES.items()}
OF_A_RUN = {"seed": Whole, "loss": Loss}
# a setting of one of the networks, or of both, means the same wherever it is changed
OF_A_NETWORK = TYPES["affinenet"] | TYPES["deformnet"] | OF_A_RUN


_ADVICE = {
    "bool_type": "; write True or False with papermill's -p, true or false in YAML",
    "string_type": "; papermill's -r passes as text what looks like a number",
}


def check_value(value, section: str, name: str, where: str) -> None:
    """Raise ValueError, one sentence that begins with ``where``, for what ``name`` of ``section`` cannot be; a section
    of None stands for settings of a network, be it which it may."""
    try:
        _adapter(section, name).validate_python(_plain(value))
    except ValidationError as found:
        error = found.errors()[-1]  # of a union the last type is the one with words
        place = ".".join([where, *(str(part) for part in error["loc"] if not _of_a_union(part))])
        if error["type"] == "missing":
            raise ValueError(f"{place} is missing") from None
        said = error["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        said = said[0].lower() + said[1:].split(" after validation")[0]
        raise ValueError(f"{place}: {said}, not {error['input']!r}{_ADVICE.get(error['type'], '')}") from None


def _plain(value):
    """What is typed by hand may be a tuple or a number of numpy."""
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, tuple) else value


@cache
def _adapter(section: str | None, name: str) -> TypeAdapter:
    kind = (OF_A_NETWORK if section is None else TYPES[section] | OF_A_RUN)[name]
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)  # which has its own
    return TypeAdapter(kind, config=None if is_model else _STRICT)


def _of_a_union(part) -> bool:
    return isinstance(part, str) and ("literal[" in part or "constrained-" in part)
