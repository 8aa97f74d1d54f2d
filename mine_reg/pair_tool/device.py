"""Where the networks run."""

import re

import torch


def chosen_device(device: str | None) -> str:
    """``cpu``, ``cuda`` or ``cuda:N``; None: a GPU where there is one. Raises ValueError for one that is not there."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    if not (match := re.fullmatch(r"cuda(?::(\d+))?", device)):
        raise ValueError(f"there is no device {device!r}; give cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise ValueError(f"device {device}: PyTorch finds no GPU here; leave the device out, or give cpu")
    if int(match[1] or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device}: PyTorch finds {torch.cuda.device_count()} GPU(s) here, numbered from 0")
    return device
