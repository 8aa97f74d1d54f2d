"""How the weights that come with the package are made: phantoms, pairs simulated from CTs, and CTs of different people,
all of them varied.

python -m mine_reg.experiments.train_shipped_weights scans.csv --leave-out lidc1011 --out mine_reg/shipped_weights

scans.csv : as data_manifests/example_scans.csv. What is left out is never seen, and serves for the comparison in the
README. MIRegNet and MIDiceRegNet are trained side by side. An interrupted run goes on where it stopped.
"""

import argparse
import itertools
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import joblib
import lightning
import pandas as pd
import torch
from torch.utils.data import ConcatDataset, Dataset

from mine_reg.evaluation.metrics import evaluate_pair
from mine_reg.images.ct import lung_mask, read_clipped
from mine_reg.pairs.manifest import read_manifest, read_scans
from mine_reg.pairs.preprocess import preprocess
from mine_reg.pairs.preprocessed import load_pair, read_pairs
from mine_reg.registration import halved, predict_on_two_grids
from mine_reg.settings import LOSSES, root, settings
from mine_reg.spatial import total_displacement
from mine_reg.synthetic.pair_sets import make_phantom_pairs, make_simulated_pairs
from mine_reg.training.augmentation import VALIDATION_POINTS, VOLUMES, AsInClinics
from mine_reg.training.datasets import PairDataset
from mine_reg.training.fit import PairData, fit
from mine_reg.training.modules import AffineTraining, DeformTraining, FineTraining
from mine_reg.training.weights import (
    RegistrationWeights,
    load_affinenet,
    load_registration,
    load_statistic,
    load_weights_file,
    save_weights_file,
)

GRIDS = {
    "coarse": ([64, 64, 64], 5.0),
    "fine": ([127, 127, 127], 2.5),
}  # with the same outermost voxel centres, see `fine_level`
NETWORKS = ("affinenet", "deformnet", "fine")
_FINE = {
    "channels": [8, 16, 32, 32],
    "passes": 2,
    "samples": 80_000,
    "shift_voxels": 8,
}  # what differs from DeformNet's settings
_VALIDATION = 0.15  # of the phantoms and of the simulated pairs


