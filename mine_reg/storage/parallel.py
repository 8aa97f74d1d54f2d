"""Many independent pieces of work, each on one core: in processes of this machine or on a Dask cluster."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack

import joblib

from mine_reg.storage.borrowing import one_openmp_thread, one_torch_thread


def in_parallel(
    calls: dict[Hashable, tuple], workers: int, scheduler: str | None = None
) -> Iterator[tuple[Hashable, object]]:
    """Names and results of ``name: (function, *arguments)``, as they come.

    workers : processes, -1 for as many as there are cores; not used with a scheduler
    scheduler : address of a Dask scheduler whose workers see the same files, e.g. ``tcp://host:8786``

    Each has one thread: several at once would only wait for each other. An exception of one ends all.
    """
    if not calls:
        return
    with ExitStack() as stack:
        if scheduler:
            from dask.distributed import Client  # of the study's packages alone

            stack.enter_context(Client(scheduler))
            stack.enter_context(joblib.parallel_config(backend="dask"))
        else:
            at_once = min(joblib.effective_n_jobs(workers), len(calls))
            stack.enter_context(joblib.parallel_config(backend="loky", n_jobs=at_once))
        tasks = (joblib.delayed(_call)(name, *call) for name, call in calls.items())
        yield from joblib.Parallel(return_as="generator_unordered")(tasks)


@one_openmp_thread  # of the processes that a call starts, as a notebook's kernel
@one_torch_thread()
def _call(name: Hashable, function: Callable, *arguments) -> tuple[Hashable, object]:
    return name, function(*arguments)
