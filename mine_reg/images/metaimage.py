"""MetaImage files: ITK reads them, after a look at what it passes over in their headers without a word: units, scaling,
spacing that is not given, a skipped part of the data, and data that is damaged or longer than the header says.
"""

import warnings
import zlib
from pathlib import Path

import numpy as np

from mine_reg.images.whole import check_length, chunks_of, voxel_bytes

_AXES = ("TransformMatrix", "Rotation", "Orientation")
_PLACING = {  # fields and their other names, and how many numbers each has
    ("Offset", "Position", "Origin"): 3,
    _AXES: 9,
    ("ElementSpacing", "ElementSize"): 3,
}


def metaimage_files(path: Path) -> list[Path]:
    """The file, and that of its voxels where they are kept apart."""
    name = _header(path)[0].get("ElementDataFile", "LOCAL")
    return [path] if name.upper() == "LOCAL" else [path, path.parent / name]


def check_metaimage(path: Path) -> None:
    """Raises ValueError, one sentence that names the file, for one whose header ITK would not follow, or whose data is
    not whole."""
    fields, end = _header(path)
    if fields.get("BinaryData", "True").lower() not in ("true", "1"):
        raise ValueError(f"{path} holds its voxels as text, in which damage goes unnoticed; write it binary")
    if fields.get("DistanceUnits", "mm").lower() not in ("mm", "?"):
        raise ValueError(f"{path} gives lengths in {fields['DistanceUnits']}; write mm, with the lengths to match")
    for name, neutral in (("Slope", 1), ("Offset", 0)):
        value = fields.get(f"ElementToIntensityFunction{name}")
        if value is not None and _numbers(value) != [neutral]:
            raise ValueError(
                f"{path} asks for its values to be scaled (ElementToIntensityFunction{name} = {value}), which ITK does "
                "not do; write the HU themselves"
            )
    volume = fields.get("NDims") == "3"
    for names, count in _PLACING.items():
        given = [_numbers(fields[name]) for name in names if name in fields]
        if volume and any(len(numbers) != count or not np.isfinite(numbers).all() for numbers in given):
            raise ValueError(f"{path} has a damaged header: {names[0]} must be {count} finite numbers; mend it")
    if volume and not any(name in fields for name in _AXES):
        warnings.warn(
            f"{path} does not say how its axes lie (TransformMatrix in its header); taken, as the format has it, for x "
            "to the left, y to the back and z up",
            stacklevel=2,
        )
    spacing = _numbers(fields.get("ElementSpacing", fields.get("ElementSize", "")))
    if not spacing:
        raise ValueError(f"{path} does not say how large its voxels are; write ElementSpacing, in mm, into its header")
    if min(spacing) <= 0:
        raise ValueError(f"{path} cannot be read: the spacing in its header is not above 0; write it in mm")
    _check_data(path, fields, end)


def is_placed(path: Path) -> bool:
    """Whether a header says where the first voxel lies."""
    return any(name in _header(path)[0] for name in next(iter(_PLACING)))


def _check_data(path: Path, fields: dict[str, str], end: int) -> None:
    name = fields.get("ElementDataFile", "")
    data = path if name.upper() == "LOCAL" else path.parent / name
    if not name or name.split()[0].upper() == "LIST" or "%" in name:
        raise ValueError(f"{path} keeps its voxels in several files (ElementDataFile = {name}); write one file")
    if not data.is_file():
        raise ValueError(f"{path} keeps its voxels in {name}, which is not there; copy both files")
    given = fields.get("HeaderSize", "0")
    if not given.lstrip("+-").isdecimal():
        raise ValueError(f"{path} has a HeaderSize of {given} in its header, which cannot be followed; write it anew")
    skipped = int(given)
    if skipped and (data == path or skipped < -1):
        raise ValueError(f"{path} has a HeaderSize of {skipped} in its header, which cannot be followed; write it anew")
    wanted, spare = voxel_bytes(path)
    end = end if data == path else max(skipped, 0)
    with open(data, "rb") as file:
        file.seek(end)
        if fields.get("CompressedData", "False").lower() in ("true", "1"):
            there = data.stat().st_size - end
            if _numbers(fields.get("CompressedDataSize", "")) != [there]:  # else ITK hands out what is no image
                said = fields.get("CompressedDataSize", "nothing")
                raise ValueError(f"{path} is damaged: CompressedDataSize says {said}, and {there} bytes are there")
            try:
                found = sum(map(len, chunks_of(file, compressed=True)))
            except (EOFError, OSError, zlib.error) as error:
                raise ValueError(f"{path} is damaged: {error}") from None
        else:
            found = wanted if skipped == -1 and data.stat().st_size >= wanted else data.stat().st_size - end
    check_length(found, wanted, spare, path)


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Fields by name, and where the header ends: with ElementDataFile."""
    fields = {}
    with open(path, "rb") as file:
        for line in iter(lambda: file.readline(2**16), b""):
            name, _, value = line.decode("utf-8", "replace").partition("=")
            fields[name.strip()] = value.strip()
            if name.strip() == "ElementDataFile":
                break
        return fields, file.tell()


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split()]
    except ValueError:
        return []
