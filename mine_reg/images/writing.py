"""Images and transforms into files that are read back before anybody sees them: ITK reports success for files that a
full disk has cut."""

import contextlib
import errno
import gzip
import os
import resource
import shutil
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mine_reg.images.itk_state import decimal_point
from mine_reg.storage.sentences import one_sentence
from mine_reg.storage.writing import whole_file

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")  # one file each, and they keep where an image lies in space
_NIFTI_HEADER = 352
_NIFTI_SIZE = slice(42, 48)  # where it says how many voxels there are along x, y, z
_POINTS, _CLOSE_MM = 200, 1e-3
_CHUNK = 2**22


def check_image_name(path: str | Path) -> None:
    """Raises ValueError when the name does not end in one of SUFFIXES."""
    if not (name := Path(path).name.lower()).endswith(SUFFIXES) or name in SUFFIXES:
        *most, last = SUFFIXES
        raise ValueError(f"{path} has no ending of an image that can be written; end it in {', '.join(most)} or {last}")


@decimal_point()
def write_image(image: sitk.Image, path: str | Path, compress: bool = True) -> None:
    """An image as NIfTI, NRRD or MetaImage. Raises ValueError for another ending, and OSError that names the file when
    it could not be written whole."""
    check_image_name(path)
    with whole_file(path) as beside:
        try:
            with quiet():
                if beside.name.endswith(".nii.gz") and image.GetNumberOfComponentsPerPixel() > 1:
                    _write_stored(image, beside)
                else:
                    sitk.WriteImage(image, str(beside), compress)
            whole = _holds(beside, image)
        except (RuntimeError, OSError, EOFError, zlib.error):
            whole = False
        if not whole:
            _say_why(beside, sitk.GetArrayViewFromImage(image).nbytes)


@decimal_point()
def write_transform_file(transform: sitk.Transform, path: str | Path) -> None:
    """A transform as ``.h5``, ``.tfm`` or, an affine, ``.mat``. Raises OSError that names the file when it could not be
    written whole, and ValueError when ITK cannot write such a transform so."""
    with whole_file(path) as beside:
        size = _bytes_of(transform)
        _check_room(beside, size)  # HDF5 would say it in 50 lines, and more when the program ends
        try:
            with quiet():
                sitk.WriteTransform(transform, str(beside))
                whole = _agree(transform, sitk.ReadTransform(str(beside)))
        except RuntimeError as error:
            _say_why(beside, size, f"is a transform that ITK cannot write so ({one_sentence(error)})")
        if not whole:
            _say_why(beside, size)


def parts_of(transform: sitk.Transform) -> list[sitk.Transform]:
    """What a transform is composed of, itself when it is not composed."""
    if transform.GetTransformEnum() != sitk.sitkComposite:
        return [transform]
    composite = sitk.CompositeTransform(transform)
    numbers = range(composite.GetNumberOfTransforms())
    return [part for number in numbers for part in parts_of(composite.GetNthTransform(number))]


def fields_of(transform: sitk.Transform) -> list[sitk.Image]:
    """The displacement fields in a transform, as images."""
    fields = [part for part in parts_of(transform) if part.GetTransformEnum() == sitk.sitkDisplacementField]
    return [sitk.DisplacementFieldTransform(part).GetDisplacementField() for part in fields]


_quiet = threading.Lock()
_quiet_blocks, _stderr, _log = 0, None, None


@contextlib.contextmanager
def quiet() -> Iterator[Callable[[], str]]:
    """What C libraries write to stderr is not seen: HDF5, NIfTI and MetaImage put many lines there before ITK raises
    its error, from which one sentence is made. Yields a function that returns what they have written."""
    global _quiet_blocks, _stderr, _log
    with _quiet:
        _quiet_blocks += 1
        if _quiet_blocks == 1:
            sys.stderr.flush()
            _log = tempfile.TemporaryFile()  # noqa: SIM115 - several threads share it
            with contextlib.suppress(OSError):  # a daemon may have closed its stderr
                _stderr = os.dup(2)
                os.dup2(_log.fileno(), 2)
        log = _log
        begin = log.seek(0, os.SEEK_END)
    try:
        yield lambda: os.pread(log.fileno(), 2**20, begin).decode("utf-8", "replace")
    finally:
        with _quiet:
            _quiet_blocks -= 1
            if not _quiet_blocks:
                if _stderr is not None:
                    os.dup2(_stderr, 2)
                    os.close(_stderr)
                _log.close()
                _stderr = _log = None


def _write_stored(image: sitk.Image, path: Path) -> None:
    """A field as ITK writes it into ``.nii.gz``, but packed as it is: the last digits of its floats are noise, so
    compressing them saves an eighth and takes twenty times as long."""
    with tempfile.TemporaryDirectory() as folder:
        corner = Path(folder) / "corner.nii"
        sitk.WriteImage(image[:2, :2, :2], str(corner))
        header = bytearray(corner.read_bytes()[:_NIFTI_HEADER])
    header[_NIFTI_SIZE] = np.array(image.GetSize(), np.int16).tobytes()
    components = np.moveaxis(sitk.GetArrayViewFromImage(image), -1, 0)
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 0, file, mtime=0) as packed:
        packed.write(header)
        for component in components:
            packed.write(np.ascontiguousarray(component))


def _holds(path: Path, image: sitk.Image) -> bool:
    """Whether a file holds all of the image."""
    array = sitk.GetArrayViewFromImage(image)
    if path.name.endswith((".nii", ".nii.gz")):  # its length says it, and gzip's sum the rest
        return _length(path) == _NIFTI_HEADER + array.nbytes
    found = sitk.ReadImage(str(path))
    if (found.GetSize(), found.GetPixelID()) != (image.GetSize(), image.GetPixelID()):
        return False
    again = sitk.GetArrayViewFromImage(found)
    return np.array_equal(*(np.ascontiguousarray(values).reshape(-1).view(np.uint8) for values in (array, again)))


def _length(path: Path) -> int:
    if not path.name.endswith(".gz"):
        return path.stat().st_size
    length = 0
    with gzip.open(path) as file:
        while chunk := file.read(_CHUNK):
            length += len(chunk)
    return length


def _agree(transform: sitk.Transform, again: sitk.Transform) -> bool:
    """Whether two transforms move random points alike."""
    points = np.random.default_rng(0).uniform(-200, 200, (_POINTS, 3))
    for field in fields_of(transform):
        index = np.random.default_rng(0).uniform(0, 1, (_POINTS, 3)) * (np.array(field.GetSize()) - 1)
        points = np.vstack([points, *map(field.TransformContinuousIndexToPhysicalPoint, index.tolist())])
    moved, moved_again = ([t.TransformPoint(point) for point in points.tolist()] for t in (transform, again))
    return np.allclose(moved, moved_again, rtol=0, atol=_CLOSE_MM)


def _bytes_of(transform: sitk.Transform) -> int:
    return 2**16 + sum(8 * 3 * field.GetNumberOfPixels() for field in fields_of(transform))


def _check_room(path: Path, size: int) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and size > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    if size > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _say_why(path: Path, size: int, else_: str | None = None) -> None:
    """Raise the system's reason why ``size`` bytes could not be written, found by writing as many once more."""
    with open(path, "wb") as file:
        for begin in range(0, size, _CHUNK):
            file.write(bytes(min(_CHUNK, size - begin)))
        file.flush()
        os.fsync(file.fileno())
    if else_ is not None:
        raise ValueError(f"{path} {else_}")
    raise OSError(errno.EIO, "could not be written whole; look at the disk, and try another one")