def make_pairs(scans: pd.DataFrame, work: Path, phantoms: int, simulated: int, seed: int) -> list[Path]:
    """Folders of phantoms, of simulated pairs of the scans, and of every ordered pair of different subjects; each holds
    ``coarse`` and ``fine`` pairs."""
    folders = [work / name for name in ("phantom", "simulated", "subjects")]
    window = settings("preprocess").window_hu

    def prepared(folder: Path, start: str, validation: float) -> None:
        table = read_unsplit_manifest(folder / "raw/manifest.csv")
        number = max(1, round(validation * len(table))) if validation else 0
        held = [i * len(table) // number for i in range(number)]  # spread over all scans
        table["split"] = ["validation" if i in held else "train" for i in range(len(table))]
        for name, grid in GRIDS.items():
            preprocess(table, folder / name, *grid, window, start, {}, seed)

    if not (folders[0] / "fine/pairs.csv").is_file():
        make_phantom_pairs(folders[0] / "raw", phantoms, *GRIDS["fine"], seed)
        prepared(folders[0], "scanner", _VALIDATION)
    if not (folders[1] / "fine/pairs.csv").is_file():
        make_simulated_pairs(
            folders[1] / "raw", scans.assign(split="train"), {"train": simulated}, *GRIDS["fine"], seed
        )
        prepared(folders[1], "scanner", _VALIDATION)
    if not (folders[2] / "fine/pairs.csv").is_file():
        _subjects(scans, folders[2] / "raw")
        prepared(folders[2], "centre_of_mass", 0.0)
    return folders


def read_unsplit_manifest(manifest: Path) -> pd.DataFrame:
    """A manifest without its split, which a study needs with all its parts; here subjects may be in two, or all pairs
    in one."""
    unsplit = manifest.with_name("unsplit.csv")
    pd.read_csv(manifest, dtype=str, keep_default_na=False).drop(columns="split", errors="ignore").to_csv(unsplit, index=False)
    return read_manifest(unsplit)


def _subjects(scans: pd.DataFrame, folder: Path) -> None:
    """Every scan as fixed image for every other subject's scan; lung masks of those without are made."""
    import SimpleITK as sitk

    folder.mkdir(parents=True, exist_ok=True)
    masks = {}
    for scan in scans.itertuples():
        masks[scan.scan_id] = scan.mask
        if not scan.mask:
            masks[scan.scan_id] = str(folder / f"{scan.scan_id}_lungs.nii.gz")
            sitk.WriteImage(lung_mask(read_clipped(scan.image)), masks[scan.scan_id])
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


def training_data(cfg: SimpleNamespace, folders: list[Path], grid: str, repeat_subjects: int) -> PairData:
    """Varied pairs of all folders for training, the pairs with a validation split as they are for validation."""
    folders = [folder / grid for folder in folders]
    training: list[Dataset] = [PairDataset(folder, "train", VOLUMES, cfg.in_memory) for folder in folders]
    training[2] = ConcatDataset([training[2]] * repeat_subjects)
    validation = ConcatDataset(
        [PairDataset(folder, "validation", VOLUMES + VALIDATION_POINTS, cfg.in_memory) for folder in folders[:2]]
    )
    identity = b"".join((folder / "pairs.csv").read_bytes() for folder in folders)
    return PairData(cfg, AsInClinics(ConcatDataset(training)), validation, identity)


def train(network: str, loss: str, folders: list[Path], work: Path, arguments: argparse.Namespace) -> Path:
    """Train one network unless it is there; returns its folder."""
    below = {name: work / f"{name}-{loss}" for name in NETWORKS}
    out = below[network]
    if (out / "settings.json").is_file():
        return out
    epochs, fine = getattr(arguments, f"{network}_epochs"), network == "fine"
    every = max(1, epochs // 6)
    cfg = settings(
        "deformnet" if fine else network,
        profile="laptop",
        loss=loss,
        seed=arguments.seed,
        epochs=epochs // every * every,
        validate_every=every,
        in_memory=not fine,
        **(_FINE if fine else {}),
    )
    lightning.seed_everything(cfg.seed, verbose=False)
    if network == "affinenet":
        module = AffineTraining(cfg)
    elif network == "deformnet":
        module = DeformTraining(cfg, load_affinenet(below["affinenet"]), load_statistic(below["affinenet"]))
    else:
        module = FineTraining(
            cfg, load_registration(below["affinenet"], below["deformnet"]), load_statistic(below["deformnet"])
        )
    fit(
        module,
        training_data(cfg, folders, "fine" if fine else "coarse", arguments.repeat_subjects),
        out,
        work / "checkpoints" / out.name,
    )
    return out


def scores(weights: RegistrationWeights, folders: list[Path]) -> dict[str, dict[str, float]]:
    """Mean DSC, TRE (mm) and folding (%) over the validation pairs of each folder that has some, before and after
    registration."""
    found = {}
    for folder in folders:
        rows = []
        for row in read_pairs(folder / "fine", "validation").itertuples():
            pair = load_pair(folder / "fine", row)
            images = pair.fixed[None], pair.moving[None]
            theta, dvf = predict_on_two_grids(weights.registration, weights.fine, tuple(map(halved, images)), images)
            displacement = total_displacement(theta, dvf, pair.fixed.shape[1:])
            before, after = evaluate_pair(pair, torch.zeros_like(displacement)), evaluate_pair(pair, displacement)
            rows.append(
                {
                    f"{name}_{when}": values[name]
                    for when, values in (("before", before), ("after", after))
                    for name in ("dsc", "tre_mm")
                }
                | {"folding_percent": after["folding_percent"]}
            )
        found[folder.name] = pd.DataFrame(rows).mean().round(4).to_dict()
    return found


def make(loss: str, folders: list[Path], work: Path, scans: list[str], arguments: argparse.Namespace) -> dict:
    """Train all networks by one loss and pack them; returns the provenance."""
    affinenet, deformnet, fine = (train(network, loss, folders, work, arguments) for network in NETWORKS)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", check=False, cwd=root()
    ).stdout.strip()
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
    provenance["validation"] = scores(load_weights_file(path), folders[:2])
    save_weights_file(affinenet, deformnet, path, provenance, fine)
    return provenance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="SCAN_ID")
    parser.add_argument("--phantoms", type=int, default=60)
    parser.add_argument("--simulated", type=int, default=60)
    parser.add_argument(
        "--repeat-subjects", type=int, default=3, help="how often a pair of different people comes in an epoch"
    )
    parser.add_argument("--affinenet-epochs", type=int, default=90)
    parser.add_argument("--deformnet-epochs", type=int, default=18)
    parser.add_argument("--fine-epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--work",
        type=Path,
        default=root() / "scratch/shipped_weights",
        help="for pairs and trainings that are finished",
    )
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    scans = read_scans(arguments.scans)
    scans = scans[~scans["scan_id"].isin(arguments.leave_out)]
    folders = make_pairs(scans, arguments.work, arguments.phantoms, arguments.simulated, arguments.seed)
    jobs = (
        joblib.delayed(make)(loss, folders, arguments.work, scans["scan_id"].tolist(), arguments) for loss in LOSSES
    )
    print(json.dumps(joblib.Parallel(len(LOSSES))(jobs), indent=2))


if __name__ == "__main__":
    main()
