"""Files are whole or absent: on a full disk, after a signal, and for names that cannot be written."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from mine_reg.images.geometry import to_image
from mine_reg.images.writing import quiet, write_image, write_transform_file
from mine_reg.storage.sentences import one_sentence
from mine_reg.storage.writing import BEGUN, check_place, sweep, whole_file, write_csv, write_json, write_text

LIMIT = 200_000  # bytes of a file


@contextmanager
def no_file_above(limit: int):
    """As on a disk with as little room; Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def noise() -> sitk.Image:
    """2 MB that cannot be compressed much, on an oblique grid."""
    values = np.random.default_rng(0).integers(-(2**15), 2**15, (100, 100, 100)).astype(np.int16)
    return to_image(values, (1.0, 2.0, 3.0), (5.0, 6.0, 7.0), (0, -1, 0, 1, 0, 0, 0, 0, 1))


@pytest.fixture(scope="module")
def transform() -> sitk.CompositeTransform:
    values = np.random.default_rng(0).random((30, 30, 30, 3))
    field = sitk.DisplacementFieldTransform(sitk.GetImageFromArray(values, isVector=True))
    return sitk.CompositeTransform([sitk.AffineTransform(3), field])


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha", "A.NII.GZ", "patient 1.2.Nrrd"])
@pytest.mark.parametrize("compress", [True, False])
def test_images_come_back_as_they_were(noise, tmp_path, name, compress):
    write_image(noise, tmp_path / name, compress)
    (found,) = tmp_path.iterdir()
    assert found.name == name
    again = sitk.ReadImage(str(found))
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(again), sitk.GetArrayViewFromImage(noise))
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(again, what)(), getattr(noise, what)(), atol=1e-6)
    assert again.GetPixelID() == noise.GetPixelID()


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_every_type_keeps_its_values(tmp_path, kind, suffix):
    limits = np.iinfo(kind) if np.dtype(kind).kind in "iu" else np.finfo(kind)
    values = np.array([limits.min, limits.max, 0, 1, 100, 3] * 16, kind).reshape(4, 4, 6)
    write_image(sitk.GetImageFromArray(values), tmp_path / f"a{suffix}")
    again = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"a{suffix}")))
    assert again.dtype == values.dtype
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize(
    "name", ["a.mhd", "a.nhdr", "a.hdr", "a.img.gz", "a.tif", "a.vtk", "a.gz", "a", "a.h5", ".nii.gz", "nii.gz"]
)
def test_names_that_would_lose_something_are_refused(noise, tmp_path, name):
    with pytest.raises(ValueError, match="end it in .nii.gz, .nii, .nrrd or .mha"):
        write_image(noise, tmp_path / name)
    assert not list(tmp_path.iterdir())


