"""Where the time of a DeformNet training step goes, and its peak memory, against the size of the images.

python benchmarks/training_step.py --sizes 64 128 --out results/benchmarks

On a GPU where there is one. Every size is a process of its own. The parts are timed one after the other on the same phantom pair, each the median of
--repeats; ``step`` is a whole step with the optimiser, so the parts need not add up to it. Peak memory is the GPU's, or else the process's.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt

from mine_reg.models import AffineNet
from mine_reg.phantom import make_pair
from mine_reg.spatial import resample
from mine_reg.study import settings
from mine_reg.training import DISTANCE, DeformTraining, augment
from mine_reg.weights import make_network


def phantom_batch(size: int, device: str) -> dict:
    """One phantom pair as a training batch, tensors (1, 1, D, H, W)."""
    spacing = 320 / size
    pair = make_pair((size,) * 3, spacing, 1)
    batch = {name: ((getattr(pair, name) + 1000) / 1500).clamp(0, 1) for name in ("fixed", "moving")}
    batch |= {name: getattr(pair, name).float() for name in ("fixed_mask", "moving_mask")}
    batch[DISTANCE] = torch.from_numpy(distance_transform_edt(batch["fixed_mask"].numpy() == 0) * spacing).float()
    return {name: value[None, None].to(device) for name, value in batch.items()}


def measure(size: int, profile: str, repeats: int, samples: int | None) -> dict[str, float]:
    """Seconds of each part, and ``peak_gb``."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cfg = settings("deformnet", profile=profile, loss="midiceregnet", samples=samples)
    module = DeformTraining(cfg, make_network(AffineNet, vars(settings("affinenet", profile=profile))), None).to(device).train()
    type(module).global_step = 1  # no diagnostics, and no trainer to ask
    module._log = lambda *_, **__: None
    batch, optimiser = phantom_batch(size, device), torch.optim.Adam(module.parameters())
    fixed, moving = batch["fixed"], batch["moving"]
    theta, dvf = (value.detach() for value in module.register(fixed, moving))
    chosen = module.draw_voxels(batch, cfg.samples)

    def step():
        optimiser.zero_grad()
        module.training_step(batch, 0).backward()
        optimiser.step()

    def backward():
        terms, _ = module.loss_terms(batch, theta, dvf.requires_grad_(), chosen)
        sum(terms.values()).backward()

    def network_alone():
        module.network(fixed, moving).sum().backward()

    parts = {"step": step, "augmentation": lambda: augment(batch, cfg.shift_voxels, cfg.flip_axes), "drawing voxels": lambda: module.draw_voxels(batch, cfg.samples),
             "AffineNet": lambda: module.affinenet.register(fixed, moving), "one pass without gradients": lambda: module.network.register(fixed, moving, theta, 1),
             "resampling": lambda: resample(moving, theta, dvf), "network, forward and backward": network_alone, "loss, forward and backward": backward}
    seconds = {}
    for name, part in parts.items():
        gradients = name in ("step", "network, forward and backward", "loss, forward and backward")
        with torch.set_grad_enabled(gradients):
            seconds[name] = _median(part, repeats)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return seconds | {"peak_gb": peak / 1e9}


def _median(part, repeats: int) -> float:
    taken = []
    for _ in range(repeats + 1):  # the first is a warm-up
        start = time.perf_counter()
        part()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
parser.add_argument("--profile", default="laptop")
parser.add_argument("--samples", type=int, help="voxels that MINE sees; by default those of the profile")
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
arguments = parser.parse_args()
if arguments.one:
    torch.set_num_threads(arguments.threads)
    print(json.dumps(measure(arguments.sizes[0], arguments.profile, arguments.repeats, arguments.samples)))
else:
    rows = []
    for size in arguments.sizes:
        command = [sys.executable, __file__, "--one", "--sizes", str(size), "--profile", arguments.profile, "--repeats", str(arguments.repeats),
                   "--threads", str(arguments.threads), "--out", str(arguments.out), *(["--samples", str(arguments.samples)] if arguments.samples else [])]
        said = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
        rows.append({"size": size, "threads": arguments.threads, "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
                    | json.loads(said.splitlines()[-1]))
    table = pd.DataFrame(rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "training_step.csv", index=False, float_format="%.4g")
    print(table.set_index("size").T.to_string())
