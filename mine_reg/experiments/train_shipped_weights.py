"""How the weights that come with the package are made: from phantoms, pairs simulated from CTs, and CTs of different
people, all of them varied.

python -m mine_reg.experiments.train_shipped_weights scans.csv --leave-out lidc1011 --out mine_reg/shipped_weights

scans.csv : as data_manifests/example_scans.csv. What is left out is never seen, and serves for the comparison in the
README. MIRegNet and MIDiceRegNet are trained side by side. An interrupted run goes on where it stopped.
"""

import argparse
import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import joblib
import lightning
import pandas as pd
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from mine_reg.evaluation.networks import measure_displacements
from mine_reg.images.ct import lung_mask, read_clipped
from mine_reg.pairs.manifest import read_manifest, read_scans
from mine_reg.pairs.preprocess import preprocess
from mine_reg.pairs.preprocessed import Pair
from mine_reg.registration import halved, predict_on_two_grids
from mine_reg.settings import LOSSES, root, settings
from mine_reg.spatial import total_displacement
from mine_reg.storage.results import code, digest, keep
from mine_reg.synthetic.pair_sets import make_phantom_pairs, make_simulated_pairs
from mine_reg.training.augmentation import VALIDATION_POINTS, VOLUMES, AsInClinics
from mine_reg.training.datasets import PairDataset
from mine_reg.training.fit import PairData, fit
from mine_reg.training.modules import AffineTraining, DeformTraining, FineTraining, RegistrationTraining
from mine_reg.training.weights import (
    RegistrationWeights,
    load_affinenet,
    load_registration,
    load_statistic,
    load_weights_file,
    save_weights_file,
)

# voxels and mm; both have the same outermost voxel centres, see `mine_reg.registration`
GRIDS = {"coarse": ([64, 64, 64], 5.0), "fine": ([127, 127, 127], 2.5)}
NETWORKS = ("affinenet", "deformnet", "fine")
VALIDATED = ("phantom", "simulated")  # kinds of pairs of which a part is for validation
PAIRS_MADE_BY = ("images", "pairs", "synthetic", "experiments/train_shipped_weights.py")  # code that decides the pairs
_VALIDATION = 0.15  # of the phantoms and of the simulated pairs
_FINE = {"channels": [8, 16, 32, 32], "passes": 2, "samples": 80_000, "shift_voxels": 8}  # what DeformNet has otherwise


def make_pairs(scans: pd.DataFrame, work: Path, phantoms: int, simulated: int, seed: int) -> dict[str, Path]:
    """Folders of phantoms, of simulated pairs of the scans, and of every ordered pair of different subjects, by kind.

    Each holds ``coarse`` and ``fine`` pairs, and is kept in ``work``.
    """
    ids = scans[["scan_id", "subject_id"]].assign(with_mask=scans["mask"] != "").to_dict("list")
    seen = [ids, *(Path(path) for path in (*scans["image"], *scans["mask"]) if path)]
    window, fine, counts = settings("preprocess").window_hu, GRIDS["fine"], {"train": simulated}

    def kept(kind: str, write: Callable[[Path], object], *decided_by) -> Path:
        def make(folder: Path) -> None:
            write(folder / "raw")
            _preprocess(folder, kind, window, seed)

        keep(work / kind, digest(kind, GRIDS, window, seed, *decided_by, *code(*PAIRS_MADE_BY)), make)
        return work / kind

    def simulate(raw: Path) -> None:
        make_simulated_pairs(raw, scans.assign(split="train"), counts, *fine, seed)

    return {
        "phantom": kept("phantom", lambda raw: make_phantom_pairs(raw, phantoms, *fine, seed), phantoms),
        "simulated": kept("simulated", simulate, counts, *seen),
        "subjects": kept("subjects", lambda raw: write_subject_pairs(raw, scans), *seen),
    }


