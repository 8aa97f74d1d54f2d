"""The study at the paper's size without a file in between: phantom pairs of 320^3, both networks trained with both
losses, and measured.

python benchmarks/paper_profile.py --out scratch/paper_profile

On a GPU where there is one, and without SimpleITK, antspyx, papermill and DVC, for machines that have only torch and
Lightning (with MONAI and safetensors). Stages that are finished are not repeated, and an interrupted training goes on
from its last validation. At a small size, on any machine:

python benchmarks/paper_profile.py --size 32 --profile smoke --pairs 3 2 2 --out scratch/paper_profile_small

Leaves in --out the weights of four networks, metrics.csv (rows none, miregnet and midiceregnet of Table 1 on the test
pairs) and run.json (device, seconds, peak memory of the GPU).
"""

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace

import lightning
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from mine_reg.evaluation.metrics import evaluate_pair
from mine_reg.images.lungs import find_lungs
from mine_reg.settings import LOSSES, settings
from mine_reg.spatial import total_displacement
from mine_reg.storage.results import code, digest
from mine_reg.synthetic.phantom import grid_origin, make_pair
from mine_reg.training.augmentation import DISTANCE, VALIDATION_POINTS, VOLUMES
from mine_reg.training.fit import LEARNED_BY, PairData, fit
from mine_reg.training.modules import AffineTraining, DeformTraining
from mine_reg.training.weights import load_affinenet, load_registration, load_statistic

PHANTOMS_MADE_BY = ("synthetic", "images/lungs.py", "spatial.py")


class PhantomPairs(Dataset):
    """Pairs in memory as dictionaries of float16 images and uint8 masks, made as the study's stages `data` and
    `preprocess` make them."""

    def __init__(self, numbers: range, size: int, names: tuple[str, ...], device: str, work: Path):
        self.pairs = [
            {name: pair[name] for name in names}
            for number in tqdm(numbers, desc="phantom", unit="pair")
            for pair in [_phantom(number, size, device, work)]
        ]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        return self.pairs[index]


