"""The command `mine-reg`. Heavy modules are imported inside the commands, so that --help is instant."""

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Prepare and check your own CT pairs for the study of MIRegNet. `mine-reg COMMAND --help` explains a command.",
)


@app.callback()
def _commands() -> None:
    """Keeps `mine-reg COMMAND` the same however many commands there are."""


@app.command()
def check(
    manifest: Annotated[Path, typer.Argument(help="CSV table with one row per pair; see data_manifests/README.md.")],
    workers: Annotated[int, typer.Option(help="Processes, each of which holds one pair; -1: all cores.")] = -1,
) -> None:
    """Look at every pair of a manifest before running the study.

    Prints what was found, then every problem that makes the table unusable, and warnings about likely mistakes.
    Exit code 0 means that the table can be used, 1 that it cannot.
    """
    with _plain_errors():
        from mine_reg.check import check_manifest

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
    with _plain_errors():
        from mine_reg.datasets import make_manifest

        pairs = make_manifest(collection, folder, out)
    print(f"{out / 'manifest.csv'} lists {len(pairs)} pairs. Look at them with: mine-reg check {out / 'manifest.csv'}")


@app.command()
def train(
    network: Annotated[str, typer.Argument(help="affinenet, or deformnet, which needs a trained AffineNet.")],
    out: Annotated[Path, typer.Option(help="Folder for the weights, the settings and the learning curves.")],
    pairs: Annotated[Path, typer.Option(help="Preprocessed pairs, as notebook 02 writes them.")] = Path("data/preprocessed"),
    affinenet: Annotated[Path | None, typer.Option(help="Folder of the trained AffineNet below a DeformNet.")] = None,
    profile: Annotated[str | None, typer.Option(help="Profile of params.yaml; by default the one chosen there.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another value for a number of params.yaml, "
                       "e.g. --set loss=midiceregnet --set devices=4; may be repeated.")] = None,
) -> None:
    """Train one network with the settings of params.yaml, outside the notebooks: on a cluster, or on several GPUs.

    One process:    mine-reg train affinenet --out models/affinenet
    Four GPUs:      torchrun --nproc-per-node 4 -m mine_reg.cli train affinenet --out models/affinenet --set devices=4
    SLURM:          srun mine-reg train affinenet --out models/affinenet --set devices=4 --set nodes=2
                    (with as many tasks per node as devices)

    Start it again after an interruption and it goes on from the last validation.
    """
    with _plain_errors():
        from mine_reg.train_command import train_network

        result = train_network(network, out, pairs, affinenet, profile, setting or [])
    if result is not None:
        print(f"{out} holds the trained {network}: validation loss {result['val_loss']:.4f}, {result['skipped_steps']} steps skipped")


@contextmanager
def _plain_errors():
    """An error that the user can mend is a sentence on stderr and exit code 1, without a traceback."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        system = isinstance(error, OSError) and error.filename  # else "[Errno 2] ..."
        print(f"Error: {error.filename}: {error.strerror}" if system else f"Error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
