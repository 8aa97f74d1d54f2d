"""Headers of DICOM files: what each slice, or each frame of an enhanced CT, says of its place, its values and its
kind.

GDCM inside ITK hides most of this and takes the first slice's word for all; so pydicom reads it from every file.
"""

import contextlib
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import MediaStorageDirectoryStorage, SegmentationStorage

TAGS = (
    "SOPClassUID",
    "Modality",
    "ImageType",
    "SeriesDescription",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "AcquisitionNumber",
    "FrameOfReferenceUID",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "PixelData",
)
_HU = ("", "HU", "HU_MOD", "US")  # RescaleType; US: unspecified
_LATER = 4096  # bytes from which on a value is read when it is asked for
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Frame:
    """One slice of a CT, a file or a frame of one.

    position : of the first voxel's centre, x, y, z in LPS mm
    along : (2, 3), unit vectors in LPS along a row (to the next column) and along a column (to the next row)
    spacing : mm from column to column and from row to row
    size : columns, rows
    slope, intercept : HU = slope * stored value + intercept; None where the file gives none
    acquisition : the file's number of it, or nothing
    """

    file: Path
    number: int
    name: str
    position: np.ndarray
    along: np.ndarray
    spacing: tuple[float, float]
    size: tuple[int, int]
    slope: float | None
    intercept: float | None
    acquisition: str


@contextlib.contextmanager
def lenient() -> Iterator[None]:
    """pydicom without its warnings of values that only break the standard's letter, such as a number of 17 digits; its
    settings belong to the whole process, so one thread at a time."""
    with _ONE_AT_A_TIME, pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_header(path: Path) -> FileDataset | None:
    """The tags above of a DICOM file that holds an image, its voxels not before they are asked for; None for any other
    file, also DICOM's reports, structures and directories. Raises ValueError for a DICOM file whose header is damaged.
    """
    with open(path, "rb") as file:
        marked = file.read(132)[128:] == b"DICM"
    try:
        found = pydicom.dcmread(path, defer_size=_LATER, specific_tags=list(TAGS), force=True)
        image = "Rows" in found and "SOPClassUID" in found
        kinds = [found.get("SOPClassUID"), found.file_meta.get("MediaStorageSOPClassUID")]
        names = [kind.name for kind in kinds if kind]
    except Exception:  # noqa: BLE001 - a damaged header makes pydicom raise anything
        if not marked:
            return None
        raise ValueError(f"{path} is a DICOM file with a damaged header; export or copy it again") from None
    if image:
        return found
    if marked and (not names or any("Image Storage" in name for name in names)):
        raise ValueError(f"{path} is a DICOM file that is cut off; export or copy it again")
    return None


def is_directory_file(path: Path) -> bool:
    """Whether a file is a DICOMDIR, the table of contents of a disc."""
    try:
        return pydicom.filereader.read_file_meta_info(path).MediaStorageSOPClassUID == MediaStorageDirectoryStorage
    except Exception:  # noqa: BLE001 - no DICOM file at all
        return False


def value_of(path: Path, header: Dataset, name: str):
    """None for a tag that is missing or empty."""
    try:
        value = header.get(name)  # converted now, not when the file was read
        return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else value
    except Exception:  # noqa: BLE001 - a damaged value makes pydicom raise anything
        raise ValueError(f"{path} has a damaged header: {name} cannot be read; export it again") from None


def whole_number(path: Path, header: Dataset, name: str, default: int | None = None) -> int:
    """Of a tag, or ``default`` where it is missing. Raises ValueError for anything else."""
    value = value_of(path, header, name)
    if value is None and default is not None:
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError(f"{path} has a damaged header: {name} is missing or no number; export it again") from None


def frames_of(path: Path, header: Dataset) -> list[Frame]:
    """The frames of one file, in the file's order. Raises ValueError (one sentence that names the file) when it is no
    CT in HU, or does not say where each frame lies."""
    _check_kind(path, header)
    count = value_of(path, header, "NumberOfFrames")
    if count is None and "PerFrameFunctionalGroupsSequence" not in header:
        return [_frame(path, 0, path.name, [header])]
    count = 1 if count is None else whole_number(path, header, "NumberOfFrames")
    shared = list(value_of(path, header, "SharedFunctionalGroupsSequence") or [])
    own = list(value_of(path, header, "PerFrameFunctionalGroupsSequence") or [])
    if not own and count == 1:
        return [_frame(path, 0, path.name, [header])]
    if len(own) != count:
        raise ValueError(
            f"{path} holds {count} frames and the positions of {len(own)}, so that the slices cannot be placed; export "
            "the series as single slices or as enhanced CT"
        )
    return [_frame(path, k, f"frame {k + 1} of {path.name}", [group, *shared, header]) for k, group in enumerate(own)]


