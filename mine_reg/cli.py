"""The command `mine-reg`. Heavy modules are imported inside the commands, so that --help is instant."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mine_reg.storage.process import be_brief_and_passive
from mine_reg.storage.sentences import plain_errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Register chest CTs, and prepare and check your own pairs for the study of MIRegNet. "
    "`mine-reg COMMAND --help` explains a command.",
)

# what several commands ask
_Weights = Annotated[str, typer.Option(help="Weights in the package, or a file of your own.")]
_Refine = Annotated[
    int, typer.Option(min=0, help="At most so many steps of instance optimisation after the networks; 100 is plenty.")
]
_Device = Annotated[str | None, typer.Option(help="cpu | cuda | cuda:N; by default a GPU where there is one.")]
_Inverse = Annotated[bool, typer.Option("--inverse", help="Also write the inverse transform; its error is reported.")]
_Learn2Reg = Annotated[bool, typer.Option("--learn2reg", help="Also write the displacement field in Learn2Reg's form.")]
_Map = Annotated[bool, typer.Option("--inconsistency", help="Also write a map of forward-backward inconsistency, mm.")]
_Strict = Annotated[
    bool, typer.Option("--strict", help="Exit code 3 for a doubtful result, 4 for one that failed; both are written.")
]
_POINTS = "Points of the fixed image: .csv with x,y,z in LPS mm, or 3D Slicer's .fcsv or .mrk.json."
_FixedPoints = Annotated[Path | None, typer.Option(help=_POINTS)]
_MovingPoints = Annotated[Path | None, typer.Option(help="Their partners, row by row.")]


@app.callback()
def _commands() -> None:
    """Before every command, and keeps `mine-reg COMMAND` the same however many commands there are."""
    be_brief_and_passive()


@app.command()
def register(
    fixed: Annotated[
        Path, typer.Argument(help="CT that stays: a NIfTI, NRRD or MetaImage file, or a folder with one DICOM series.")
    ],
    moving: Annotated[Path, typer.Argument(help="CT that is brought onto it.")],
    out: Annotated[Path, typer.Option(help="Folder for moved.nii.gz, the transform's files and report.json.")],
    weights: _Weights = "midiceregnet",
    refine: _Refine = 0,
    device: _Device = None,
    fixed_mask: Annotated[Path | None, typer.Option(help="What to register in it; else the lungs, found.")] = None,
    moving_mask: Annotated[Path | None, typer.Option(help="The same in the moving image.")] = None,
    fixed_points: _FixedPoints = None,
    moving_points: _MovingPoints = None,
    inverse: _Inverse = False,
    learn2reg: _Learn2Reg = False,
    inconsistency: _Map = False,
    strict: _Strict = False,
) -> None:
    """Register two chest CTs.

    OUT receives the moved image on the fixed image's grid; quick_look.png; transform.h5, which ITK and 3D Slicer apply;
    0GenericAffine.mat and 1Warp.nii.gz, which ANTs applies; dvf.nii.gz, the displacements in mm; and report.json, with
    a verdict: trusted, doubtful or failed. All map fixed to moving points.
    """
    with plain_errors():
        from mine_reg.pair_tool.files import register_files
        from mine_reg.pair_tool.verdict import EXIT_CODES

        written = {"inverse": inverse, "learn2reg": learn2reg, "inconsistency": inconsistency}
        masks = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
        points = {"fixed_points": fixed_points, "moving_points": moving_points}
        options = {"weights": weights, "refine": refine, "device": device}
        result = register_files(fixed, moving, out, **written, **options, **masks, **points)
    for name, value in result.report.items():
        if isinstance(value, float):
            print(f"{name:32s} {value:10.4f}")
    for sentence in result.report["warnings"]:
        print(f"Warning: {sentence}.")
    found = result.report["verdict"]
    print(f"{out} holds the registered pair, {found}, made in {result.report['seconds']['total']:.1f} s.")
    if strict and EXIT_CODES[found]:
        raise typer.Exit(EXIT_CODES[found])


@app.command()
def batch(
    manifest: Annotated[Path, typer.Argument(help="CSV table with one row per pair; see data_manifests/README.md.")],
    out: Annotated[Path, typer.Option(help="Folder that receives one folder per pair, and summary.csv.")],
    weights: _Weights = "midiceregnet",
    refine: _Refine = 0,
    device: _Device = None,
    inverse: _Inverse = False,
    learn2reg: _Learn2Reg = False,
    inconsistency: _Map = False,
    strict: _Strict = False,
    workers: Annotated[int | None, typer.Option(help="Pairs at once, one core each; by default as fits.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, for several machines.")] = None,
) -> None:
    """Register all pairs of a table. A bad pair does not stop the others; started again, it does what is missing.

    Exit code 0 means that every pair was registered, 1 that some could not be; summary.csv says which and why, and how
    far each result can be trusted.
    """
    with plain_errors():
        from mine_reg.pair_tool.batch import register_manifest
        from mine_reg.pair_tool.verdict import EXIT_CODES

        written = {"inverse": inverse, "learn2reg": learn2reg, "inconsistency": inconsistency}
        how = {"weights": weights, "refine": refine, "device": device, "workers": workers, "scheduler": scheduler}
        summary = register_manifest(manifest, out, **written, **how)
    failed = summary[summary["error"] != ""]
    for row in failed.itertuples():
        print(f"{row.pair_id}: {row.error}", file=sys.stderr)
    doubted = (summary["verdict"].isin(("doubtful", "failed"))).sum()
    said = f"{len(failed)} of which could not be registered, and {doubted} of which are not to be trusted unseen"
    said += f". {speed:.0f} pairs per hour" if (speed := summary.attrs["pairs_per_hour"]) else ""
    print(f"{out / 'summary.csv'} lists {len(summary)} pairs, {said}.")
    if len(failed):
        raise typer.Exit(1)
    if strict and doubted:
        raise typer.Exit(max(map(EXIT_CODES.get, summary["verdict"])))


@app.command()
def apply(
    transform: Annotated[Path, typer.Argument(help="transform.h5, or inverse.h5 for the way back.")],
    given: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Image or label in the moving space, or points as for `register`.")
    ],
    out: Annotated[
        Path, typer.Argument(help="File to write: .nii.gz, .nii, .nrrd or .mha; points: .csv, .fcsv or .mrk.json, LPS.")
    ],
    reference: Annotated[
        Path | None, typer.Option(help="Image on whose grid the result lies: the fixed image. Not for points.")
    ] = None,
    label: Annotated[bool, typer.Option("--label", help="Nearest neighbour, for masks and segmentations.")] = False,
) -> None:
    """Apply a transform to another image, a label or points, at full resolution.

    Images go from the moving to the fixed space. Points go with the transform, from the fixed to the moving space.
    """
    with plain_errors():
        from mine_reg.images.points import is_points_file
        from mine_reg.pair_tool.files import apply_to_image, apply_to_points

        if is_points_file(given):
            apply_to_points(transform, given, out)
        elif reference is None:
            raise ValueError("an image needs --reference, the image on whose grid the result is to lie")
        else:
            apply_to_image(transform, given, reference, out, label)
    print(f"{out} is written.")


@app.command()
def evaluate(
    fixed: Annotated[Path, typer.Argument(help="The fixed CT.")],
    moving: Annotated[Path, typer.Argument(help="The moving CT.")],
    transform: Annotated[
        list[Path],
        typer.Argument(help="transform.h5; or several files in ANTs' order: 1Warp.nii.gz 0GenericAffine.mat."),
    ],
    fixed_mask: Annotated[Path | None, typer.Option(help="Lung mask of the fixed image.")] = None,
    moving_mask: Annotated[Path | None, typer.Option(help="Lung mask of the moving image.")] = None,
    fixed_points: _FixedPoints = None,
    moving_points: _MovingPoints = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the numbers.")] = None,
) -> None:
    """Measure a transform, of this program or another: overlap and surface distances with masks, landmark error with
    points, folding always."""
    with plain_errors():
        from mine_reg.pair_tool.report import evaluate as evaluate_transform
        from mine_reg.storage.writing import check_place, write_json

        inputs = (fixed, moving, *transform, fixed_mask, moving_mask, fixed_points, moving_points)
        if out is not None:
            if os.path.realpath(out) in [os.path.realpath(path) for path in inputs if path is not None]:
                raise ValueError(f"{out} is read and would be replaced by the numbers; write to another file")
            check_place(out)
        report = evaluate_transform(fixed, moving, transform, fixed_mask, moving_mask, fixed_points, moving_points)
        if out is not None:
            write_json(report, out)
    for name, value in report.items():
        print(f"{name:32s} {value:10.4f}")


@app.command()
def check(
    manifest: Annotated[Path, typer.Argument(help="CSV table with one row per pair; see data_manifests/README.md.")],
    workers: Annotated[int, typer.Option(help="Processes, each of which holds one pair; -1: all cores.")] = -1,
) -> None:
    """Look at every pair of a manifest before running the study.

    Prints what was found, then every problem that makes the table unusable, and warnings about likely mistakes.
    Exit code 0 means that the table can be used, 1 that it cannot.
    """
    with plain_errors():
        from mine_reg.pairs.check import check_manifest

        table, problems, warnings = check_manifest(manifest, workers)
    if len(table):
        table = table.set_index("pair_id").dropna(axis="columns", how="all").astype(object)
        table = table.where(table.notna(), "").T  # pandas writes <NA> whatever na_rep is
        print(table.to_string(float_format="{:.3g}".format, line_width=120), end="\n\n")
    for title, sentences in (("Problems", problems), ("Warnings", warnings)):
        if sentences:
            print(f"{title}:", *sentences, sep="\n  ", end="\n\n")
    print(f"{manifest} {'cannot be used: mend the problems above' if problems else 'can be used'}.")
    if problems:
        raise typer.Exit(1)


@app.command()
def manifest(
    collection: Annotated[str, typer.Argument(help="Name of the public collection; a wrong one lists those known.")],
    folder: Annotated[Path, typer.Argument(help="Where its unpacked files are.")],
    out: Annotated[Path, typer.Argument(help="Folder to make; it receives manifest.csv and what belongs to it.")],
) -> None:
    """Write the manifest of a public collection that you have downloaded."""
    with plain_errors():
        from mine_reg.pairs.public_collections import make_manifest

        pairs = make_manifest(collection, folder, out)
    print(f"{out / 'manifest.csv'} lists {len(pairs)} pairs. Look at them with: mine-reg check {out / 'manifest.csv'}")


@app.command()
def benchmark(
    collection: Annotated[str, typer.Argument(help="Name of the public collection; a wrong one lists those known.")],
    folder: Annotated[Path, typer.Argument(help="Where its unpacked files are.")],
    out: Annotated[Path, typer.Option(help="Folder for benchmark.csv, benchmark.md, the pairs and the results.")],
    weights: _Weights = "midiceregnet",
    refine: _Refine = 0,
    device: _Device = None,
) -> None:
    """Register a public collection of lung CT that you have downloaded, and measure the landmark errors as its owners
    do, beside published results. Started again, it does what is missing.

    Exit code 0 means that every case was judged, 1 that some could not be; benchmark.md says which and why.
    """
    with plain_errors():
        from mine_reg.pair_tool.benchmark import benchmark as run

        table = run(collection, folder, out, weights=weights, refine=refine, device=device)
    failed = table[table["error"] != ""]
    for row in failed.itertuples():
        print(f"{row.pair_id}: {row.error}", file=sys.stderr)
    judged = table["pair_id"].nunique() - len(failed)
    print(f"{out / 'benchmark.md'} shows {judged} cases; {len(failed)} could not be judged.")
    if len(failed):
        raise typer.Exit(1)


@app.command()
def train(
    network: Annotated[str, typer.Argument(help="affinenet, or deformnet, which needs a trained AffineNet.")],
    out: Annotated[Path, typer.Option(help="Folder for the weights, the settings and the learning curves.")],
    pairs: Annotated[Path, typer.Option(help="Preprocessed pairs, as notebook 02 writes them.")] = Path(
        "data/preprocessed"
    ),
    affinenet: Annotated[Path | None, typer.Option(help="Folder of the trained AffineNet below a DeformNet.")] = None,
    profile: Annotated[str | None, typer.Option(help="Profile of params.yaml; else the one chosen there.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Another value for a number of params.yaml, "
            "e.g. --set loss=midiceregnet --set devices=4; may be repeated.",
        ),
    ] = None,
) -> None:
    """Train one network with the settings of params.yaml, outside the notebooks: on a cluster, or on several GPUs.

    One process:    mine-reg train affinenet --out models/affinenet
    Four GPUs:      torchrun --nproc-per-node 4 -m mine_reg.cli train affinenet --out models/affinenet --set devices=4
    SLURM:          srun mine-reg train affinenet --out models/affinenet --set devices=4 --set nodes=2
                    (with as many tasks per node as devices)

    Start it again after an interruption and it goes on from the last validation.
    """
    with plain_errors(until_stopped=False):
        from mine_reg.training.datasets import train_network

        result = train_network(network, out, pairs, affinenet, profile, setting or [])
    if result is not None:
        print(
            f"{out} holds the trained {network}: validation loss {result['val_loss']:.4f}, "
            f"{result['skipped_steps']} steps skipped"
        )


if __name__ == "__main__":
    app()
