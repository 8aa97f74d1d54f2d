"""Voxels of DICOM files in HU: pydicom gives the stored values, GDCM decompresses them where they are compressed."""

import tempfile
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels import pixel_array
from pydicom.uid import RLELossless, generate_uid
from scipy.ndimage import label

from mine_reg.images.dicom_header import Frame, value_of, whole_number
from mine_reg.images.hounsfield import AIR_HU

_LAYOUT = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")


def voxels_in_hu(frames: list[Frame], headers: dict[Path, FileDataset]) -> np.ndarray:
    """(z, y, x), in the order of ``frames``: int16 where it holds all that the files can store, else int32 or floating.

    headers : of the frames' files, as from `read_header`

    Each frame has its own slope and intercept. Voxels around the field of view that are marked as padding become air.
    Raises ValueError, one sentence that names the file, when a file is incomplete.
    """
    columns, rows = frames[0].size
    kinds = {_type_for(frame, headers[frame.file]) for frame in frames}
    volume = np.empty((len(frames), rows, columns), np.result_type(*kinds))
    stored, of = None, None
    for hu, frame in zip(volume, frames, strict=True):
        if frame.file != of:
            stored, of = _stored_values(frame.file, headers[frame.file]).reshape(-1, rows, columns), frame.file
        slope, intercept = _rescale(frame)
        hu[:] = stored[frame.number] * slope + intercept  # in float64, so whole numbers stay exact
        _air_for_padding(hu, stored[frame.number], frame, headers[frame.file])
    return volume


def _rescale(frame: Frame) -> tuple[float, float]:
    return 1.0 if frame.slope is None else frame.slope, frame.intercept or 0.0


@dataclass(frozen=True)
class _Layout:
    """How a file stores its values: in bits ``high - used + 1`` to ``high`` of ``allocated``, signed or not."""

    allocated: int
    used: int
    high: int
    signed: bool
    values: int


def _layout(path: Path, data: Dataset) -> _Layout:
    allocated = whole_number(path, data, "BitsAllocated")
    used = whole_number(path, data, "BitsStored", allocated)
    high = whole_number(path, data, "HighBit", used - 1)
    compressed = _is_compressed(data)
    if allocated not in (8, 16, 32) or not 1 <= used <= high + 1 <= allocated or (compressed and high + 1 != used):
        raise ValueError(
            f"{path} stores values as bits {high - used + 1} to {high} of {allocated}, which cannot be read; export it "
            "with 16 bits per value"
        )
    frames = whole_number(path, data, "NumberOfFrames", 1)
    count = frames * whole_number(path, data, "Rows") * whole_number(path, data, "Columns")
    signed = whole_number(path, data, "PixelRepresentation")
    if signed not in (0, 1) or frames < 1 or count < 1:
        raise ValueError(f"{path} has a damaged header: how its voxels are stored is not possible; export it again")
    return _Layout(allocated, used, high, signed == 1, count)


def _is_compressed(data: FileDataset) -> bool:
    syntax = data.file_meta.get("TransferSyntaxUID")
    return bool(syntax and syntax.is_transfer_syntax and syntax.is_compressed)


def _stored_values(path: Path, data: FileDataset) -> np.ndarray:
    layout, pixels = _layout(path, data), _pixels(path, data)
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax and not syntax.is_transfer_syntax:
        raise ValueError(f"{path} stores its voxels in a way that is not known ({syntax}); export it uncompressed")
    if _is_compressed(data):
        values = _decompressed(path, data, pixels, layout)
    else:
        order = "<" if data.original_encoding[1] is not False else ">"
        found, wanted = len(pixels), layout.values * layout.allocated // 8
        if found < wanted:
            raise ValueError(f"{path} is damaged: it ends {wanted - found} bytes too early; export or copy it again")
        if found > wanted + wanted % 2:  # to an even number
            raise ValueError(
                f"{path} holds {found - wanted} bytes of voxels more than its header says; export it again"
            )
        kind = np.dtype(f"{order}{'i' if layout.signed else 'u'}{layout.allocated // 8}")
        values = np.frombuffer(pixels, kind, layout.values).astype(kind.newbyteorder("="), copy=False)
    if layout.used < layout.allocated:  # unused bits may hold overlays, and the sign's bit need not be the highest
        values = (values << (layout.allocated - layout.high - 1)) >> (layout.allocated - layout.used)
    return values


