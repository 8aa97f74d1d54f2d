"""How the weights that come with the package are made: phantoms, pairs simulated from CTs, and CTs of different people, all of them varied.

python -m mine_reg.ship scans.csv --leave-out lidc1011 --out mine_reg/shipped

scans.csv : as data_manifests/example_scans.csv. What is left out is never seen, and serves for the comparison in the README.
MIRegNet and MIDiceRegNet are trained side by side. An interrupted run goes on where it stopped.
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

from mine_reg.bundle import pack
from mine_reg.ct import read_clipped
from mine_reg.data import make_phantom_pairs, make_simulated_pairs
from mine_reg.fitting import PairData, fit
from mine_reg.lungs import lung_mask
from mine_reg.manifest import read_manifest, read_scans
from mine_reg.metrics import evaluate_pair
from mine_reg.pair_data import PairDataset
from mine_reg.preprocess import load_pair, preprocess, read_pairs
from mine_reg.registration import load
from mine_reg.spatial import total_displacement
from mine_reg.study import LOSSES, root, settings
from mine_reg.training import POINTS, VOLUMES, AffineTraining, DeformTraining
from mine_reg.varied import VariedPairs
from mine_reg.weights import load_affinenet, load_statistic

SIZE, SPACING_MM = [64, 64, 64], 5.0
_VALIDATION = 0.15  # of the phantoms and of the simulated pairs


def make_pairs(scans: pd.DataFrame, work: Path, phantoms: int, simulated: int, seed: int) -> list[Path]:
    """Three preprocessed folders: phantoms, simulated pairs of the scans, and every ordered pair of different subjects."""
    folders = [work / name for name in ("phantom", "simulated", "subjects")]
    window = settings("preprocess").window_hu

    def prepared(folder: Path, start: str, validation: float) -> None:
        table = read_whole(folder / "raw/manifest.csv")
        number = max(1, round(validation * len(table))) if validation else 0
        held = [i * len(table) // number for i in range(number)]  # spread over all scans
        table["split"] = ["validation" if i in held else "train" for i in range(len(table))]
        preprocess(table, folder / "pairs", SIZE, SPACING_MM, window, start, {}, seed)

    if not (folders[0] / "pairs/pairs.csv").is_file():
        make_phantom_pairs(folders[0] / "raw", phantoms, SIZE, SPACING_MM, seed)
        prepared(folders[0], "scanner", _VALIDATION)
    if not (folders[1] / "pairs/pairs.csv").is_file():
        make_simulated_pairs(folders[1] / "raw", scans.assign(split="train"), {"train": simulated}, SIZE, SPACING_MM, seed)
        prepared(folders[1], "scanner", _VALIDATION)
    if not (folders[2] / "pairs/pairs.csv").is_file():
        _subjects(scans, folders[2] / "raw")
        prepared(folders[2], "centre_of_mass", 0.0)
    return [folder / "pairs" for folder in folders]


def read_whole(manifest: Path) -> pd.DataFrame:
    """A manifest without its split, which a study needs with all its parts; here subjects may be in two, or all pairs in one."""
    unsplit = manifest.with_name("unsplit.csv")
    pd.read_csv(manifest, dtype=str).drop(columns="split", errors="ignore").to_csv(unsplit, index=False)
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
    rows = [{"pair_id": f"{a.scan_id}-{b.scan_id}", "fixed": a.image, "moving": b.image, "fixed_mask": masks[a.scan_id],
             "moving_mask": masks[b.scan_id], "split": "train", "subject_id": f"{a.subject_id}-{b.subject_id}"}
            for a, b in itertools.permutations(list(scans.itertuples()), 2) if a.subject_id != b.subject_id]
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)


def training_data(cfg: SimpleNamespace, folders: list[Path], repeat_subjects: int) -> PairData:
    """Varied pairs of all folders for training, the pairs with a validation split as they are for validation."""
    training: list[Dataset] = [PairDataset(folder, "train", VOLUMES, True) for folder in folders]
    training[2] = ConcatDataset([training[2]] * repeat_subjects)
    validation = ConcatDataset([PairDataset(folder, "validation", VOLUMES + POINTS, True) for folder in folders[:2]])
    identity = b"".join((folder / "pairs.csv").read_bytes() for folder in folders)
    return PairData(cfg, VariedPairs(ConcatDataset(training)), validation, identity)


def train(network: str, loss: str, folders: list[Path], work: Path, arguments: argparse.Namespace) -> Path:
    """Train one network unless it is there; returns its folder."""
    out = work / f"{network}-{loss}"
    if (out / "settings.json").is_file():
        return out
    epochs = getattr(arguments, f"{network}_epochs")
    cfg = settings(network, profile="laptop", loss=loss, seed=arguments.seed, epochs=epochs, validate_every=max(1, epochs // 6))
    cfg.epochs = cfg.validate_every * max(1, epochs // cfg.validate_every)
    lightning.seed_everything(cfg.seed, verbose=False)
    below = work / f"affinenet-{loss}"
    module = AffineTraining(cfg) if network == "affinenet" else DeformTraining(cfg, load_affinenet(below), load_statistic(below))
    fit(module, training_data(cfg, folders, arguments.repeat_subjects), out, work / "checkpoints" / out.name)
    return out


def scores(affinenet: Path, deformnet: Path, folders: list[Path]) -> dict[str, dict[str, float]]:
    """Mean DSC, TRE (mm) and folding (%) over the validation pairs of each folder that has some, before and after registration."""
    registration, found = load(affinenet, deformnet), {}
    for folder in folders:
        rows = []
        for row in read_pairs(folder, "validation").itertuples():
            pair = load_pair(folder, row)
            size = pair.fixed.shape[1:]
            displacement = total_displacement(*registration(pair.fixed[None], pair.moving[None]), size)
            before, after = evaluate_pair(pair, torch.zeros(1, 3, *size)), evaluate_pair(pair, displacement)
            rows.append({f"{name}_{when}": values[name] for when, values in (("before", before), ("after", after)) for name in ("dsc", "tre_mm")}
                        | {"folding_percent": after["folding_percent"]})
        found[folder.parent.name] = pd.DataFrame(rows).mean().round(4).to_dict()
    return found


def make(loss: str, folders: list[Path], work: Path, scans: list[str], arguments: argparse.Namespace) -> dict:
    """Train both networks by one loss and pack them; returns the recipe."""
    networks = [train(network, loss, folders, work, arguments) for network in ("affinenet", "deformnet")]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", check=False, cwd=root()).stdout.strip()
    recipe = {"method": loss, "command": {name: value for name, value in vars(arguments).items() if not isinstance(value, Path)},
              "scans": scans, "seed": arguments.seed, "code": commit, "size": SIZE, "spacing_mm": SPACING_MM,
              "validation": scores(*networks, folders[:2])}
    pack(*networks, arguments.out / f"{loss}.safetensors", recipe)
    return recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="SCAN_ID")
    parser.add_argument("--phantoms", type=int, default=60)
    parser.add_argument("--simulated", type=int, default=60)
    parser.add_argument("--repeat-subjects", type=int, default=3, help="how often a pair of different people comes in an epoch")
    parser.add_argument("--affinenet-epochs", type=int, default=90)
    parser.add_argument("--deformnet-epochs", type=int, default=18)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--work", type=Path, default=root() / "scratch/ship", help="for pairs and trainings that are finished")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    scans = read_scans(arguments.scans)
    scans = scans[~scans["scan_id"].isin(arguments.leave_out)]
    folders = make_pairs(scans, arguments.work, arguments.phantoms, arguments.simulated, arguments.seed)
    jobs = (joblib.delayed(make)(loss, folders, arguments.work, scans["scan_id"].tolist(), arguments) for loss in LOSSES)
    print(json.dumps(joblib.Parallel(len(LOSSES))(jobs), indent=2))


if __name__ == "__main__":
    main()
