"""A DICOM series, in a folder or in one file of many frames, as one volume in HU; or why it cannot be one."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

from mine_reg.images.dicom_grid import on_one_grid
from mine_reg.images.dicom_header import Frame, frames_of, is_directory_file, lenient, read_header, value_of
from mine_reg.images.dicom_voxels import voxels_in_hu
from mine_reg.images.kinds import head_of, is_dicom


def read_dicom_folder(folder: Path) -> sitk.Image:
    """The one CT series in a folder, as HU in LPS mm, slices ordered by their positions. Files of other kinds are left
    aside.

    Raises ValueError, one sentence that names the folder or the file, when there is no series or more than one, when
    the slices are no volume (see `dicom_grid`), and when a slice is damaged.
    """
    with lenient():
        headers = _headers(folder)
        series = _series(headers)
        if len(series) != 1:
            raise ValueError(_not_one(folder, headers, series))
        (uid,) = series
        if elsewhere := _elsewhere(folder, uid):
            raise ValueError(
                f"{folder} holds a part of its series, and {elsewhere} more of it; put all into one folder"
            )
        grid = _grid(folder, headers)
    return _image(headers, *grid)


def read_dicom_file(path: Path) -> sitk.Image:
    """An enhanced CT: one file of many frames, each with a position. Raises what `read_dicom_folder` raises."""
    with lenient():
        header = read_header(path)
        if header is None:
            what = "a DICOMDIR" if is_directory_file(path) else "a DICOM file without an image"
            raise ValueError(f"{path} is {what}; give the folder that holds the slices of the series")
        if len(frames_of(path, header)) == 1:
            raise ValueError(f"{path} is a single DICOM slice; give the folder that holds the whole series")
        grid = _grid(path, {path: header})
    return _image({path: header}, *grid)


def _grid(where: Path, headers: dict[Path, Dataset]) -> tuple[list[Frame], np.ndarray, np.ndarray, np.ndarray]:
    """See `on_one_grid`."""
    found = [frames_of(path, header) for path, header in headers.items()]
    several = [frames[0].file.name for frames in found if len(frames) > 1]
    if several and len(found) > 1:
        raise ValueError(f"{where} holds {len(found)} files, and {several[0]} alone holds many slices; give it alone")
    frames = [frame for frames in found for frame in frames]
    _check_alike(where, headers, frames)
    return on_one_grid(where, frames)


def _image(headers: dict[Path, Dataset], frames: list[Frame], origin, direction, spacing) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels_in_hu(frames, headers))
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetSpacing(spacing.tolist())
    return image


def _headers(folder: Path) -> dict[Path, Dataset]:
    """By path, of the files that hold images."""
    found, others = {}, []
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.exists():
            raise ValueError(f"{path} is a link to a file that is not there; fetch or copy the files of the series")
        if path.name.startswith(".") or not path.is_file():
            continue
        header = read_header(path) if path.stat().st_size else None
        if header is None:
            others.append(path)
        else:
            found[path] = header
    endings = {path.suffix.lower() for path in found}
    for path in others:  # one that should be a slice must not be passed over
        if path.suffix.lower() in endings and not _is_text(path) and not is_dicom(head_of(path, 132)):
            raise ValueError(f"{path} is no DICOM file though it is named like the slices beside it; copy it again")
    return found


def _is_text(path: Path) -> bool:
    head = head_of(path, 512)
    return bool(head) and not any(byte < 9 or 13 < byte < 32 for byte in head)


def _uid(path: Path, header: Dataset) -> tuple[str, ...]:
    """Of the series, its study and its patient: removing names may leave one of them alike in all."""
    return tuple(_text(path, header, name) for name in ("SeriesInstanceUID", "StudyInstanceUID", "PatientID"))


def _series(headers: dict[Path, Dataset]) -> dict[tuple[str, ...], list[Path]]:
    series = {}
    for path, header in headers.items():
        series.setdefault(_uid(path, header), []).append(path)
    return series


def _not_one(folder: Path, headers: dict[Path, Dataset], series: dict[str, list[Path]]) -> str:
    if not series:
        below = next((path for path in _dicom_files_below(folder)), None)
        advice = f"; {below.parent} holds some, give such a folder" if below else "; give a folder with exactly one"
        return f"{folder} holds 0 DICOM series{advice}"
    named = []
    for paths in list(series.values())[:4]:
        header = headers[paths[0]]
        text = _text(paths[0], header, "SeriesDescription") or paths[0].name
        named.append(
            f"'{text}' of {len(paths)} file{'s' * (len(paths) > 1)} ({_text(paths[0], header, 'Modality') or 'CT'})"
        )
    more = f" and {len(series) - 4} more" if len(series) > 4 else ""
    return f"{folder} holds {len(series)} DICOM series ({', '.join(named)}{more}); give a folder with exactly one"


def _text(path: Path, header: Dataset, name: str) -> str:
    return str(value_of(path, header, name) or "")


def _dicom_files_below(folder: Path) -> Iterator[Path]:
    """The first DICOM file of each folder in ``folder``, at any depth."""
    for below, folders, files in os.walk(folder):
        folders.sort()
        if Path(below) != folder:
            paths = (Path(below) / name for name in sorted(files))
            first = next((path for path in paths if path.is_file() and is_dicom(head_of(path, 132))), None)
            if first:
                yield first


def _elsewhere(folder: Path, uid: tuple[str, ...]) -> Path | None:
    for path in _dicom_files_below(folder):
        header = read_header(path)
        if header is not None and _uid(path, header) == uid:
            return path.parent
    return None


def _check_alike(where: Path, headers: dict[Path, Dataset], frames: list[Frame]) -> None:
    """What must be the same in all slices beside their geometry."""
    spaces = {_text(path, header, "FrameOfReferenceUID"): path for path, header in headers.items()}
    if len(spaces) > 1:
        names = " and ".join(path.name for path in list(spaces.values())[:2])
        raise ValueError(
            f"{where} holds slices of {len(spaces)} frames of reference ({names}), whose positions cannot be compared; "
            "give the slices of one acquisition"
        )
    for name, values in (("slope", [f.slope for f in frames]), ("intercept", [f.intercept for f in frames])):
        lacking = [frame.name for frame, value in zip(frames, values, strict=True) if value is None]
        if lacking and len(lacking) < len(frames):
            raise ValueError(
                f"{where}: {lacking[0]} has no rescale {name} and other slices have one, so its HU are unknown; export "
                "the series again"
            )
