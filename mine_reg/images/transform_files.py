"""ITK's files of transforms, whole or refused: ITK takes what is missing at the end of ``.mat`` and ``.tfm`` for
something, and the first of several transforms for all."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mine_reg.images.fields import check_finite
from mine_reg.images.reading import read_or_explain
from mine_reg.images.writing import fields_of, parts_of, quiet
from mine_reg.storage.writing import check_utf8

_ADVICE = "give the transform.h5 that `mine-reg register` has written, or another file that ITK can read"
_SEVERAL = "more than one transform"  # what SimpleITK writes to stderr when it takes the first one alone
_MOST_BYTES = 2**32  # of a .mat, whose header speaks of any number


def read_transform_file(path: str | Path) -> sitk.Transform:
    """A transform of 3 dimensions. Raises FileNotFoundError, or ValueError, one sentence that names the file."""
    check_utf8(path := Path(path))
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; {_ADVICE}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the transform.h5 in it, or another file")
    path.open("rb").close()  # the system's own words when it may not be read
    suffix = path.suffix.lower()
    if suffix == ".mat":
        _check_matlab(path)
    elif suffix in (".tfm", ".txt", ".xfm"):
        _check_text(path, suffix)
    try:
        with quiet() as said:
            shown = sitk.ProcessObject.GetGlobalWarningDisplay()
            sitk.ProcessObject.GlobalWarningDisplayOn()
            try:
                transform = read_or_explain(sitk.ReadTransform, path)
            finally:
                sitk.ProcessObject.SetGlobalWarningDisplay(shown)
            several = _SEVERAL in said()
    except ValueError as error:
        if "empty file" in str(error):
            raise
        raise ValueError(f"{path} is not a transform that ITK can read, or is damaged; {_ADVICE}") from None
    if several:
        raise _several(path)
    _check(transform, path)
    return transform


def _several(path: Path) -> ValueError:
    return ValueError(f"{path} holds several transforms one after another; give each as a file, in ANTs' order")


def _check(transform: sitk.Transform, path: Path) -> None:
    if transform.GetDimension() != 3:
        raise ValueError(f"{path} is a transform of {transform.GetDimension()} dimensions; give one of 3")
    for field in fields_of(transform):
        check_finite(field, path)
    for part in parts_of(transform):
        if part.GetTransformEnum() != sitk.sitkDisplacementField and not np.isfinite(part.GetParameters()).all():
            raise ValueError(f"{path} has parameters that are NaN or infinite; make the transform again")
        try:
            moved = np.array([part.TransformPoint(point) for point in [(0.0, 0.0, 0.0), *np.eye(3).tolist()]])
        except RuntimeError:  # a field that has been cut off
            raise ValueError(f"{path} is not a transform that ITK can read, or is damaged; {_ADVICE}") from None
        if part.IsLinear() and abs(np.linalg.det(moved[1:] - moved[0])) < 1e-6:
            raise ValueError(f"{path} squashes space flat, so it is no registration; make the transform again")


def _check_matlab(path: Path) -> None:
    """Parameters and fixed parameters, each a matrix of MATLAB 4: five numbers of 4 bytes, a name, the values."""
    contents, at, count = path.read_bytes(), 0, 0
    while len(contents) >= at + 20:
        kind, rows, columns, imaginary, name = np.frombuffer(contents, "<i4", 5, at).tolist()
        if kind % 1000 not in (0, 10) or min(rows, columns, name) < 0 or rows * columns > _MOST_BYTES:
            raise ValueError(f"{path} is not a .mat of ITK, or is damaged; {_ADVICE}")
        at, count = at + 20 + name + rows * columns * (4 if kind % 1000 == 10 else 8) * (1 + bool(imaginary)), count + 1
    if contents and (at != len(contents) or not count or count % 2):
        raise ValueError(f"{path} is damaged: it ends {'too early' if at != len(contents) else 'before its centre'}")
    if count > 2:
        raise _several(path)


def _check_text(path: Path, suffix: str) -> None:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a transform that ITK can read, or is damaged; {_ADVICE}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if suffix == ".xfm":
        if lines and not lines[-1].endswith(";"):
            raise ValueError(f"{path} is damaged: its last line does not end in a semicolon, so it has been cut")
        if sum(line.startswith("Transform_Type") for line in lines) > 1:
            raise _several(path)
        return
    if text and not text.endswith("\n"):
        raise ValueError(
            f"{path} may have been cut: its last line does not end; get it again, or add a line break when it is whole"
        )
    kinds = [line.partition(":")[2].strip() for line in lines if line.startswith("Transform:")]
    needed = sum(not kind.startswith("CompositeTransform") for kind in kinds)
    for name in ("Parameters:", "FixedParameters:"):
        if sum(line.startswith(name) for line in lines) < needed:
            raise ValueError(f"{path} is damaged: a line {name} is missing; get or make it again")
    if len(kinds) > 1 and not kinds[0].startswith("CompositeTransform"):
        raise _several(path)
