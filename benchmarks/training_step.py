"""Where the time and the memory of a DeformNet training step go, against the size of the images.

python benchmarks/training_step.py --sizes 64 128 --out results/benchmarks

On a GPU where there is one. Every part is measured on the same phantom pair in a process of its own: the median of
--repeats after a warm-up, and the peak memory of the GPU, or else of the whole process, torch included. ``step`` is a
whole step with the optimiser;
the other parts are some of what it consists of, so they need not add up to it.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from mine_reg.models import AffineNet
from mine_reg.settings import settings
from mine_reg.spatial import resample
from mine_reg.synthetic.phantom import make_pair
from mine_reg.training.augmentation import DISTANCE, augment
from mine_reg.training.modules import DeformTraining
from mine_reg.training.weights import make_network

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def phantom_batch(size: int) -> dict[str, Tensor]:
    """One phantom pair as a training batch, tensors (1, 1, D, H, W)."""
    spacing = 320 / size
    pair = make_pair((size,) * 3, spacing, 1)
    batch = {name: ((getattr(pair, name) + 1000) / 1500).clamp(0, 1) for name in ("fixed", "moving")}
    batch |= {name: getattr(pair, name).float() for name in ("fixed_mask", "moving_mask")}
    batch[DISTANCE] = torch.from_numpy(distance_transform_edt(batch["fixed_mask"].numpy() == 0) * spacing).float()
    return {name: value[None, None].to(DEVICE) for name, value in batch.items()}


def training(profile: str, samples: int | None) -> DeformTraining:
    """DeformNet's training with networks of random weights, without a trainer around it."""
    cfg = settings("deformnet", profile=profile, loss="midiceregnet", samples=samples)
    module = (
        DeformTraining(cfg, make_network(AffineNet, vars(settings("affinenet", profile=profile))), None)
        .to(DEVICE)
        .train()
    )
    type(module).global_step = 1  # no diagnostics, and no trainer to ask
    module._log = lambda *_, **__: None
    return module


@torch.no_grad()
def prepared(size: int, module: DeformTraining) -> dict:
    """What the parts take from each other: the batch, its registration so far and the voxels that MINE looks at."""
    batch = phantom_batch(size)
    theta, dvf = module.predict(batch["fixed"], batch["moving"])
    return {"batch": batch, "theta": theta, "dvf": dvf, "chosen": module.draw_voxels(batch, module.cfg.samples)}


def parts(module: DeformTraining, batch: dict, theta: Tensor, dvf: Tensor, chosen: Tensor) -> dict[str, Callable]:
    """Functions without arguments, by the names of the parts."""
    cfg, fixed, moving, optimiser = module.cfg, batch["fixed"], batch["moving"], torch.optim.Adam(module.parameters())
    dvf.requires_grad_()

    def step():
        optimiser.zero_grad()
        module.training_step(batch, 0).backward()
        optimiser.step()

    def loss():
        terms, _ = module.loss_terms(batch, theta, dvf, chosen)
        sum(terms.values()).backward()

    return {
        "step": step,
        "augmentation": lambda: augment(batch, cfg.shift_voxels, cfg.flip_axes),
        "drawing voxels": lambda: module.draw_voxels(batch, cfg.samples),
        "AffineNet": torch.no_grad()(lambda: module.affinenet.predict(fixed, moving)),
        "one pass without gradients": torch.no_grad()(lambda: module.network.predict(fixed, moving, theta, 1)),
        "resampling": torch.no_grad()(lambda: resample(moving, theta, dvf)),
        "network, forward and backward": lambda: module.network(fixed, moving).sum().backward(),
        "loss, forward and backward": loss,
    }


def measure(part: Callable, repeats: int) -> dict[str, float]:
    """Median seconds of a part, and the peak memory in GB since this process began."""
    seconds = []
    for _ in range(repeats + 1):  # the first is a warm-up
        start = time.perf_counter()
        part()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = (
        torch.cuda.max_memory_allocated()
        if DEVICE == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    )
    return {"seconds": statistics.median(seconds[1:]), "peak_gb": peak / 1e9}


def in_a_process(part: str, size: int, folder: str):
    """What a process that measures one part, or prepares for all of them in ``folder``, says."""
    command = [sys.executable, *sys.argv, "--sizes", str(size), "--one", part, f"{folder}/prepared.pt"]
    return json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout.splitlines()[-1]
    )


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
parser.add_argument("--profile", default="laptop")
parser.add_argument("--samples", type=int, help="voxels that MINE sees; by default those of the profile")
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--one", nargs=2, metavar=("PART", "FILE"), help=argparse.SUPPRESS)
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)
if arguments.one:
    name, file = arguments.one
    module = training(arguments.profile, arguments.samples)
    if name == "prepare":
        given = prepared(arguments.sizes[0], module)
        torch.save(given, file)
        print(json.dumps(list(parts(module, **given))))
    else:
        print(
            json.dumps(measure(parts(module, **torch.load(file, DEVICE, weights_only=True))[name], arguments.repeats))
        )
else:
    rows = []
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            rows += [
                {"size": size, "part": part} | in_a_process(part, size, folder)
                for part in in_a_process("prepare", size, folder)
            ]
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    table = pd.DataFrame(rows).assign(threads=arguments.threads, device=device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "training_step.csv", index=False, float_format="%.4g")
    print(f"{device}, {arguments.threads} threads")
    print(
        table.pivot(index="part", columns="size", values=["seconds", "peak_gb"])
        .loc[table["part"].unique()]
        .to_string(float_format="%.4g")
    )
