"""Settings of the whole process that a piece of work needs otherwise, and that are given back as they were."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager


class Borrowed(ContextDecorator):
    """A setting of the process that has ``value`` inside ``with`` blocks, in however many threads at once.

    get, put : read and write it. The first block remembers what was set and the last one brings it back, unless
        somebody else has set it meanwhile. Nothing is written where it has ``value`` already
    """

    def __init__(self, get: Callable, put: Callable, value):
        self._get, self._put, self._value = get, put, value
        self._lock, self._blocks, self._before = threading.Lock(), 0, None

    def __enter__(self) -> None:
        with self._lock:
            if not self._blocks:
                self._before = self._get()
                if self._before != self._value:
                    self._put(self._value)
            self._blocks += 1

    def __exit__(self, *_error) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks and self._before != self._value and self._get() == self._value:
                self._put(self._before)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """torch computes on one core, for this thread alone: for one of several processes that share the cores."""
    import torch  # here: `storage` serves those that do without it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _put_openmp_threads(value: str | None) -> None:
    if value is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    else:
        os.environ["OMP_NUM_THREADS"] = value


# of processes that are started meanwhile
one_openmp_thread = Borrowed(lambda: os.environ.get("OMP_NUM_THREADS"), _put_openmp_threads, "1")