def _preprocess(folder: Path, kind: str, window: list[float], seed: int) -> None:
    """The pairs of ``raw`` on both grids; those for validation are spread over all scans."""
    table = read_unsplit_manifest(folder / "raw/manifest.csv")
    number = max(1, round(_VALIDATION * len(table))) if kind in VALIDATED else 0
    held = [i * len(table) // number for i in range(number)]
    table["split"] = ["validation" if i in held else "train" for i in range(len(table))]
    start = "centre_of_mass" if kind == "subjects" else "scanner"
    for name, grid in GRIDS.items():
        preprocess(table, folder / name, *grid, window, start, {}, seed)


def read_unsplit_manifest(manifest: Path) -> pd.DataFrame:
    """A manifest without its split, which a study needs with all its parts; here subjects may be in two, or all pairs
    in one."""
    unsplit = manifest.with_name("unsplit.csv")
    pd.read_csv(manifest, dtype=str, keep_default_na=False).drop(columns="split", errors="ignore").to_csv(
        unsplit, index=False
    )
    return read_manifest(unsplit)


def write_subject_pairs(folder: Path, scans: pd.DataFrame) -> None:
    """A manifest of every scan as fixed image for every other subject's scan; lung masks of those without are made."""
    folder.mkdir(parents=True, exist_ok=True)
    masks = dict(zip(scans["scan_id"], scans["mask"], strict=True))
    for scan in scans[scans["mask"] == ""].itertuples():
        masks[scan.scan_id] = f"{scan.scan_id}_lungs.nii.gz"
        sitk.WriteImage(lung_mask(read_clipped(scan.image)), str(folder / masks[scan.scan_id]))
    rows = [
        {
            "pair_id": f"{a.scan_id}-{b.scan_id}",
            "fixed": a.image,
            "moving": b.image,
            "fixed_mask": masks[a.scan_id],
            "moving_mask": masks[b.scan_id],
            "split": "train",
            "subject_id": f"{a.subject_id}-{b.subject_id}",
        }
        for a, b in itertools.permutations(list(scans.itertuples()), 2)
        if a.subject_id != b.subject_id
    ]
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)


def train(network: str, loss: str, pairs: dict[str, Path], arguments: argparse.Namespace) -> Path:
    """Train one network on what those below it left, unless it is there; returns its folder."""
    folders = {name: arguments.work / f"{name}-{loss}" for name in NETWORKS}
    cfg = training_settings(network, loss, arguments)
    lightning.seed_everything(cfg.seed, verbose=False)
    module = new_training(network, cfg, folders)
    data = training_data(cfg, pairs, "fine" if network == "fine" else "coarse", arguments.repeat_subjects)
    fit(module, data, folders[network], arguments.work / "checkpoints" / folders[network].name)
    return folders[network]


