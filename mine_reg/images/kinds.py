"""What kind of image lies at a path, by its contents: names are wrong or without an ending too often."""

import gzip
import zlib
from pathlib import Path

from mine_reg.storage.writing import check_utf8

UNKNOWN = (
    "it is no image of a known kind, or its beginning is damaged; give NIfTI, NRRD, MetaImage or a folder with one "
    "DICOM series"
)
_GZIP = b"\x1f\x8b"


def kind_of(path: Path) -> str:
    """``folder``, ``NIfTI`` (also the file of voxels of a pair, known by its name), ``NRRD``, ``MetaImage`` or
    ``DICOM``.

    Raises FileNotFoundError when there is nothing at ``path``, and ValueError (one sentence) for anything else.
    """
    check_utf8(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        return "folder"
    if not path.is_file():
        raise ValueError(f"{path} is no regular file; give the path of an image, or of a folder with one DICOM series")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is an empty file (0 bytes); export or copy it again")
    if path.name.lower().endswith((".img", ".img.gz")):
        return "NIfTI"
    head = head_of(path, 2048)
    if is_packed(path):
        return "NIfTI" if is_nifti(_unpacked(path)) else _unknown(path)
    for kind, fits in (("NIfTI", is_nifti), ("NRRD", _is_nrrd), ("MetaImage", _is_metaimage), ("DICOM", is_dicom)):
        if fits(head):
            return kind
    return _unknown(path)


def head_of(path: Path, count: int) -> bytes:
    """The first bytes of a file."""
    with open(path, "rb") as file:
        return file.read(count)


def is_packed(path: Path) -> bool:
    """Whether a file is gzip; downloads are unpacked on their way and keep their names."""
    return head_of(path, 2) == _GZIP


def is_nifti(head: bytes) -> bool:
    """Whether a file begins as a header of NIfTI-1, NIfTI-2 or Analyze 7.5 does."""
    return any(int.from_bytes(head[:4], order) in (348, 540) for order in ("little", "big"))


def is_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM"


def _is_nrrd(head: bytes) -> bool:
    return head.startswith(b"NRRD000")


def _is_metaimage(head: bytes) -> bool:
    return b"NDims" in head and head.lstrip().startswith((b"ObjectType", b"NDims", b"Comment"))


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(4)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged: {error}; export or copy it again") from None


def _unknown(path: Path) -> str:
    raise ValueError(f"{path} cannot be read: {UNKNOWN}")
