"""NRRD files: ITK reads them, after a look at what it passes over in their headers without a word: units, quantisation,
orientation and spacing that are not given, voxels as text, and more data than the header speaks of.
"""

import os
import zlib
from pathlib import Path

import numpy as np

from mine_reg.images.whole import check_length, chunks_of, voxel_bytes

_SPACES = ("ras", "las", "lps", "right-anterior-superior", "left-anterior-superior", "left-posterior-superior")
_HEADER_END = 2**24  # bytes in which a header must end


def nrrd_files(path: Path) -> list[Path]:
    """The file, and that of its voxels where they are kept apart."""
    name = _header(path)[0].get("datafile")
    return [path, path.parent / name] if name else [path]


def check_nrrd(path: Path) -> None:
    """Raises ValueError, one sentence that names the file, for one whose header ITK would not follow, or whose data is
    not whole."""
    fields, end = _header(path)
    encoding = fields.get("encoding", "raw").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise ValueError(
            f"{path} holds its voxels in the encoding {encoding}, in which damage goes unnoticed or which cannot be "
            "read; write it raw or gzip"
        )
    if "oldmin" in fields or "oldmax" in fields:
        raise ValueError(f"{path} holds quantised values (old min, old max in its header); write the HU themselves")
    for unit in [*_quoted(fields.get("spaceunits", "")), *_quoted(fields.get("units", ""))]:
        if unit.lower() not in ("", "mm", "millimeter", "millimeters", "millimetre", "millimetres", "???", "none"):
            raise ValueError(f"{path} gives lengths in {unit}; write mm into its header, with the lengths to match")
    if fields.get("space", "").lower() not in _SPACES:
        raise ValueError(
            f"{path} does not say how its voxels lie in space (space in its header); write left-posterior-superior, "
            "with space directions to match"
        )
    directions = fields.get("spacedirections", "").replace(" ", "").replace(")", ") ").replace("none", " ").split()
    directions = [_vector(part) for part in directions]
    if len(directions) != 3 or any(len(vector) != 3 or not np.isfinite(vector).all() for vector in directions):
        raise ValueError(f"{path} needs three space directions of three finite numbers in its header; mend it")
    origin = _vector(fields.get("spaceorigin", "(0,0,0)"))
    if len(origin) != 3 or not np.isfinite(origin).all():
        raise ValueError(f"{path} needs a space origin of three finite numbers in its header; mend it")
    _check_data(path, fields, end, compressed=encoding != "raw")


def _check_data(path: Path, fields: dict[str, str], end: int, compressed: bool) -> None:
    data = path
    if "datafile" in fields:
        data, end = path.parent / fields["datafile"], 0
        if not data.is_file():
            raise ValueError(f"{path} keeps its voxels in {fields['datafile']}, which is not there; copy both files")
    if fields.get("lineskip", "0") != "0" or fields.get("byteskip", "0") != "0":
        return  # ITK finds what is missing
    wanted, spare = voxel_bytes(path)
    with open(data, "rb") as file:
        file.seek(end)
        try:
            found = data.stat().st_size - end
            if compressed:  # the last four bytes say how much there is; ITK checks the sum over it
                file.seek(-4, os.SEEK_END)
                said = int.from_bytes(file.read(4), "little")
                file.seek(end)
                found = wanted if said == wanted % 2**32 else sum(map(len, chunks_of(file, compressed)))
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
    check_length(found, wanted, spare, path)


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Fields by name, in lower case and without spaces, and where the header ends."""
    fields = {}
    with open(path, "rb") as file:
        for line in iter(lambda: file.readline(_HEADER_END), b""):
            if not line.strip() or file.tell() > _HEADER_END:
                break
            name, colon, value = line.decode("utf-8", "replace").strip().partition(":")
            if colon and not value.startswith("=") and not name.startswith("#"):
                fields[name.lower().replace(" ", "")] = value.strip()
        return fields, file.tell()


def _quoted(text: str) -> list[str]:
    return text.split('"')[1::2]


def _vector(text: str) -> list[float]:
    try:
        return [float(part) for part in text.strip().strip("()").split(",")]
    except ValueError:
        return []
