"""A batch outlives a process that the system kills."""

import os
import signal

import pandas as pd

from mine_reg.pair_tool import batch
from mine_reg.pair_tool.batch import register_manifest

_REGISTERED = batch._registered


def killed_by_a_large_image(row, folder, *others):
    """As `batch._registered`, in a process that the system kills at the pair b."""
    if row["pair_id"] == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return _REGISTERED(row, folder, *others)


def test_a_pair_whose_process_is_killed_ends_no_other(make_table, weights, monkeypatch):
    table = make_table("abc")
    out = table.parent / "out"
    monkeypatch.setattr(batch, "_registered", killed_by_a_large_image)
    summary = register_manifest(table, out, weights=weights, device="cpu", workers=2).set_index("pair_id")
    assert summary.index.tolist() == [*"abc"]
    assert summary.loc["b", "error"].startswith("its process was killed, most likely because memory ran out")
    others = summary.drop(index="b")
    assert (others["error"] == "").all() and (others["verdict"] != "").all() and others["agreement"].notna().all()
    assert pd.read_csv(out / "summary.csv")["error"].notna().tolist() == [False, True, False]
    assert all((out / name / "transform.h5").is_file() for name in "ac") and not (out / "b").exists()
