"""The pairs of Table 2's cases: what mutual information is for, and where anything should do."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import SimpleITK as sitk

from mine_reg.images.writing import write_image
from mine_reg.pairs.manifest import read_manifest
from mine_reg.pairs.preprocess import preprocess
from mine_reg.pairs.preprocessed import MADE_FROM
from mine_reg.settings import settings
from mine_reg.storage.results import code, digest, forget, keep
from mine_reg.storage.writing import write_csv
from mine_reg.synthetic.pair_sets import make_phantom_pairs

CASES = {
    "one": "contrast agent in the fixed image alone, as everywhere in this study",
    "none": "no contrast agent",
    "inverted": "contrast agent in the fixed image, and the moving image's intensities inverted",
}
MADE_BY = ("images", "pairs", "synthetic", "spatial.py", "experiments/cases.py")  # code that decides the pairs


def case_pairs(case: str, pairs: Path, work: Path, profile: str) -> Path:
    """The folder of the preprocessed pairs of a case of `CASES`, made inside ``work`` if it is not there.

    pairs : preprocessed pairs of the case ``one``, which the others follow
    profile : says how many phantoms, on which grid and in which split

    Raises ValueError for an unknown case, and for the case ``none`` of other data than phantoms.
    """
    if case not in CASES:
        raise ValueError(f"unknown case {case!r} of table2.cases; choose from {', '.join(CASES)}")
    if case == "one":
        return pairs
    if case == "inverted":
        keep(work / case, digest(case, pairs / "pairs.csv", *code(*MADE_BY)), lambda made: _invert(pairs, made))
        return work / case
    data, grid = settings("data", profile=profile), settings("preprocess", profile=profile)
    if data.source != "phantom":
        raise ValueError(f"table2.cases asks for {case!r}, which only phantoms have; data.source is {data.source}")
    how = (grid.size, grid.spacing_mm, grid.window_hu, grid.start, grid.split, grid.seed)

    def make(made: Path) -> None:
        with TemporaryDirectory() as raw:
            make_phantom_pairs(raw, data.pairs, grid.size, grid.spacing_mm, data.seed, data.workers, contrast=False)
            preprocess(read_manifest(Path(raw) / "manifest.csv"), made, *how, workers=grid.workers)
        forget(made)  # the mark of `preprocess`; the whole folder gets one of its own

    keep(work / case, digest(case, data.pairs, data.seed, *how, *code(*MADE_BY)), make)
    return work / case


def _invert(pairs: Path, made: Path) -> None:
    """All pairs with moving images whose window is turned upside down."""
    shutil.copytree(pairs, made, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    low, high = json.loads((made / "settings.json").read_text(encoding="utf-8"))["window_hu"]
    table = pd.read_csv(made / "pairs.csv", dtype=str, keep_default_na=False)
    for path in table["moving"]:
        moving = sitk.ReadImage(str(made / path))
        write_image(sitk.Cast(low + high - moving, sitk.sitkInt16), made / path)
    table[MADE_FROM] = [digest("inverted", contents) for contents in table[MADE_FROM]]
    write_csv(table, made / "pairs.csv")
