"""How the process of a command behaves, which belongs to nobody else."""

import atexit
import gc
import os


def be_brief_and_passive() -> None:
    """To be called before torch is imported: threads sleep while they wait for each other, instead of taking the cores
    from whatever else runs beside them; and memory is not searched for garbage at start and end, where there is none.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.set_threshold(100_000, 20, 100)  # importing torch makes many objects, all of which stay
    atexit.register(gc.freeze)  # the system takes all memory back at once