def _pixels(path: Path, data: FileDataset) -> bytes:
    """Read from the file at last, and not kept in ``data``."""
    try:
        pixels = data.PixelData
        del data.PixelData
    except Exception:  # noqa: BLE001 - a damaged file makes pydicom raise anything
        pixels = None
    if not pixels:
        raise ValueError(f"{path} is damaged: its voxels cannot be read; export or copy it again")
    return pixels


def _decompressed(path: Path, data: FileDataset, pixels: bytes, layout: _Layout) -> np.ndarray:
    syntax = data.file_meta.TransferSyntaxUID
    try:
        values = (_by_pydicom if syntax == RLELossless else _by_gdcm)(data, pixels)
    except Exception:  # noqa: BLE001 - whatever a damaged stream makes them say, in up to twenty lines
        values = np.empty(0)
    if values.size != layout.values or values.dtype.kind not in "iu" or values.itemsize * 8 != layout.allocated:
        raise ValueError(
            f"{path} is damaged, or compressed in a way that is not read ({syntax.name}); export it uncompressed"
        )
    return values


def _by_pydicom(data: FileDataset, pixels: bytes) -> np.ndarray:
    """GDCM fails at run lengths of small images."""
    whole = copy(data)
    whole.PixelData = pixels
    return pixel_array(whole, raw=True)


def _by_gdcm(data: FileDataset, pixels: bytes) -> np.ndarray:
    """From a copy without what GDCM would do beyond decompressing: rescaling, and inverting MONOCHROME1."""
    bare = FileDataset(None, {}, file_meta=data.file_meta, preamble=b"\0" * 128)
    for name in (*_LAYOUT, "NumberOfFrames"):
        if name in data:
            bare[name] = data[name]
    bare.PhotometricInterpretation = "MONOCHROME2"
    bare.SOPClassUID, bare.SOPInstanceUID = data.SOPClassUID, generate_uid()
    bare.add_new("PixelData", "OB", pixels)
    bare["PixelData"].is_undefined_length = True
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "slice.dcm"
        bare.save_as(file)
        return sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))


def _type_for(frame: Frame, data: Dataset) -> np.dtype:
    """What holds every HU that a file can store."""
    (slope, intercept), layout = _rescale(frame), _layout(frame.file, data)
    if slope != round(slope) or intercept != round(intercept):
        return np.dtype(np.float32 if layout.used <= 16 else np.float64)
    ends = (-(2 ** (layout.used - 1)), 2 ** (layout.used - 1) - 1) if layout.signed else (0, 2**layout.used - 1)
    ends = [slope * end + intercept for end in ends]
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= min(ends) and max(ends) <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.float64)


def _air_for_padding(hu: np.ndarray, stored: np.ndarray, frame: Frame, data: Dataset) -> None:
    """What surrounds the field of view is marked by a stored value, or a range; it may read as tissue. The same value
    within the body is tissue."""
    if value_of(frame.file, data, "PixelPaddingValue") is None:
        return
    low = whole_number(frame.file, data, "PixelPaddingValue")
    high = whole_number(frame.file, data, "PixelPaddingRangeLimit", low)
    # some files give the value of signed voxels as an unsigned number, and the reverse
    low, high = sorted(int(np.int64(end).astype(stored.dtype)) for end in (low, high))
    slope, intercept = _rescale(frame)
    if max(slope * low + intercept, slope * high + intercept) <= AIR_HU:
        return
    components, count = label((stored >= low) & (stored <= high))
    if count:
        border = np.concatenate([components[0], components[-1], components[:, 0], components[:, -1]])
        hu[np.isin(components, border[border > 0])] = AIR_HU
