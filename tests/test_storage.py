"""Kept results: complete or absent whenever a process is killed, and recognised by contents alone."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mine_reg.storage.results import MARK, digest, forget, is_complete, keep, locked
from mine_reg.storage.writing import BEGUN, begun_name


def files(folder: Path) -> dict[str, bytes]:
    """Contents of all files by name, of a mark without the times."""
    found = {}
    for path in folder.rglob("*"):
        if path.name == MARK:
            mark = json.loads(path.read_text())
            found[MARK] = mark["key"], {name: (size, sum_) for name, (size, _, sum_) in mark["files"].items()}
        elif path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def write(**contents):
    """What makes a result of text files; `__` in a name is a folder."""

    def make(folder):
        for name, text in contents.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return make


def never(folder):
    raise AssertionError("made again")


def test_a_result_is_made_once_and_again_for_another_key(tmp_path):
    out = tmp_path / "new/out"
    assert keep(out, "k1", write(a="1", inner__b="2")) and not keep(out, "k1", never)
    (out / "mine.txt").write_text("the user's own")
    assert not is_complete(out, "k2") and keep(out, "k2", write(a="3"))
    assert {name: value for name, value in files(out).items() if name != MARK} == {
        "a": b"3",
        "mine.txt": b"the user's own",
    }
    assert not (out / "inner").exists()
    assert keep(out, None, write(c="4")) and keep(out, None, write(c="5"))
    assert sorted(path.name for path in out.iterdir()) == [MARK, "c", "mine.txt"] and not is_complete(out, None)
    forget(out)
    assert not is_complete(out, "k2")


def test_what_fails_leaves_the_earlier_result_and_no_folders(tmp_path):
    out = tmp_path / "out"
    keep(out, "k1", write(a="1"))
    before = files(out)

    def fail(folder):
        (folder / "a").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError):
        keep(out, "k2", fail)
    assert files(out) == before and is_complete(out, "k1")
    with pytest.raises(ValueError):
        keep(tmp_path / "deep/er/out", "k", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda out: (out / "a").unlink(),
        lambda out: (out / "a").write_text("longer than before"),
        lambda out: (out / "a").write_text("2"),  # as long as before
        lambda out: ((out / "a").unlink(), (out / "a").mkdir(), (out / "a").rmdir()),
        lambda out: (out / MARK).write_text(""),
        lambda out: (out / MARK).write_text('{"key": "k", "files": {"a": 1}}'),
        lambda out: (out / MARK).write_text('{"key": "k", "files": []}'),
        lambda out: (out / MARK).write_text("[" * 100_000),
        lambda out: (out / MARK).write_bytes(b"\xff\xfe\x00"),
        lambda out: (out / MARK).write_text((out / MARK).read_text()[:-20]),
        lambda out: (out / MARK).write_text((out / MARK).read_text().replace('"k"', "7")),
        lambda out: (out / MARK).unlink(),
    ],
)
def test_what_was_changed_afterwards_is_made_again(tmp_path, damage):
    out = tmp_path / "out"
    keep(out, "k", write(a="1", old="left over"))
    damage(out)
    assert not is_complete(out, "k")
    assert keep(out, "k", write(a="1"), names=["a", "old"])
    assert is_complete(out, "k") and sorted(path.name for path in out.iterdir()) == [MARK, "a"]


def test_a_copy_is_as_good_as_the_result(tmp_path):
    keep(tmp_path / "out", "k", write(a="1"))
    os.utime(tmp_path / "out/a", (1, 1))  # as after a copy, whose times are its own
    assert not keep(tmp_path / "out", "k", never)


def test_a_mark_cannot_reach_out_of_its_folder(tmp_path):
    (tmp_path / "precious").write_text("1")
    for name in ("../precious", str(tmp_path / "precious"), "x/../../precious"):
        keep(tmp_path / "out", "k1", write(a="1"))
        mark = {"key": "k1", "files": {name: [1, 0, ""]}}
        (tmp_path / "out" / MARK).write_text(json.dumps(mark))
        assert not is_complete(tmp_path / "out", "k1") and keep(tmp_path / "out", "k2", write(a="1"))
        assert (tmp_path / "precious").read_text() == "1"


def test_links_to_folders_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert keep(tmp_path / "link", "k", write(a="1")) and not keep(tmp_path / "real", "k", never)
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("parent", ["file", "file/inner"])
def test_a_folder_that_cannot_be_made_is_named_before_the_work(tmp_path, parent):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=str(tmp_path / parent)):
        keep(tmp_path / parent, "k", never)


def test_a_folder_that_cannot_be_written_to_is_named_before_the_work(tmp_path):
    if os.geteuid():
        folder = tmp_path / "out"
        folder.mkdir(mode=0o500)
    else:  # whom permissions do not stop
        folder = Path("/sys/kernel")
    with pytest.raises(OSError) as raised:
        keep(folder, "k", never)
    assert raised.value.filename == str(folder)


def test_two_at_once_make_it_once(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        time.sleep(0.2)
        (folder / "a").write_text("1")

    with pytest.warns(UserWarning, match="another process is at work on"):
        threads = [threading.Thread(target=keep, args=(tmp_path / "out", "k", make)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(made) == 1 and is_complete(tmp_path / "out", "k")


def test_disks_without_locks_are_used_all_the_same(tmp_path, monkeypatch):
    def flock(handle, how):
        raise OSError(9, "Bad file descriptor")  # NFS, of a folder

    monkeypatch.setattr("mine_reg.storage.results.fcntl.flock", flock)
    with locked(tmp_path / "out") as held:
        assert not held
    others = tmp_path / "out" / begun_name()
    others.mkdir()
    assert keep(tmp_path / "out", "k", write(a="1")) and others.exists()  # another process may be at work in it


def test_what_a_killed_process_had_begun_is_swept(tmp_path):
    (tmp_path / f"{BEGUN}0123abcd-99999-012345-abcdef").mkdir()
    (tmp_path / f"{BEGUN}0123abcd-99999-012345-abcdef" / "half").write_text("")
    keep(tmp_path, "k", write(a="1"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARK, "a"]


KILLED = """
    import sys, time
    from pathlib import Path
    from mine_reg.storage.results import keep

    def make(folder):
        for number in range(6):
            for name in (f"{number}.txt", f"inner{number % 2}/{number}.txt"):
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(sys.argv[2] * (1000 + number))
                time.sleep(0.002)

    print("begun", flush=True)
    for turn in range(100):
        keep(Path(sys.argv[1]), f"{sys.argv[2]}{turn % 2}" if sys.argv[3] == "many" else sys.argv[2], make)