def training_settings(network: str, loss: str, arguments: argparse.Namespace) -> SimpleNamespace:
    """Those of the profile laptop, with about six validations in the epochs that ``arguments`` gives the network."""
    fine, epochs = network == "fine", getattr(arguments, f"{network}_epochs")
    every = max(1, epochs // 6)
    return settings(
        "deformnet" if fine else network,
        profile="laptop",
        loss=loss,
        seed=arguments.seed,
        epochs=epochs // every * every,
        validate_every=every,
        in_memory=not fine,
        **(_FINE if fine else {}),
    )


def new_training(network: str, cfg: SimpleNamespace, folders: dict[str, Path]) -> RegistrationTraining:
    """folders : of the networks, of which those below ``network`` are trained"""
    if network == "affinenet":
        return AffineTraining(cfg)
    if network == "deformnet":
        return DeformTraining(cfg, load_affinenet(folders["affinenet"]), load_statistic(folders["affinenet"]))
    below = load_registration(folders["affinenet"], folders["deformnet"])
    return FineTraining(cfg, below, load_statistic(folders["deformnet"]))


def training_data(cfg: SimpleNamespace, pairs: dict[str, Path], grid: str, repeat_subjects: int) -> PairData:
    """Varied pairs of all kinds for training, the pairs with a validation split as they are for validation."""
    folders = {kind: folder / grid for kind, folder in pairs.items()}
    training = {kind: PairDataset(folder, "train", VOLUMES, cfg.in_memory) for kind, folder in folders.items()}
    training["subjects"] = ConcatDataset([training["subjects"]] * repeat_subjects)
    validation = [
        PairDataset(folders[kind], "validation", VOLUMES + VALIDATION_POINTS, cfg.in_memory) for kind in VALIDATED
    ]
    identity = digest(repeat_subjects, *(folder / "pairs.csv" for folder in folders.values()))
    varied = AsInClinics(ConcatDataset(training.values()))
    return PairData(cfg, varied, ConcatDataset(validation), identity.encode())


def validation_means(weights: RegistrationWeights, folder: Path) -> dict[str, float]:
    """Mean DSC, TRE (mm) and folding (%) over the validation pairs of ``folder``, before and after registration."""

    def unregistered(pair: Pair) -> Tensor:
        return torch.zeros(1, 3, *pair.fixed.shape[1:])

    def registered(pair: Pair) -> Tensor:
        images = pair.fixed[None], pair.moving[None]
        theta, dvf = predict_on_two_grids(weights.registration, weights.fine, tuple(map(halved, images)), images)
        return total_displacement(theta, dvf, pair.fixed.shape[1:])

    found = {}
    for when, displacement in (("before", unregistered), ("after", registered)):
        mean = measure_displacements(displacement, folder, "validation").mean(numeric_only=True).round(4)
        found |= {f"dsc_{when}": float(mean["dsc"]), f"tre_mm_{when}": float(mean["tre_mm"])}
    return found | {"folding_percent": float(mean["folding_percent"])}


def make_weights(loss: str, pairs: dict[str, Path], scans: list[str], arguments: argparse.Namespace) -> dict:
    """Train all networks by one loss and write them to one file; returns the provenance.

    scans : names of those that were seen
    """
    affinenet, deformnet, fine = (train(network, loss, pairs, arguments) for network in NETWORKS)
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, cwd=root()).stdout.strip()
    provenance = {
        "method": loss,
        "command": {name: value for name, value in vars(arguments).items() if not isinstance(value, Path)},
        "scans": scans,
        "seed": arguments.seed,
        "code": commit,
        "grids": GRIDS,
    }
    path = arguments.out / f"{loss}.safetensors"
    save_weights_file(affinenet, deformnet, path, provenance, fine)
    weights = load_weights_file(path)
    provenance["validation"] = {kind: validation_means(weights, pairs[kind] / "fine") for kind in VALIDATED}
    save_weights_file(affinenet, deformnet, path, provenance, fine)
    return provenance


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="SCAN_ID")
    parser.add_argument("--phantoms", type=int, default=60)
    parser.add_argument("--simulated", type=int, default=60)
    parser.add_argument("--repeat-subjects", type=int, default=3, help="how often a pair of people comes in an epoch")
    parser.add_argument("--affinenet-epochs", type=int, default=90)
    parser.add_argument("--deformnet-epochs", type=int, default=18)
    parser.add_argument("--fine-epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--work", type=Path, default=root() / "scratch/shipped_weights", help="for what is finished")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    scans = read_scans(arguments.scans)
    if unknown := sorted({*arguments.leave_out} - {*scans["scan_id"]}):
        parser.error(f"--leave-out: {arguments.scans} has no scan {', '.join(unknown)}")
    scans = scans[~scans["scan_id"].isin(arguments.leave_out)]
    pairs = make_pairs(scans, arguments.work, arguments.phantoms, arguments.simulated, arguments.seed)
    calls = (joblib.delayed(make_weights)(loss, pairs, scans["scan_id"].tolist(), arguments) for loss in LOSSES)
    print(json.dumps(joblib.Parallel(len(LOSSES))(calls), indent=2))


if __name__ == "__main__":
    main()
