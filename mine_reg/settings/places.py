"""Where the study lives: its root folder, and where a notebook writes and reads."""

from pathlib import Path

PARAMS = "params.yaml"


def root() -> Path:
    """The folder that holds ``params.yaml``: the working directory or the nearest one above it.

    Raises FileNotFoundError outside a checkout of the study.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / PARAMS).is_file() and (folder / "dvc.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no {PARAMS} and dvc.yaml in {here} or above it; start inside a clone of the study")


def output_folder(name: str, out: str | Path | None = None) -> Path:
    """The folder a notebook writes to, made if needed: ``out`` (relative to the root), or ``scratch/<name>`` when None.

    The default keeps a run by hand away from the official results; only the pipeline passes the official folder.
    Raises NotADirectoryError for a file.
    """
    folder = root() / (out if out is not None else Path("scratch") / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(f"{folder} is a file, or lies in one; give a folder for the output") from None
    return folder


def input_path(official: str, given: str | Path | None = None) -> Path:
    """An input of a notebook: ``given``, or the pipeline's own ``official`` path, both relative to the root.

    Raises FileNotFoundError that says how to make a missing official input.
    """
    path = root() / (given if given is not None else official)
    if path.exists():
        return path
    hint = "check the path"
    if given is None:
        hint = f"run `make repro` (or `dvc repro`) first, or pass another path; {official} is made by the pipeline"
    raise FileNotFoundError(f"{path} does not exist: {hint}")