def _check_kind(path: Path, header: Dataset) -> None:
    def value(name):
        return value_of(path, header, name)

    modality = value("Modality") or "CT"
    if header.get("SOPClassUID") == SegmentationStorage:
        raise ValueError(f"{path} is a DICOM segmentation object; export the mask as NIfTI or NRRD")
    if modality != "CT":
        raise ValueError(f"{path} is {modality}, not CT; give the folder of a CT series")
    if "LOCALIZER" in (value("ImageType") or ()):
        raise ValueError(f"{path} is a localizer, not a slice of the volume; take it out of the series")
    samples, photometric = value("SamplesPerPixel") or 1, value("PhotometricInterpretation") or "MONOCHROME2"
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"{path} holds {samples} values per pixel ({photometric}), not HU; give the CT itself")
    if "ModalityLUTSequence" in header:
        raise ValueError(f"{path} gives its HU by a table (Modality LUT), which is not read; export it with a slope")


def _frame(path: Path, number: int, name: str, groups: list[Dataset]) -> Frame:
    """``groups`` are looked through in their order for what is said of the frame: its own, shared ones, the file."""
    label = f"{path} (frame {number + 1})" if len(groups) > 1 else f"{path}"

    def numbers(tag, sequence, count, what):
        for group in groups:
            inside = value_of(path, group, sequence)
            value = value_of(path, inside[0] if inside else group, tag)
            if value is None:
                continue
            try:
                found = np.array(value, float).ravel()
            except (TypeError, ValueError):
                found = np.empty(0)
            if len(found) != count or not np.isfinite(found).all():
                raise ValueError(f"{label} has a damaged header: {tag} is no {count} finite numbers; export it again")
            return found
        if what:
            raise ValueError(f"{label} does not say {what} ({tag} is missing); export the series with full headers")
        return None

    position = numbers("ImagePositionPatient", "PlanePositionSequence", 3, "where its slice lies")
    along = numbers("ImageOrientationPatient", "PlaneOrientationSequence", 6, "how its slice is turned").reshape(2, 3)
    lengths = np.linalg.norm(along, axis=1)
    if (abs(lengths - 1) > 0.01).any() or abs(along[0] @ along[1]) > 1e-3:
        raise ValueError(
            f"{label} has a damaged header: ImageOrientationPatient is no two unit vectors at right angles; export it "
            "again"
        )
    along = along / lengths[:, None]
    along[1] -= (along[0] @ along[1]) * along[0]
    rows, columns = numbers("PixelSpacing", "PixelMeasuresSequence", 2, "how large its pixels are")
    if min(rows, columns) <= 0:
        raise ValueError(f"{label} has a damaged header: its PixelSpacing is not above 0; export it again")
    slope = numbers("RescaleSlope", "PixelValueTransformationSequence", 1, None)
    intercept = numbers("RescaleIntercept", "PixelValueTransformationSequence", 1, None)
    if slope is not None and slope[0] == 0:
        raise ValueError(f"{label} has a damaged header: its RescaleSlope is 0; export it again")
    _check_unit(label, path, groups)
    return Frame(
        path,
        number,
        name,
        position,
        along,
        (float(columns), float(rows)),
        (whole_number(path, groups[-1], "Columns"), whole_number(path, groups[-1], "Rows")),
        None if slope is None else float(slope[0]),
        None if intercept is None else float(intercept[0]),
        str(value_of(path, groups[-1], "AcquisitionNumber") or ""),
    )


def _check_unit(label: str, path: Path, groups: list[Dataset]) -> None:
    for group in groups:
        inside = value_of(path, group, "PixelValueTransformationSequence")
        unit = value_of(path, inside[0] if inside else group, "RescaleType") or ""
        if unit not in _HU:
            raise ValueError(f"{label} holds values in {unit}, not in HU; give the series in HU")
