"""Real DICOM files for the tests, written with pydicom: series of slices and enhanced multi-frame CT."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SERIES, STUDY, FRAME = "1.2.3.4", "1.2.3", "1.2.3.9"


def volume(size=(6, 5, 7), seed=0) -> np.ndarray:
    """HU (z, y, x), int16, no two slices alike."""
    return np.random.default_rng(seed).integers(-1000, 1500, size).astype(np.int16)


def dataset(stored: np.ndarray, sop_class=CTImageStorage, **tags) -> FileDataset:
    """A CT as a DICOM data set, explicit little endian; ``stored`` are its stored values. A tag None is left out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop_class, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = tags.get("SOPInstanceUID") or generate_uid()
    made = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    bits, signed = stored.dtype.itemsize * 8, stored.dtype.kind == "i"
    defaults = {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "CT",
        "SeriesDescription": "Thorax 1.0",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "FrameOfReferenceUID": FRAME,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[-2],
        "Columns": stored.shape[-1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(signed),
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
    }
    for name, value in (defaults | tags).items():
        if value is not None:
            setattr(made, name, value)
    made.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    return made


def slice_of(stored: np.ndarray, position, **tags) -> FileDataset:
    """One axial slice of 2 x 3 mm (columns 2 mm apart, rows 3 mm) at ``position``, unless ``tags`` say otherwise."""
    placed = {"ImagePositionPatient": [float(f"{v:.6f}") for v in position], "ImageOrientationPatient": list(AXIAL)}
    return dataset(stored, **(placed | {"PixelSpacing": [3, 2], "SliceThickness": 4} | tags))


def series(folder: Path, hu=None, step=(0, 0, 4), origin=(-10, -20, 30), edit=None, names="{:03}.dcm", **tags) -> Path:
    """A folder with a series of slices, ``step`` mm from one to the next.

    edit : called as edit(number, data set) before each slice is written; one that returns False leaves the slice out
    """
    folder.mkdir(parents=True, exist_ok=True)
    for k, stored in enumerate(volume() if hu is None else hu):
        position = np.array(origin, float) + k * np.array(step, float)
        made = slice_of(stored, position, **({"InstanceNumber": k + 1} | tags))
        if edit is None or edit(k, made) is not False:
            made.save_as(folder / names.format(k), enforce_file_format=True)
    return folder


def enhanced(
    path: Path, stored, positions, orientation=AXIAL, rescale=None, pixel_spacing=(3, 2), edit=None, **tags
) -> Path:
    """An enhanced CT: one file of many frames, each with a position of its own.

    rescale : (slope, intercept) for all frames, kept in the shared groups, or a list of them, one per frame
    edit : called as edit(data set) before it is written
    """
    made = dataset(stored, EnhancedCTImageStorage, NumberOfFrames=len(stored), **tags)
    for name in ("RescaleSlope", "RescaleIntercept"):
        if name in made:
            delattr(made, name)
    shared, frames = Dataset(), [Dataset() for _ in stored]
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(pixel_spacing), 4
    shared.PixelMeasuresSequence = Sequence([measures])
    one_for_all = not isinstance(rescale, list)
    for frame, position, values in zip(
        frames, positions, [rescale or (1, 0)] * len(stored) if one_for_all else rescale, strict=True
    ):
        where, direction, values_of = Dataset(), Dataset(), Dataset()
        where.ImagePositionPatient = list(map(float, position))
        direction.ImageOrientationPatient = list(orientation)
        values_of.RescaleSlope, values_of.RescaleIntercept, values_of.RescaleType = *values, "HU"
        frame.PlanePositionSequence = Sequence([where])
        frame.PlaneOrientationSequence = Sequence([direction])
        if not one_for_all:
            frame.PixelValueTransformationSequence = Sequence([values_of])
    if one_for_all:
        shared.PixelValueTransformationSequence = Sequence([values_of])
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    made.PerFrameFunctionalGroupsSequence = Sequence(frames)
    if edit:
        edit(made)
    made.save_as(path, enforce_file_format=True)
    return path


def change(path: Path, **tags) -> None:
    """Set tags of a DICOM file, or remove those that are None."""
    made = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    made.save_as(path)


HU = volume()
LAST = len(HU) - 1
SPACING, ORIGIN = (2, 3, 4), (-10, -20, 30)


def at(k, step=(0, 0, 4)):
    return np.array(ORIGIN, float) + k * np.array(step, float)


def turned(angle, axis=0):
    """Row and column directions of an axial slice turned about x (0) or z (2)."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return (1, 0, 0, 0, c, s) if axis == 0 else (c, s, 0, -s, c, 0)


def only(number, **tags):
    """Tags for one slice of a series."""

    def edit(k, made):
        if k == number:
            for name, value in tags.items():
                setattr(made, name, value)

    return edit


def moved(number, by):
    return only(number, ImagePositionPatient=list(at(number) + by))


def positions(function):
    return lambda k, made: setattr(made, "ImagePositionPatient", [float(v) for v in function(k)])


def without(*numbers):
    return lambda k, made: k not in numbers


def removed(name):
    return lambda k, made: delattr(made, name)


def frames(path, **arguments):
    return enhanced(path, HU, [at(k) for k in range(len(HU))], **arguments)


def encoded(syntax):
    return lambda k, made: setattr(made.file_meta, "TransferSyntaxUID", syntax)