"""


@pytest.mark.parametrize("turns", ["many", "one"])
def test_killed_at_any_moment_the_end_is_as_undisturbed(tmp_path, turns):
    """Runs of two keys in turn, each killed somewhere between the first file and the mark of the last result."""
    out, program = tmp_path / "out", tmp_path / "program.py"
    program.write_text(textwrap.dedent(KILLED))
    chance = random.Random(0)
    for number in range(20):
        process = subprocess.Popen(
            [sys.executable, program, out, "xy"[number % 2], turns], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "begun\n"
        time.sleep(chance.uniform(0, 0.12))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for key in ("x", "y", "x0", "x1", "y0", "y1"):
            if is_complete(out, key):  # then with all its files, and no other's
                texts = [path.read_text() for path in out.rglob("*.txt") if BEGUN not in str(path)]
                assert len(texts) == 12 and {text[0] for text in texts} == {key[0]}
    subprocess.run([sys.executable, program, out, "z", "one"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, program, tmp_path / "quiet", "z", "one"], check=True, stdout=subprocess.DEVNULL)
    assert files(out) == files(tmp_path / "quiet")
    assert not list(tmp_path.rglob(f"{BEGUN}*"))


def test_a_digest_is_of_contents(tmp_path):
    folder, other = tmp_path / "one", tmp_path / "other"
    for where in (folder, other):
        (where / "sub").mkdir(parents=True)
        (where / "sub/a").write_text("1")
    assert digest(folder) == digest(other)
    before = digest(folder)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/a.pyc").write_text("compiled")
    (folder / MARK).write_text("{}")
    (folder / begun_name()).write_text("half")
    assert digest(folder) == before
    (folder / "sub/a").write_text("2")
    assert digest(folder) != before
    (folder / "sub/a").rename(folder / "sub/b")
    (folder / "sub/b").write_text("1")
    assert digest(folder) != before
    with pytest.raises(FileNotFoundError):
        digest(tmp_path / "nowhere")


def test_a_digest_sees_behind_links_and_ends_in_a_circle(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/slice").write_text("1")
    (tmp_path / "near").mkdir()
    (tmp_path / "near/link").symlink_to(tmp_path / "far")
    (tmp_path / "near/circle").symlink_to(tmp_path / "near")
    before = digest(tmp_path / "near")
    (tmp_path / "far/slice").write_text("2")
    assert digest(tmp_path / "near") != before


def test_a_digest_tells_kinds_and_values_apart(tmp_path):
    (tmp_path / "a").write_text("1")
    parts = [1, "1", 1.5, None, [], [1], {"a": 1}, b"1", tmp_path / "a", str(tmp_path / "a"), np.arange(5000)]
    parts += [np.where(np.arange(5000) == 2500, 0, np.arange(5000))]  # which numpy prints alike
    assert len({digest(part) for part in parts}) == len(parts)
    assert digest("a", "bc") != digest("ab", "c") and digest(1, 2) != digest(2, 1)
    with pytest.raises(TypeError, match="a object cannot be part of a key"):
        digest({"x": object()})
