"""Peak memory of a command with all its processes: python benchmarks/peak_memory.py make repro

Sums the proportional set sizes (memory shared by several processes counts once) of the command and its descendants
every second; Linux only.
"""

import subprocess
import sys
import time

import psutil

process = subprocess.Popen(sys.argv[1:])
known, peak = psutil.Process(process.pid), 0
while process.poll() is None:
    total = 0
    for one in [known, *known.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:  # ended meanwhile
            continue
    peak = max(peak, total)
    time.sleep(1)
print(f"peak memory of {' '.join(sys.argv[1:])}: {peak / 1e9:.2f} GB", file=sys.stderr)
sys.exit(process.returncode)