def _phantom(number: int, size: int, device: str, work: Path) -> dict:
    """One pair of the study, kept in ``work`` once it is made."""
    path = work / f"{number}.pt"
    if not path.is_file():
        spacing, seed = 320 / size, settings("data").seed
        pair = make_pair((size,) * 3, spacing, 1000 * seed + number, device)
        low, high = settings("preprocess").window_hu
        images = {name: getattr(pair, name).round().clamp(low, high)[None] for name in ("fixed", "moving")}
        values = {name: ((image - low) / (high - low)).half().cpu() for name, image in images.items()}
        values |= {name: getattr(pair, name)[None].to(torch.uint8).cpu() for name in ("fixed_mask", "moving_mask")}
        values[DISTANCE] = _lung_distance(images["fixed"].cpu(), spacing)
        origin = torch.tensor(grid_origin((size,) * 3, spacing))
        fixed, moving = (
            ((getattr(pair, f"{name}_points_xyz").cpu() - origin) / spacing).flip(-1) for name in ("fixed", "moving")
        )
        inside = ((fixed >= 0) & (fixed <= size - 1)).all(1)
        values |= {"fixed_points": fixed[inside], "moving_points": moving[inside], "spacing_mm": (spacing,) * 3}
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(values, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    return torch.load(path, weights_only=True)


def _lung_distance(fixed: Tensor, spacing: float) -> Tensor:
    """mm to the lungs that a threshold finds on voxels of about 4 mm, uint8, for an image (1, D, H, W) in HU."""
    coarse = [max(4, round(n * spacing / 4)) if spacing < 4 else n for n in fixed.shape[1:]]
    step = fixed.shape[1] * spacing / coarse[0]
    image = F.interpolate(fixed[None], size=coarse, mode="area")
    distance = torch.from_numpy(
        distance_transform_edt(~find_lungs(image[0, 0].numpy(), (step,) * 3), sampling=step)
    ).float()
    return (
        F.interpolate(distance[None, None], size=fixed.shape[1:], mode="trilinear")[0]
        .clamp(0, 255)
        .round()
        .to(torch.uint8)
    )


def train(
    network: str, loss: str, data: tuple[Dataset, Dataset], identity: bytes, out: Path, profile: str, overrides: dict
) -> dict:
    """Train one network, unless it is there with the same settings and pairs; its validation Dice, seconds and peak
    memory."""
    folder = out / f"{network}-{loss}"
    cfg = settings(network, profile=profile, loss=loss, in_memory=True, loader_workers=0, **overrides)
    below = out / f"affinenet-{loss}"
    stands_on = () if network == "affinenet" else (below / "weights.safetensors",)
    key = digest(vars(cfg), identity, *code(*LEARNED_BY), *stands_on)
    if (folder / "run.json").is_file() and (run := json.loads((folder / "run.json").read_text()))["key"] == key:
        return run
    lightning.seed_everything(cfg.seed, verbose=False)
    module = (
        AffineTraining(cfg)
        if network == "affinenet"
        else DeformTraining(cfg, load_affinenet(below), load_statistic(below))
    )
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run = fit(module, PairData(cfg, *data, identity), folder, out / "checkpoints")
    run |= {
        "key": key,
        "seconds": time.perf_counter() - start,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None,
    }
    (folder / "run.json").write_text(json.dumps(run) + "\n")
    return run


def measure(loss: str, numbers: range, size: int, out: Path, device: str, work: Path) -> list[dict]:
    """Every metric of the test pairs before registration and after it, and the seconds of the networks."""
    registration, rows = load_registration(out / f"affinenet-{loss}", out / f"deformnet-{loss}", device), []
    for number in tqdm(numbers, desc=loss, unit="pair"):
        values = _phantom(number, size, device, work)
        fixed, moving = (values[name][None].float().to(device) for name in ("fixed", "moving"))
        for _ in range(2):  # the first is a warm-up
            start = time.perf_counter()
            theta, dvf = registration(fixed, moving)
            if fixed.is_cuda:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        masks = {name: values[name].float().to(device) for name in ("fixed_mask", "moving_mask")}
        pair = SimpleNamespace(
            pair_id=f"phantom_{number:03d}", **masks, **{name: values[name] for name in VALIDATION_POINTS}
        )
        displacement = total_displacement(theta, dvf, fixed.shape[2:])
        found = {loss: displacement} | ({"none": torch.zeros_like(displacement)} if loss == LOSSES[0] else {})
        rows += [
            {"pair_id": pair.pair_id, "method": method}
            | evaluate_pair(pair, d)
            | {"seconds": seconds if method == loss else 0.0}
            for method, d in found.items()
        ]
    return rows


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--size", type=int, default=320, help="voxels along an axis of the 320 mm wide grid")
parser.add_argument("--profile", default="paper")
parser.add_argument("--pairs", type=int, nargs=3, default=[130, 30, 30], metavar=("TRAIN", "VALIDATION", "TEST"))
parser.add_argument("--epochs", type=int, nargs=2, metavar=("AFFINENET", "DEFORMNET"), help="instead of the profile's")
parser.add_argument("--precision", default="32-true", help="32-true | bf16-mixed | 16-mixed")
parser.add_argument("--out", type=Path, required=True)
arguments = parser.parse_args()
device = "cuda" if torch.cuda.is_available() else "cpu"
first, second, third = arguments.pairs
phantoms = digest(arguments.size, settings("data").seed, settings("preprocess").window_hu, *code(*PHANTOMS_MADE_BY))
work = arguments.out / f"pairs-{arguments.size}-{phantoms[:16]}"
start = time.perf_counter()
# one after the other, not drawn as in the study: every phantom is a subject of its own
training = PhantomPairs(range(first), arguments.size, VOLUMES, device, work)
validation = PhantomPairs(range(first, first + second), arguments.size, VOLUMES + VALIDATION_POINTS, device, work)
tested = range(first + second, first + second + third)
PhantomPairs(tested, arguments.size, (), device, work)
report = {
    "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads",
    "torch": torch.__version__,
    "size": arguments.size,
    "pairs": arguments.pairs,
    "phantom_seconds": time.perf_counter() - start,
}
rows = []
for loss in LOSSES:
    for network, epochs in zip(("affinenet", "deformnet"), arguments.epochs or (None, None), strict=True):
        every = max(1, epochs // 4) if epochs else None
        overrides = {"epochs": epochs, "precision": arguments.precision, "validate_every": every}
        report[f"{network}-{loss}"] = train(
            network,
            loss,
            (training, validation),
            digest(phantoms, arguments.pairs).encode(),
            arguments.out,
            arguments.profile,
            overrides,
        )
    rows += measure(loss, tested, arguments.size, arguments.out, device, work)
metrics = pd.DataFrame(rows)
metrics.to_csv(arguments.out / "metrics.csv", index=False, float_format="%.6g")
report["register_seconds"] = metrics.loc[metrics["method"] != "none", "seconds"].median()
(arguments.out / "run.json").write_text(json.dumps(report, indent=2) + "\n")
print(metrics.groupby("method", sort=False).mean(numeric_only=True).round(4).to_string())
print(json.dumps(report, indent=2))
