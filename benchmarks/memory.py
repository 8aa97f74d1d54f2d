"""Peak memory of everything that `mine-reg` does with a pair, against what `register` needs.

python benchmarks/memory.py --size 512 512 600 --out results/benchmarks

A phantom pair with masks and points, resampled to the size of clinical scans. Every command is a process of its own,
from starting Python to the last file, one after another. Written is ``memory.csv``: peak memory in GB, and its ratio to
that of `register` without further options.
"""

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from peak_memory import peak_memory

from mine_reg.images.geometry import to_image
from mine_reg.synthetic.phantom import grid_origin, make_pair

_PHANTOM, _SPACING_MM, _SEED = 96, 3.6, 1


def commands(folder: Path) -> dict[str, list[str]]:
    """What is measured: arguments of `mine-reg` by name, for the files that `make_files` writes."""
    fixed, moving = (str(folder / f"{role}.nii.gz") for role in ("fixed", "moving"))
    masks = [f"--{role}-mask={folder / role}_mask.nii.gz" for role in ("fixed", "moving")]
    points = [f"--{role}-points={folder / role}_points.csv" for role in ("fixed", "moving")]
    transform, pair = str(folder / "registered/transform.h5"), ["register", fixed, moving, "--out"]
    evaluate, onto = ["evaluate", fixed, moving, transform], [f"--reference={fixed}"]
    return {
        "register": [*pair, str(folder / "registered")],
        "register with masks and points": [*pair, str(folder / "masks"), *masks, *points],
        "register --refine 20": [*pair, str(folder / "refined"), "--refine=20"],
        "register --inverse": [*pair, str(folder / "inverse"), "--inverse"],
        "register --learn2reg": [*pair, str(folder / "learn2reg"), "--learn2reg"],
        "evaluate": evaluate,
        "evaluate with masks": [*evaluate, *masks],
        "evaluate with points": [*evaluate, *points],
        "evaluate with masks and points": [*evaluate, *masks, *points],
        "apply to an image": ["apply", transform, moving, str(folder / "moved.nii.gz"), *onto],
        "apply to a label": [
            "apply",
            transform,
            str(folder / "moving_mask.nii.gz"),
            str(folder / "label.nii.gz"),
            *onto,
        ]
        + ["--label"],
        "apply to points": ["apply", transform, str(folder / "fixed_points.csv"), str(folder / "mapped.csv")],
        "check": ["check", str(folder / "pairs.csv")],
        "batch of two pairs": ["batch", str(folder / "two_pairs.csv"), "--out", str(folder / "batch")],
    }


def make_files(folder: Path, size: tuple[int, int, int]) -> None:
    """A pair of ``size`` (x, y, z) voxels with masks, points and manifests of one pair and of two."""
    pair = make_pair((_PHANTOM,) * 3, _SPACING_MM, _SEED)
    grid = sitk.Image(list(size), sitk.sitkUInt8)
    grid.SetSpacing([(_PHANTOM - 1) * _SPACING_MM / (n - 1) for n in size])
    grid.SetOrigin(grid_origin((_PHANTOM,) * 3, _SPACING_MM))
    for name in ("fixed", "moving", "fixed_mask", "moving_mask"):
        kind, how = ("uint8", sitk.sitkNearestNeighbor) if "mask" in name else ("int16", sitk.sitkLinear)
        image = to_image(getattr(pair, name), (_SPACING_MM,) * 3, grid.GetOrigin(), dtype=kind)
        image = sitk.Resample(image, grid, sitk.Transform(), how)
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"), useCompression=True, compressionLevel=1)
    for name in ("fixed_points", "moving_points"):
        np.savetxt(
            folder / f"{name}.csv",
            getattr(pair, f"{name}_xyz").numpy(),
            fmt="%.4f",
            delimiter=",",
            header="x,y,z",
            comments="",
        )
    names = ["fixed", "moving", "fixed_mask", "moving_mask", "fixed_points", "moving_points"]
    row = [f"{name}.csv" if "points" in name else f"{name}.nii.gz" for name in names]
    for table, pairs in (("pairs", ["a"]), ("two_pairs", ["a", "b"])):
        rows = [",".join(["pair_id", *names]), *(",".join([pair, *row]) for pair in pairs)]
        (folder / f"{table}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 600], metavar=("X", "Y", "Z"))
    parser.add_argument("--only", nargs="+", help="words, one of which must be in the name of what is measured")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    program = [sys.executable, "-m", "mine_reg.cli"]
    rows, first, machine = [], None, f"{platform.machine()}, {os.cpu_count()} cores, CPU"
    print(f"{' x '.join(map(str, arguments.size))} voxels, {machine}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), tuple(arguments.size))
        for name, command in commands(Path(folder)).items():
            if first is not None and arguments.only and not any(word in name for word in arguments.only):
                continue
            with open(Path(folder) / "said", "w+", encoding="utf-8") as said:
                code, gb, seconds = peak_memory([*program, *command], 0.2, stdout=said, stderr=said)
                if code:
                    said.seek(0)
                    sys.exit(f"{name} ended with {code}: {said.read()[-1000:]}")
            first = first or gb
            rows.append({"command": name, "peak_gb": gb, "ratio": gb / first, "seconds": seconds})
            print(f"{name:32s} {gb:6.2f} GB  {gb / first:5.2f} x register  {seconds:6.1f} s", flush=True)
    table = pd.DataFrame(rows).assign(size="x".join(map(str, arguments.size)), machine=machine)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "memory.csv", index=False, float_format="%.3g")


if __name__ == "__main__":
    main()
