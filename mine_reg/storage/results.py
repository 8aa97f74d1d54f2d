"""Results that are kept between runs: one mechanism, and one rule for what makes a result stale.

A result is a folder. It was made from a key, the digest of everything that decides it: the contents of the files it
read, settings, and code. It counts only when its mark, which is written last, holds the same key and every file that
the mark lists is there with its size; in any other case it is made again. So a result is complete or absent whenever a
run is killed, and never stale, whatever was replaced.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

MARK = ".made_from.json"
PACKAGE = Path(__file__).parents[1]
_BEGUN = ".writing-"  # folders that results grow in


def digest(*parts) -> str:
    """SHA-256, as 64 hexadecimal digits, of ``parts`` in their order.

    A `pathlib.Path` stands for the contents of the file, or for names and contents of all files in the folder (not for
    its own name), bytes for themselves, and anything else for its JSON. Raises FileNotFoundError for a path that does
    not exist.
    """
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            value = b"path" + _of_folder(part) if part.is_dir() else b"path" + _of_file(part)
        elif isinstance(part, bytes):
            value = b"bytes" + hashlib.sha256(part).digest()
        else:
            value = b"value" + hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).digest()
        whole.update(value)
    return whole.hexdigest()


def code(*names: str) -> list[Path]:
    """Files and folders of this package, by their names in it, as parts of a `digest`: what a changed program makes
    stale."""
    return [PACKAGE / name for name in names]


def is_complete(folder: Path, key: str) -> bool:
    """Whether ``folder`` holds a complete result that was made from ``key``."""
    mark = _read_mark(folder)
    if mark.get("key") != key:
        return False
    sizes = {name: path.stat().st_size for name in mark["files"] if (path := folder / name).is_file()}
    return sizes == mark["files"]


def keep(folder: Path, key: str | None, make: Callable[[Path], None]) -> bool:
    """Have ``folder`` hold the result of ``key``; returns whether it had to be made.

    make : writes the result into the empty folder that it is given, which lies inside ``folder`` until the result is
        complete
    key : None stands for a result that is always made anew

    What an earlier result had put into ``folder`` is replaced; files that came there in another way stay. Whoever wants
    the same folder at the same time waits, and then finds the result there. When ``make`` raises, the earlier result is
    untouched.
    """
    if key is not None and is_complete(folder, key):
        return False
    existed = folder.is_dir()
    with locked(folder):
        if key is not None and is_complete(folder, key):
            return False
        for begun in folder.glob(f"{_BEGUN}*"):  # by a process that was killed
            shutil.rmtree(begun, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=_BEGUN, dir=folder))
        made.chmod(0o755)
        try:
            make(made)
            _replace(folder, made, key)
        finally:
            shutil.rmtree(made, ignore_errors=True)
            if not existed:
                with contextlib.suppress(OSError):  # it holds something, as it should
                    folder.rmdir()
    return True


def forget(folder: Path) -> None:
    """Make the result in ``folder`` count as absent."""
    (folder / MARK).unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder``, which is made if needed, for this process; another one that wants it waits."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                warnings.warn(f"another process is at work on {folder}; waiting for it", stacklevel=3)
                fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(handle), os.stat(folder))
            except FileNotFoundError:
                same = False
            if same:  # else whoever held it has removed it in the meantime
                yield
                return
        finally:
            os.close(handle)


def _replace(folder: Path, made: Path, key: str | None) -> None:
    old = _read_mark(folder).get("files", {})
    forget(folder)
    for name in old:
        (folder / name).unlink(missing_ok=True)
    sizes = {}
    for path in sorted(path for path in made.rglob("*") if path.is_file()):
        name = path.relative_to(made)
        sizes[str(name)] = path.stat().st_size
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        path.replace(folder / name)
    (made / MARK).write_text(json.dumps({"key": key, "files": sizes}, indent=1) + "\n", encoding="utf-8")
    (made / MARK).replace(folder / MARK)


def _read_mark(folder: Path) -> dict:
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return mark if isinstance(mark, dict) and isinstance(mark.get("files"), dict) else {}


def _of_file(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _of_folder(folder: Path) -> bytes:
    whole = hashlib.sha256()
    for path in _files(folder):
        whole.update(hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest() + _of_file(path))
    return whole.digest()


def _files(folder: Path) -> Iterable[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts and path.name != MARK
    )
