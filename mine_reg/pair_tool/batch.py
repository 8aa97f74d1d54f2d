"""What `mine-reg batch` does: every pair of a manifest, and a summary."""

import contextlib
import json
import os
import time
from pathlib import Path

import joblib
import pandas as pd
from tqdm import tqdm

from mine_reg.images.reading import image_files
from mine_reg.pair_tool.device import chosen_device
from mine_reg.pair_tool.files import ALL_FILES, FURTHER, REPORT, register_files
from mine_reg.pairs.manifest import ManifestError, read_manifest
from mine_reg.storage.parallel import in_parallel, outliving
from mine_reg.storage.results import code, digest
from mine_reg.storage.sentences import one_sentence
from mine_reg.storage.writing import check_place, write_csv
from mine_reg.training.weights import load_weights_file, weights_path

# code of a registration
DECIDING = ("models.py", "losses.py", "spatial.py", "registration.py", "images", "pair_tool", "evaluation/metrics.py")
DECIDING += ("evaluation/mutual_information.py", "training/weights.py", "training/similarity.py")
DECIDING += ("training/self_similarity.py",)
_MANY = 2  # pairs per core, from which on pairs share the cores: each process takes seconds to start
_KILLED = "its process was killed, most likely because memory ran out; register it with more memory, or smaller images"
_GB_OF_A_PAIR = 4.5  # of memory, that of 512 x 512 x 600 voxels (results/benchmarks/memory.csv)


def register_manifest(
    manifest: Path,
    out: Path,
    inverse: bool = False,
    learn2reg: bool = False,
    inconsistency: bool = False,
    weights: str | Path = "midiceregnet",
    workers: int | None = None,
    scheduler: str | None = None,
    **options,
) -> pd.DataFrame:
    """Register every pair of a manifest, each into a folder of ``out`` with its name, and write ``out/summary.csv``.

    workers : pairs at once, one core each; 1: one after the other, on all cores; None: as many as there are cores and
        memory for, where there are many pairs and no GPU
    scheduler : address of a Dask scheduler whose workers see the same files, e.g. ``tcp://host:8786``

    A pair whose process is killed while others run is done again alone, and gets its sentence if it is killed again.
    A pair that is already there from the same contents and options is not done again; one that fails, or whose row is
    wrong, gets its sentence in the column ``error`` and does not stop the others. Returns the summary, one row per
    pair; ``attrs["pairs_per_hour"]`` tells how fast pairs were made, None where all were there. Raises what
    `read_manifest` raises when no row can be used, and ValueError or OSError when no pair could be registered so: for
    weights, a device or workers that are not there, an ``out`` that cannot be written to, or results that would
    replace what is read.
    """
    table, errors = _usable(Path(os.path.abspath(manifest)))  # paths are relative to where it is given, be it a link
    out = Path(os.path.realpath(out))  # the workers of a cluster may be in another folder
    _refuse_replacing(manifest, table, out)
    weights = Path(weights).resolve() if Path(weights).suffix else weights
    summary, start = out / "summary.csv", time.monotonic()
    workers = _at_once(workers, len(table), chosen_device(options.get("device")))
    load_weights_file(weights)
    check_place(summary)
    options |= {"weights": weights}
    written = {"inverse": inverse, "learn2reg": learn2reg, "inconsistency": inconsistency}
    records = table.to_dict("records")
    calls = {
        number: (_registered, row, out / row["pair_id"], errors.get(number, ""), written, options)
        for number, row in enumerate(records)
    }
    if scheduler:
        outcomes = in_parallel(calls, workers, scheduler)
    elif workers == 1:
        outcomes = ((number, function(*given)) for number, (function, *given) in calls.items())
    else:
        outcomes = outliving(calls, workers, lambda number: (_summary_row(records[number], _KILLED), False))
    rows, made = {}, 0
    for number, (row, new) in tqdm(outcomes, total=len(calls), desc="register", unit="pair"):
        rows[number] = row
        made += new
        with contextlib.suppress(OSError):  # a full disk; the last time it is said
            _write_summary(rows, summary)
    result = _write_summary(rows, summary)
    result.attrs["pairs_per_hour"] = 3600 * made / (time.monotonic() - start) if made else None
    return result


def _refuse_replacing(manifest: Path, table: pd.DataFrame, out: Path) -> None:
    """Raises ValueError when a result of any pair would replace the manifest, or what another pair is made from."""
    made = {os.path.realpath(out / "summary.csv")}
    made |= {os.path.realpath(out / pair / name) for pair in table["pair_id"] for name in ALL_FILES}
    for path in (manifest, *table[["fixed", "moving", *FURTHER]].to_numpy().ravel()):
        if path and os.path.realpath(path) in made:
            raise ValueError(f"{path} is read and would be replaced by a result; give another folder for the results")


def _registered(row: dict, folder: Path, error: str, written: dict, options: dict) -> tuple[dict, bool]:
    """The row of the summary for one pair, and whether it was made now."""
    given, report, new = {name: Path(row[name]) if row[name] else None for name in FURTHER}, {}, False
    try:
        if not error:
            pair, key = (Path(row["fixed"]), Path(row["moving"])), _key(row, written | options)
            new = register_files(*pair, folder, key=key, **written, **given, **options) is not None
            report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except Exception as problem:  # noqa: BLE001 - whatever is wrong with one pair, the others are registered
        error = one_sentence(problem)
    return _summary_row(row, error, report), new


def _summary_row(row: dict, error: str, report: dict | None = None) -> dict:
    """What the summary says of one pair of the manifest."""
    report = report or {}
    numbers = {name: value for name, value in report.items() if isinstance(value, float)}
    warned = "; ".join(report.get("warnings", []))
    said = {"error": error, "verdict": report.get("verdict", ""), "warnings": warned}
    return {"pair_id": row["pair_id"], **said, **numbers}


def _at_once(workers: int | None, pairs: int, device: str) -> int:
    """How many pairs are registered at once. Raises ValueError for a number that makes no sense."""
    if workers is not None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; give how many pairs to register at once, 1 or more")
        return workers
    cores = joblib.effective_n_jobs(-1)
    if device != "cpu" or pairs < _MANY * cores:
        return 1
    if not hasattr(os, "sysconf"):  # Windows does not tell it so
        return 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return max(1, min(cores, int(memory / _GB_OF_A_PAIR)))


def _usable(manifest: Path) -> tuple[pd.DataFrame, dict[int, str]]:
    """A table some of whose rows can be used, and what is wrong with the others, by their place. Raises what
    `read_manifest` raises when none can, or the table as a whole is wrong."""
    try:
        return read_manifest(manifest), {}
    except ManifestError as error:
        errors = {}
        for row, problem in zip(error.rows, error.problems, strict=True):
            errors[row] = f"{errors[row]}; {problem}" if row in errors else problem
        if -1 in errors or len(errors) == len(error.table):
            raise
        return error.table, errors


def _write_summary(rows: dict[int, dict], path: Path) -> pd.DataFrame:
    table = pd.DataFrame([rows[number] for number in sorted(rows)])
    write_csv(table, path, float_format="%.6g")
    return table


def _key(row: dict, options: dict) -> str:
    """Changes with the contents of a file of the pair or of the weights, with an option, and with the program."""
    files = []
    for name in ("fixed", "moving", *FURTHER):
        given = Path(row[name]) if row[name] else None
        files += [None] if given is None else [given] if "points" in name else image_files(given)
    return digest(options, weights_path(options["weights"]), *files, *code(*DECIDING))
