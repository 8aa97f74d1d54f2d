"""The pairs that train the shipped weights: phantoms, pairs simulated from CTs, and CTs of different people, made in
parallel on the fine grid and kept as tensors."""

import itertools
from collections.abc import Callable
from pathlib import Path

import joblib
import pandas as pd
import SimpleITK as sitk
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset

from mine_reg.images.ct import lung_mask, read_clipped
from mine_reg.images.itk_state import one_itk_thread
from mine_reg.images.reading import image_files
from mine_reg.pairs.manifest import read_manifest
from mine_reg.pairs.preprocess import preprocess
from mine_reg.pairs.preprocessed import load_pair, read_pairs
from mine_reg.registration import halved
from mine_reg.settings import settings
from mine_reg.storage.borrowing import one_torch_thread
from mine_reg.storage.results import code, digest, keep
from mine_reg.synthetic.pair_sets import make_phantom_pairs, make_simulated_pairs
from mine_reg.training.augmentation import VALIDATION_POINTS, VOLUMES

# voxels and mm; both have the same outermost voxel centres, see `mine_reg.registration`
GRIDS = {"coarse": ([64, 64, 64], 5.0), "fine": ([127, 127, 127], 2.5)}
VALIDATED = ("phantom", "simulated")  # kinds of pairs of which a part is for validation
TENSORS = "tensors"  # folder of the pairs as `load_tensors` reads them
# code that decides the pairs
PAIRS_MADE_BY = ("images", "pairs", "synthetic", "spatial.py", "registration.py", "experiments/shipped_pairs.py")
_VALIDATION = 0.1  # of the phantoms and of the simulated pairs
_IMAGES = ("fixed", "moving")
_POINTS = VALIDATION_POINTS[:2]


def make_pairs(scans: pd.DataFrame, work: Path, phantoms: int, simulated: int, seed: int) -> dict[str, Path]:
    """Folders of phantoms, of simulated pairs of the scans, and of every ordered pair of different subjects, by kind.

    Each holds ``fine`` pairs as `preprocess` leaves them, and the same as ``tensors``, and is kept in ``work``.
    """
    ids = scans[["scan_id", "subject_id"]].assign(with_mask=scans["mask"] != "").to_dict("list")
    given = (Path(path) for path in (*scans["image"], *scans["mask"]) if path)
    seen = [ids, *itertools.chain.from_iterable(map(image_files, given))]
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
    """The pairs of ``raw`` on the fine grid, and as tensors; those for validation are spread over all scans."""
    table = read_unsplit_manifest(folder / "raw/manifest.csv")
    number = max(1, round(_VALIDATION * len(table))) if kind in VALIDATED else 0
    held = [i * len(table) // number for i in range(number)]
    table["split"] = ["validation" if i in held else "train" for i in range(len(table))]
    start = "centre_of_mass" if kind == "subjects" else "scanner"
    table = preprocess(table, folder / "fine", *GRIDS["fine"], window, start, {}, seed)
    (folder / TENSORS).mkdir()
    rows = table.to_dict("records")
    joblib.Parallel(-1)(joblib.delayed(_as_tensors)(pd.Series(row), folder / "fine", folder / TENSORS) for row in rows)


@one_torch_thread()
@one_itk_thread
def _as_tensors(row: pd.Series, pairs: Path, folder: Path) -> None:
    """One preprocessed pair as a file of tensors, images as float16, masks and distances as uint8."""
    pair = load_pair(pairs, row)
    tensors = {name: getattr(pair, name).to(torch.float16 if name in _IMAGES else torch.uint8) for name in VOLUMES}
    tensors |= {name: value for name in _POINTS if (value := getattr(pair, name)) is not None}
    tensors["spacing_mm"] = torch.tensor(pair.spacing_mm)
    save_file(tensors, folder / f"{pair.pair_id}.safetensors")


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


class TensorPairs(Dataset):
    """Pairs of one split of a folder of `make_pairs` as dictionaries of tensors (1, D, H, W) named as in `VOLUMES`;
    those for validation also hold `VALIDATION_POINTS`.

    grid : ``"fine"``, or ``"coarse"``, which are the same pairs `halved`
    device : where they are; a GPU holds them all, and the CPU those of the coarse grid
    """

    def __init__(self, folder: Path, split: str, grid: str, device: str = "cpu"):
        names = read_pairs(folder / "fine", split)["pair_id"]
        self.paths = [folder / TENSORS / f"{name}.safetensors" for name in names]
        self.grid, self.device, self.with_points = grid, device, split == "validation"
        self.kept = [self._load(path) for path in self.paths] if grid == "coarse" or device != "cpu" else None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        pair = dict(self.kept[index] if self.kept else self._load(self.paths[index]))
        return pair | {name: pair[name].float() for name in _IMAGES}

    def _load(self, path: Path) -> dict:
        tensors = load_file(path, device=self.device)
        spacing = tuple(tensors.pop("spacing_mm").tolist())
        if self.grid == "coarse":
            tensors |= {name: halved(tensors[name].float()[None])[0].half() for name in _IMAGES}
            tensors |= {name: tensors[name][:, ::2, ::2, ::2].clone() for name in VOLUMES if name not in _IMAGES}
            tensors |= {name: tensors[name] / 2 for name in _POINTS if name in tensors}
            spacing = tuple(2 * mm for mm in spacing)
        if self.with_points:
            return tensors | {"spacing_mm": spacing}
        return {name: tensors[name] for name in VOLUMES}
