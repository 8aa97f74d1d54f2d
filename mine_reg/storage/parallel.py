"""Many independent pieces of work, each on one core: in processes of this machine or on a Dask cluster."""

from collections.abc import Callable, Hashable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack

import joblib
from joblib.externals.loky import ProcessPoolExecutor

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


def outliving(
    calls: dict[Hashable, tuple], workers: int, killed: Callable[[Hashable], object]
) -> Iterator[tuple[Hashable, object]]:
    """`in_parallel`, which goes on where a process is killed, as by a system whose memory has run out.

    What is not done by then gets a process of its own, one after the other on all cores, and ``killed(name)`` for a
    result where that is killed, too.
    """
    left = dict(calls)
    try:
        for name, result in in_parallel(calls, workers):
            del left[name]
            yield name, result
        return
    except BrokenProcessPool:
        pass
    for name, call in left.items():
        with ProcessPoolExecutor(max_workers=1) as alone:
            try:
                result = alone.submit(*call).result()
            except BrokenProcessPool:
                result = killed(name)
        yield name, result


@one_openmp_thread  # of the processes that a call starts, as a notebook's kernel
@one_torch_thread()
def _call(name: Hashable, function: Callable, *arguments) -> tuple[Hashable, object]:
    return name, function(*arguments)
