"""Peak memory of a command with all its processes: python benchmarks/peak_memory.py make repro

Sums the proportional set sizes (memory shared by several processes counts once) of the command and its descendants
again and again; of a single process the system itself keeps the peak. Linux only.
"""

import os
import subprocess
import sys
import time

import psutil


def peak_memory(command: list[str], seconds: float = 1.0, **how) -> tuple[int, float, int]:
    """Exit status, peak memory in GB and time in s of a command.

    seconds : between two looks
    how : as of `subprocess.Popen`
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, **how)
    known, peak = psutil.Process(process.pid), 0
    while True:
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        peak = max(peak, sum(map(_memory, [known, *known.children(recursive=True)])))
        time.sleep(seconds)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, max(peak, used.ru_maxrss * 1024) / 1e9, time.perf_counter() - start


def _memory(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.Error:  # ended meanwhile
        return 0


if __name__ == "__main__":
    code, gb, _ = peak_memory(sys.argv[1:])
    print(f"peak memory of {' '.join(sys.argv[1:])}: {gb:.2f} GB", file=sys.stderr)
    sys.exit(code)
