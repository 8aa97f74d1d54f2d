"""Voxels from a file, all of them: truncation, and more data than the header speaks of, are noticed."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

_CHUNK = 2**22
_BEST_RATIO = 1100  # of deflate: what a compressed file can hold at most


def chunks_of(file: BinaryIO, compressed: bool = False) -> Iterator[bytes]:
    """From where ``file`` stands to its end, in parts.

    compressed : decompress a stream of zlib or gzip

    Raises OSError, EOFError or zlib.error for a stream that is damaged, by its checksum too.
    """
    if not compressed:
        yield from iter(lambda: file.read(_CHUNK), b"")
        return
    start = file.tell()
    gzipped = file.read(2) == b"\x1f\x8b"
    file.seek(start)
    if gzipped:
        unpacked = gzip.GzipFile(fileobj=file)
        yield from iter(lambda: unpacked.read(_CHUNK), b"")
        return
    stream = zlib.decompressobj()
    for chunk in iter(lambda: file.read(_CHUNK), b""):
        yield stream.decompress(chunk)
        if stream.eof:
            return
    raise EOFError("Compressed file ended before the end-of-stream marker was reached")


def copy_whole(chunks: Iterable[bytes], wanted: int, spare: int, path: Path, source: Path) -> np.ndarray:
    """``wanted`` bytes from ``chunks``, which may hold fewer than ``spare`` more.

    source : the file that they come from, packed or not

    Raises ValueError, one sentence that names ``path``, when there are fewer, or more.
    """
    if wanted > _BEST_RATIO * source.stat().st_size:  # before memory is taken for what only a damaged header speaks of
        raise ValueError(f"{path} is damaged: it is far too short for the size in its header; export or copy it again")
    data, found = np.empty(wanted, np.uint8), 0
    for chunk in chunks:
        if found < wanted:
            part = np.frombuffer(chunk, np.uint8)[: wanted - found]
            data[found : found + len(part)] = part
        found += len(chunk)
    check_length(found, wanted, spare, path)
    return data


def check_length(found: int, wanted: int, spare: int, path: Path) -> None:
    """Raises ValueError for fewer bytes of voxels than ``wanted``, and for ``spare`` more, as much as a slice."""
    if found < wanted:
        raise ValueError(f"{path} is damaged: it ends {wanted - found} bytes too early; export or copy it again")
    if found - wanted >= spare:
        raise ValueError(
            f"{path} holds {found - wanted} bytes more than the size in its header asks for, so the header is wrong or "
            "cut; export it again"
        )


def voxel_bytes(path: Path) -> tuple[int, int]:
    """Bytes of all voxels, and of one slice, by the header of a file that ITK can read."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    of_one = sitk.GetArrayViewFromImage(sitk.Image([1, 1], reader.GetPixelID(), reader.GetNumberOfComponents())).nbytes
    size = reader.GetSize()
    return int(np.prod(size, dtype=object)) * of_one, int(np.prod(size[:2], dtype=object)) * of_one
