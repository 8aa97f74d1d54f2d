"""Results that are kept between runs: one mechanism, and one rule for what makes a result stale.

A result is a folder. It was made from a key, the digest of everything that decides it: the contents of the files it
read, settings, and code. It counts only when its mark, which is written last, holds the same key and every file that
the mark lists is there with its contents; in any other case it is made again. So a result is complete or absent
whenever a run is killed, and never stale, whatever was replaced.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath

import numpy as np

from mine_reg.storage.writing import BEGUN, begun_name, check_utf8, new_folders, sweep, to_disk, write_json

MARK = ".made_from.json"
PACKAGE = Path(__file__).parents[1]


def digest(*parts) -> str:
    """SHA-256, as 64 hexadecimal digits, of ``parts`` in their order.

    A `pathlib.Path` stands for the contents of the file, or for names and contents of all files in the folder (not for
    its own name), bytes for themselves, and anything else for its JSON. Marks of results, results that are being made
    and ``__pycache__`` are no contents of a folder. Raises FileNotFoundError for a path that does not exist, and
    TypeError for what has no JSON.
    """
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            value = b"path" + _of_folder(part) if part.is_dir() else b"path" + _of_file(part)
        elif isinstance(part, bytes):
            value = b"bytes" + hashlib.sha256(part).digest()
        else:
            value = b"value" + hashlib.sha256(json.dumps(part, sort_keys=True, default=_plain).encode()).digest()
        whole.update(value)
    return whole.hexdigest()


def code(*names: str) -> list[Path]:
    """Files and folders of this package, by their names in it, as parts of a `digest`: what a changed program makes
    stale."""
    return [PACKAGE / name for name in names]


def is_complete(folder: Path, key: str) -> bool:
    """Whether ``folder`` holds a complete result that was made from ``key``."""
    mark = _read_mark(folder)
    return (
        key is not None
        and mark.get("key") == key
        and all(_unchanged(folder / name, *made) for name, made in mark["files"].items())
    )


def keep(folder: Path, key: str | None, make: Callable[[Path], None], names: Iterable[str] = ()) -> bool:
    """Have ``folder`` hold the result of ``key``; returns whether it had to be made.

    make : writes the result into the empty folder that it is given, which lies inside ``folder`` until the result is
        complete
    key : None stands for a result that is always made anew
    names : files that a result may hold, which a new one removes also where the earlier result's mark is lost

    What an earlier result had put into ``folder`` is replaced; files that came there in another way stay. Whoever wants
    the same folder at the same time waits, and then finds the result there. When ``make`` raises, the earlier result is
    untouched. Raises OSError that names ``folder`` before anything is made when nothing can be written there, or a
    folder lies in the place of one of ``names``, and ValueError for a name that is not UTF-8.
    """
    check_utf8(folder := Path(folder))
    if key is not None and is_complete(folder, key):
        return False
    with new_folders(folder), locked(folder) as alone:
        if key is not None and is_complete(folder, key):
            return False
        _refuse_folders(folder, names)
        _sweep(folder, alone)
        made = folder / begun_name()
        try:
            made.mkdir()
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(folder)) from None
        try:
            make(made)
            _replace(folder, made, key, names)
        except OSError as error:
            if not (error.filename and str(error.filename).startswith(f"{made}{os.sep}")):
                raise
            name = os.path.relpath(error.filename, made)
            raise type(error)(error.errno, error.strerror, str(folder / name)) from None
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return True


def forget(folder: Path) -> None:
    """Make the result in ``folder`` count as absent."""
    (folder / MARK).unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold ``folder``, which is made if needed, for this process; another one that wants it waits.

    Yields whether it is held: some network disks know no locks, and the work is done all the same.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            held = _lock(handle, folder)
            try:
                same = os.path.samestat(os.fstat(handle), os.stat(folder))
            except FileNotFoundError:
                same = False
            if same:  # else whoever held it has removed it in the meantime
                yield held
                return
        finally:
            os.close(handle)


def _lock(handle: int, folder: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        warnings.warn(f"another process is at work on {folder}; waiting for it", stacklevel=4)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _sweep(folder: Path, alone: bool) -> None:
    """Remove what killed processes had begun; folders only where nobody else can be making one."""
    sweep(folder)
    for begun in folder.glob(f"{BEGUN}*") if alone else ():
        if begun.is_dir() and not begun.is_symlink():
            shutil.rmtree(begun, ignore_errors=True)


def _refuse_folders(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if (folder / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder in the place of a result; remove it", str(folder / name))


def _replace(folder: Path, made: Path, key: str | None, names: Iterable[str]) -> None:
    """Bring the files of ``made`` into ``folder`` in the place of the earlier result's."""
    new = {}
    for path in sorted(path for path in made.rglob("*") if path.is_file()):
        to_disk(path)
        made_when = path.stat()
        new[str(path.relative_to(made))] = [made_when.st_size, made_when.st_mtime_ns, _of_file(path).hex()]
    _refuse_folders(folder, new)
    old = {*names, *_read_mark(folder).get("files", {})} - {*new}
    # no result, but a list of all that must go when this is cut short
    _write_mark(folder, None, new | {name: [0, 0, ""] for name in old if (folder / name).is_file()})
    for name in old:
        with contextlib.suppress(IsADirectoryError, NotADirectoryError, PermissionError):  # of another's making
            (folder / name).unlink(missing_ok=True)
    for name in new:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).replace(folder / name)
    for parent in sorted({(folder / name).parent for name in old} - {folder}, reverse=True):
        with contextlib.suppress(OSError):  # it holds something else
            parent.rmdir()
    _write_mark(folder, key, new)


def _write_mark(folder: Path, key: str | None, files: dict) -> None:
    write_json({"key": key, "files": files}, folder / MARK)


def _read_mark(folder: Path) -> dict:
    """``key`` and ``files``: by name, size, time in ns and SHA-256; nothing when there is no mark or not a whole
    one."""
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        inside = all(_is_inside(name) and len(made) == 3 for name, made in mark["files"].items())
        return mark if inside and "key" in mark else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _is_inside(name: str) -> bool:
    """Whether a name from a mark, which anybody may have written, stays in the folder."""
    return not PurePath(name).is_absolute() and ".." not in PurePath(name).parts


def _unchanged(path: Path, size: int, time_ns: int, contents: str) -> bool:
    try:
        now = path.stat()
        same_time = now.st_mtime_ns == time_ns
        return path.is_file() and now.st_size == size and (same_time or _of_file(path).hex() == contents)
    except OSError:
        return False


def _plain(value):
    """What JSON does not know but settings hold; nothing whose text could leave out part of its contents."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be part of a key")


def _of_file(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _of_folder(folder: Path) -> bytes:
    whole = hashlib.sha256()
    for path in sorted(_files(folder)):
        whole.update(hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest() + _of_file(path))
    return whole.digest()


def _files(folder: Path) -> Iterator[Path]:
    """All files, also behind links, each folder once."""
    seen = set()

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        seen.add(os.path.realpath(parent))
        folders[:] = [
            name
            for name in sorted(folders)
            if name != "__pycache__"
            and not name.startswith(BEGUN)
            and os.path.realpath(os.path.join(parent, name)) not in seen
        ]
        paths = (Path(parent, name) for name in files if name != MARK and not name.startswith(BEGUN))
        yield from (path for path in paths if path.is_file())
