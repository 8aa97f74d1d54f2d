"""The process that registers a pair may have set anything: the answer does not depend on it, and it stays as it is.

What torch and NumPy keep for each thread is at their defaults during the call. The precision of torch's products is one
for the process; where it was lowered, it is full until the call ends, for other threads too. What the process has
decided about threads, random numbers, warnings, signals and folders is neither used nor changed. Types and devices are
given wherever a tensor is made.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch

from mine_reg.storage.borrowing import Borrowed

_FORKED_AND_NOT_STARTED = 0x40  # PF_FORKNOEXEC of Linux
_here = threading.local()
_forked = False


def undisturbed(function: Callable) -> Callable:
    """``function``, independent of what the process has set."""

    @functools.wraps(function)
    def call(*given, **named):
        if getattr(_here, "inside", False):
            return function(*given, **named)
        if not _is_copy():
            return _call(function, *given, **named)
        # of its OpenMP threads a forked process has only the names, and would wait for them; a new thread gets its own
        with ThreadPoolExecutor(1) as fresh:
            return fresh.submit(_call, function, *given, **named).result()

    return call


def _call(function: Callable, *given, **named):
    with _defaults():
        return function(*given, **named)


@contextmanager
def _defaults() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for precision in _PRECISIONS:
            stack.enter_context(precision)
        _here.inside = True
        stack.callback(setattr, _here, "inside", False)
        yield


def _precision(of, default: str) -> Borrowed:
    """One of torch's settings of how exact products of float32 are."""

    def get() -> str:
        return "ieee" if of.fp32_precision == "none" else of.fp32_precision

    def put(value: str) -> None:
        of.fp32_precision = "none"  # as a more general setting says
        if get() != value:
            of.fp32_precision = value

    return Borrowed(get, put, default)


_PRECISIONS = (
    _precision(torch.backends.mkldnn.matmul, "ieee"),
    _precision(torch.backends.mkldnn.conv, "ieee"),
    _precision(torch.backends.cuda.matmul, "ieee"),
    _precision(torch.backends.cudnn.conv, "tf32"),
)


def _is_copy() -> bool:
    """Whether this process is a fork of another one."""
    try:
        flags = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[6])
    except (OSError, ValueError, IndexError):  # no Linux
        return _forked
    return bool(flags & _FORKED_AND_NOT_STARTED)


def _note_fork() -> None:
    global _forked
    _forked = True
    _here.inside = False


os.register_at_fork(after_in_child=_note_fork)
