"""Files that are written beside their place, checked, and then renamed, so that nobody ever finds half of one."""

import contextlib
import errno
import json
import math
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:  # slow to load, and only some commands write tables
    import pandas as pd

BEGUN = ".writing-"  # what is not complete yet


def _where_numbers_of_processes_hold() -> str:
    """This machine since it was started, and in it the container: elsewhere the same number is another process."""
    said = socket.gethostname()
    with contextlib.suppress(OSError):  # no Linux
        said += Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii") + os.readlink("/proc/self/ns/pid")
    return f"{crc32(said.encode()):08x}"


_HOST, _RUN = _where_numbers_of_processes_hold(), secrets.token_hex(3)
_BEGUN = re.compile(rf"{re.escape(BEGUN)}([0-9a-f]{{8}})-(\d+)-([0-9a-f]{{6}})-[0-9a-f]{{6}}(\..*)?")
_DAY = 86400.0  # seconds after which nobody goes on with it, wherever it was begun


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path beside ``path``, of the same suffix in lower case, that takes its place when the block ends well and is
    removed when it does not, with the folders that were made for it.

    So the folder is tried when the block begins. What a killed process has left there is swept. A link stays a link, a
    file keeps its permissions, and what is no file (/dev/stdout) is handed out itself. Raises OSError that names
    ``path``, and ValueError for a name that is not UTF-8.
    """
    check_utf8(path := Path(os.path.realpath(path)))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file in it", str(path))
    if path.exists() and not path.is_file():
        yield path
        return
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    beside = path.with_name(begun_name(path))
    with new_folders(path.parent), _about(path, beside):
        sweep(path.parent)
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # umask decides
        try:
            yield beside
            if path.exists():
                beside.chmod(stat.S_IMODE(path.stat().st_mode))
            to_disk(beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def check_utf8(path: str | Path) -> None:
    """Raises ValueError for a path that is not UTF-8, at which ITK ends the whole process."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{os.fspath(path)!a} has a name that is not UTF-8; rename it, or the folder") from None


def check_place(path: str | Path) -> None:
    """Raises OSError that names ``path`` when no file can be written there; nothing is left behind."""

    class Tried(Exception):
        pass

    with contextlib.suppress(Tried), whole_file(path):
        raise Tried


def write_csv(table: "pd.DataFrame", path: str | Path, **how) -> None:
    """A table without its index as CSV; ``how`` as of `pandas.DataFrame.to_csv`. Raises OSError that names the file."""
    write_text(table.to_csv(index=False, **how), path)


def write_json(value, path: str | Path) -> None:
    """JSON, in which numbers that are not finite are null. Raises OSError that names the file."""
    write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n", path)


def write_text(text: str, path: str | Path) -> None:
    """UTF-8. Raises OSError that names the file."""
    write_bytes(text.encode(), path)


def write_bytes(contents: bytes, path: str | Path) -> None:
    """Raises OSError that names the file."""
    with whole_file(path) as beside:
        beside.write_bytes(contents)
        if beside.is_file() and (found := beside.stat().st_size) != len(contents):
            raise OSError(errno.EIO, f"only {found} of {len(contents)} bytes could be written")


def begun_name(path: Path = Path()) -> str:
    """A new name for a file or folder that is being made; it tells who makes it, see `sweep`."""
    suffix = "".join(path.suffixes[-2:] if path.suffix.lower() in (".gz", ".json") else path.suffixes[-1:]).lower()
    return f"{BEGUN}{_HOST}-{os.getpid()}-{_RUN}-{secrets.token_hex(3)}{suffix}"


def sweep(folder: Path) -> None:
    """Remove files that a process which is no more had begun in ``folder``."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(BEGUN) and entry.is_file(follow_symlinks=False) and _left_behind(entry):
                os.unlink(entry)


def _left_behind(entry: os.DirEntry) -> bool:
    match = _BEGUN.fullmatch(entry.name)
    if match is None:  # somebody else's
        return False
    host, process, run, _ = match.groups()
    if host != _HOST:  # a shared disk
        return time.time() - entry.stat().st_mtime > _DAY
    if int(process) == os.getpid():
        return run != _RUN
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's process
        return False
    return False


@contextlib.contextmanager
def new_folders(folder: Path) -> Iterator[None]:
    """``folder``, which is made if needed; when the block fails, what was made is removed if it is empty."""
    made = [part for part in (folder, *folder.parents) if not part.exists()]  # the deepest first
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for part in made:
                part.rmdir()
        raise


def to_disk(path: Path) -> None:
    """Wait until a file has left the system's buffers: only then do network disks and quotas say that it did not
    fit."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a disk that does not know fsync
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def _about(path: Path, beside: Path) -> Iterator[None]:
    """The system's errors about ``beside``, or about no file at all, name ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(beside)):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from None


def _finite(value):
    """JSON has no infinity and no NaN."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