WRITERS = {
    "a.nii.gz": lambda path, noise, transform: write_image(noise, path),
    "a.nii": lambda path, noise, transform: write_image(noise, path),
    "a.nrrd": lambda path, noise, transform: write_image(noise, path),
    "a.mha": lambda path, noise, transform: write_image(noise, path),
    "t.h5": lambda path, noise, transform: write_transform_file(transform, path),
    "t.tfm": lambda path, noise, transform: write_transform_file(transform, path),
    "a.json": lambda path, noise, transform: write_json(["x" * 2 * LIMIT], path),
    "a.csv": lambda path, noise, transform: write_csv(pd.DataFrame({"x": range(LIMIT)}), path),
    "a.txt": lambda path, noise, transform: write_text("x" * 2 * LIMIT, path),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("before", [None, b"of an earlier run"])
def test_what_does_not_fit_is_one_sentence_and_leaves_nothing(noise, transform, tmp_path, capfd, name, before):
    if before:
        (tmp_path / name).write_bytes(before)
    with no_file_above(LIMIT), pytest.raises(OSError) as raised:
        WRITERS[name](tmp_path / name, noise, transform)
    assert raised.value.errno == errno.EFBIG
    assert one_sentence(raised.value) == f"{tmp_path / name}: File too large"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({name: before} if before else {})
    assert capfd.readouterr() == ("", "")  # nothing of HDF5, NIfTI or MetaImage


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk; the limit of a file's size is tested in any case")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(noise, transform, small_disk, capfd, name):
    (small_disk / "full").write_bytes(bytes(900_000))
    with pytest.raises(OSError) as raised:
        WRITERS[name](small_disk / name, noise, transform)
    assert one_sentence(raised.value) == f"{small_disk / name}: No space left on device"
    assert [path.name for path in small_disk.iterdir()] == ["full"]
    assert capfd.readouterr() == ("", "")


def test_a_transform_that_itk_cannot_write_so_is_said(transform, tmp_path):
    with pytest.raises(ValueError, match=r"is a transform that ITK cannot write so"):
        write_transform_file(transform, tmp_path / "t.mat")
    assert not list(tmp_path.iterdir())


def test_a_writer_that_reports_success_is_not_believed(noise, tmp_path, monkeypatch):
    """As ITK does on a disk whose errors come late."""

    def cut(image, path, compress):
        whole(image, path, compress)
        Path(path).write_bytes(Path(path).read_bytes()[:-10_000])

    whole = sitk.WriteImage
    monkeypatch.setattr("mine_reg.images.writing.sitk.WriteImage", cut)
    for name in ("a.nii.gz", "a.nii", "a.nrrd", "a.mha"):
        with pytest.raises(OSError, match="could not be written whole") as raised:
            write_image(noise, tmp_path / name)
        assert raised.value.filename == str(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_transform_that_comes_back_otherwise_is_not_believed(transform, tmp_path, monkeypatch):
    other = sitk.TranslationTransform(3, (0.0, 0.0, 0.01))
    monkeypatch.setattr("mine_reg.images.writing.sitk.ReadTransform", lambda path: other)
    with pytest.raises(OSError, match="could not be written whole"):
        write_transform_file(transform, tmp_path / "t.h5")
    assert not list(tmp_path.iterdir())


def test_json_and_csv(tmp_path):
    write_json({"a": [1.5, float("nan")], "b": {"c": float("inf"), "d": "é"}, "e": None}, tmp_path / "new/a.json")
    found = json.loads((tmp_path / "new/a.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert found == {"a": [1.5, None], "b": {"c": None, "d": "é"}, "e": None}
    write_csv(pd.DataFrame({"x": [1 / 3], "y": ["é"]}), tmp_path / "a.csv", float_format="%.4f")
    assert (tmp_path / "a.csv").read_bytes() == "x,y\n0.3333,é\n".encode()


def test_permissions_links_and_special_files(tmp_path):
    os.umask(before := os.umask(0o077))
    for mask, mode in ((0o077, 0o600), (0o002, 0o664)):
        os.umask(mask)
        try:
            write_text("1", tmp_path / f"{mode}")
        finally:
            os.umask(before)
        assert (tmp_path / f"{mode}").stat().st_mode & 0o777 == mode
    (tmp_path / "secret").write_text("")
    (tmp_path / "secret").chmod(0o640)
    (tmp_path / "link").symlink_to("secret")
    write_text("1", tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "secret").read_text() == "1"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o640
    write_text("nowhere", "/dev/null")
    assert Path("/dev/null").is_char_device()


def test_places_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("1")
    (tmp_path / "folder").mkdir()
    for path, message in (
        (tmp_path / "file/a.txt", "Not a directory|File exists"),
        (tmp_path / "file/deeper/a.txt", "Not a directory"),
        (tmp_path / "folder", "is a folder; name a file in it"),
    ):
        for write in (check_place, lambda path: write_text("", path)):
            with pytest.raises(OSError, match=message):
                write(path)
    check_place(tmp_path / "new/deeper/a.txt")
    check_place(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "1"


def test_a_failed_block_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "new/deeper/a.nii.gz") as beside:
        assert beside.name.endswith(".nii.gz") and beside.is_file()
        beside.write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="an input"), whole_file(tmp_path / "a"):
        raise FileNotFoundError("an input does not exist")  # of the block's own, and told as it is


def test_what_dead_processes_left_is_swept_and_nothing_else(tmp_path):
    write = "from mine_reg.storage.writing import whole_file; import os, sys\n"
    write += "with whole_file(sys.argv[1]): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", write, tmp_path / "a.csv"], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(BEGUN)
    with whole_file(tmp_path / "alive.csv") as alive:
        assert not left.exists()
        others = tmp_path / f"{BEGUN}notes.txt"
        other_host = tmp_path / f"{BEGUN}00000000-1-012345-abcdef.csv"
        for path in (others, other_host):
            path.write_text("")
        sweep(tmp_path)
        assert others.exists() and other_host.exists() and alive.exists()
        os.utime(other_host, (time.time() - 2 * 86400,) * 2)
        sweep(tmp_path)
        assert others.exists() and not other_host.exists() and alive.exists()


STOPPED = """
    import sys, time
    from mine_reg.storage.sentences import plain_errors
    from mine_reg.storage.writing import whole_file

    with plain_errors():
        with whole_file(sys.argv[1]):
            print("begun", flush=True)
            time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "Interrupted.\n"), (signal.SIGTERM, 143, ""), (signal.SIGHUP, 129, "")],
)
@pytest.mark.usefixtures("heard_signals")
def test_signals_leave_nothing(tmp_path, number, code, said):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STOPPED), tmp_path / "new/a.csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    assert process.communicate(timeout=30)[1] == said and process.returncode == code
    assert not list(tmp_path.iterdir())


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """As under nohup."""
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    asks = "from mine_reg.storage.sentences import plain_errors\nwith plain_errors():\n"
    asks += "    print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    done = subprocess.run([sys.executable, "-c", ignoring + asks], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_quiet_is_over_when_it_is_over(capfd):
    with quiet() as outer, quiet() as inner:
        os.write(2, b"of a library")
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"
    with quiet() as said:
        os.write(2, b"of a library")
        assert said() == "of a library"
    assert outer is not inner


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device", "a.txt"), "a.txt: No space left on device"),
        (RuntimeError("Exception thrown\nITK ERROR: Reader(0x55d76b646160): no\n"), "no"),
        (RuntimeError(""), "RuntimeError"),
        (AssertionError(), "AssertionError"),
        (MemoryError(), "there is not enough memory (asked for more than is free); close other programs"),
        (ValueError("a sentence"), "a sentence"),
        (RecursionError("maximum recursion depth exceeded"), "maximum recursion depth exceeded"),
    ],
)
def test_every_exception_has_a_sentence(error, sentence):
    assert one_sentence(error) == sentence
