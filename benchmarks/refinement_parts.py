"""What each part of refinement brings: the similarity, the region in which it looks, the size of its voxels, and the
search for large motion before it.

python benchmarks/refinement_parts.py scratch/hard_pairs --groups plain one_lung --out results/benchmarks

The folder is what `hard_pairs.py` wrote from scans that trained the shipped weights: choices are made on these, not on
those that the results are reported on. Every variant starts from the same answer of the networks, with the search
where it is taken or without. Writes refinement_parts.csv: mean and worst TRE, standard deviation of the logarithm of
the Jacobian determinant, folding, and seconds of the refinement alone.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
from torch import Tensor
from tqdm import tqdm

from mine_reg.evaluation.metrics import field_metrics
from mine_reg.images.geometry import points_to_voxels
from mine_reg.images.points import read_points
from mine_reg.pair_tool.discrete import searched_for_large_motion
from mine_reg.pair_tool.inputs import read_images
from mine_reg.pair_tool.refine import NEAR_MM, RefinementSettings, refine
from mine_reg.pair_tool.report import names_of
from mine_reg.pair_tool.start import best_start
from mine_reg.pair_tool.views import Views
from mine_reg.registration import halved
from mine_reg.spatial import smooth, total_displacement, transform_points
from mine_reg.storage.writing import write_csv
from mine_reg.training.weights import RegistrationWeights, load_weights_file

SIMILARITIES = {
    "MINE": RefinementSettings(self_similarity=0.0),
    "MIND-SSC": RefinementSettings(mine=0.0),
    "MINE and MIND-SSC": RefinementSettings(),
}
REGIONS_MM = (NEAR_MM, 15.0)  # from the lungs
VOXELS_MM = (2.5, 5.0)  # those that the similarity compares
# as what follows was chosen one after another, not every combination is run
BOTH = "MINE and MIND-SSC"
VARIANTS = [(name, NEAR_MM, 2.5, False) for name in SIMILARITIES]
VARIANTS += [(name, 15.0, 2.5, False) for name in SIMILARITIES]
VARIANTS += [(BOTH, NEAR_MM, 5.0, False), (BOTH, NEAR_MM, 2.5, True)]
COLUMNS = ("similarity", "region_mm", "voxels_mm", "search")


class Prepared:
    """A pair as refinement gets it: images (1, 1, D, H, W) on the fine grid after the start, the networks' answer, and
    corresponding points in voxels."""

    def __init__(self, folder: Path, row, weights: RegistrationWeights):
        names = names_of(folder / row.fixed, folder / row.moving)
        images = read_images(folder / row.fixed, folder / row.moving, None, None, names)
        views, grid = Views(images, "cpu"), images.grid
        answer = best_start(views, weights.registration, weights.fine)
        shift = answer.start.shift
        self.fixed, self.moving, self.shown = views.fixed, views.moving(shift), views.shown(shift)
        self.regions = {mm: views.region(mm) for mm in REGIONS_MM}
        searched = searched_for_large_motion(views, answer, self.regions[NEAR_MM])
        self.theta = answer.theta.clone()
        self.dvf = {
            search: smooth(found.dvf, 0.9)[:, :, ::2, ::2, ::2].clone()
            for search, found in ((False, answer), (True, searched))
        }
        fixed, moving = (read_points(folder / getattr(row, f"{role}_points")) for role in ("fixed", "moving"))
        self.points = [points_to_voxels(p, grid).float()[None] for p in (fixed, moving - shift)]
        self.spacing_mm = grid.GetSpacing()[0]

    def refined(self, weights: RegistrationWeights, steps: int, variant: tuple) -> tuple[Tensor, Tensor]:
        """theta and DVF, in voxels of the fine grid."""
        similarity, mm, voxels_mm, search = variant
        arguments, region, shown, scale = (self.fixed, self.moving), self.regions[mm], self.shown, 1
        if voxels_mm == max(VOXELS_MM):
            arguments, scale = tuple(map(halved, arguments)), 2
            region, shown = (mask[::2, ::2, ::2].clone() for mask in (region, shown))
        theta, dvf = self.theta.clone(), self.dvf[search].clone() / scale
        how = {"settings": SIMILARITIES[similarity], "shown": shown}
        theta, dvf, _ = refine(*arguments, theta, dvf, weights.statistic, region, steps, **how)
        return theta, scale * dvf

    def measured(self, theta: Tensor, dvf: Tensor) -> dict:
        size = self.fixed.shape[2:]
        error = transform_points(self.points[0], size, theta, dvf) - self.points[1]
        tre = float(error.norm(dim=-1).mean()) * self.spacing_mm
        return {"tre_mm": tre} | field_metrics(total_displacement(theta, dvf, size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--groups", nargs="+", help="of hard pairs; all by default")
    parser.add_argument("--weights", default="midiceregnet")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    table, rows = pd.read_csv(arguments.folder / "manifest.csv"), []
    if arguments.groups:
        table = table[table["group"].isin(arguments.groups)]
    weights = load_weights_file(arguments.weights)
    for row in tqdm(list(table.itertuples()), unit="pair"):
        pair = Prepared(arguments.folder, row, weights)
        for search, dvf in pair.dvf.items():
            rows.append(dict(zip(COLUMNS, ("none", 0.0, 0.0, search), strict=True)) | {"seconds": 0.0})
            rows[-1] |= pair.measured(pair.theta, dvf)
        for variant in VARIANTS:
            start = time.perf_counter()
            answer = pair.refined(weights, arguments.steps, variant)
            what = dict(zip(COLUMNS, variant, strict=True))
            rows.append(what | {"seconds": time.perf_counter() - start} | pair.measured(*answer))
    by = pd.DataFrame(rows).groupby(list(COLUMNS), sort=False)
    found = by.mean(numeric_only=True).assign(tre_mm_worst=by["tre_mm"].max(), pairs=by.size()).reset_index()
    write_csv(found, arguments.out / "refinement_parts.csv", float_format="%.4g")
    print(found.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
