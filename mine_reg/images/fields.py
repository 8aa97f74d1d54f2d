"""Displacement fields from files: three components per voxel, LPS mm, on the grid of the fixed points; whole or
refused."""

import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import HeaderDataError

from mine_reg.images.kinds import is_packed, kind_of
from mine_reg.images.metaimage import check_metaimage, is_placed
from mine_reg.images.nifti import placing
from mine_reg.images.nrrd import check_nrrd
from mine_reg.images.reading import check_grid, read_or_explain
from mine_reg.images.whole import check_length, chunks_of

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".img", ".img.gz")
_INTENTS = (1006, 1007)  # displacements, which ITK turns from RAS to LPS, and vectors, which ANTs writes in LPS
_MM = (0, 2)  # xyzt_units: not given, mm
_WANTED = "a displacement field needs 3 dimensions and 3 components per voxel, in LPS mm"


def is_field_file(path: str | Path) -> bool:
    """Whether a name is that of an image, and so not of one of ITK's transforms."""
    return str(path).lower().endswith(SUFFIXES)


def read_field(path: str | Path) -> sitk.Image:
    """A displacement field as float64. Raises FileNotFoundError, and ValueError, one sentence that names the file."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the file of a displacement field")
    field = read_or_explain(_read, path)
    if field.GetDimension() != 3 or field.GetNumberOfComponentsPerPixel() != 3:
        size = " x ".join(map(str, field.GetSize()))
        count = field.GetNumberOfComponentsPerPixel()
        raise ValueError(f"{path} is no displacement field: it has {size} voxels of {count} components; {_WANTED}")
    check_grid(field, path)
    field = sitk.Cast(field, sitk.sitkVectorFloat64)
    check_finite(field, path)
    return field


def check_finite(field: sitk.Image, name: str | Path) -> None:
    """Raises ValueError for a field with voxels that are NaN or infinite."""
    values = sitk.GetArrayViewFromImage(field)
    bad = sum(np.count_nonzero(~np.isfinite(part).all(-1)) for part in values)  # slice by slice: fields are large
    if bad:
        raise ValueError(f"{name} has {bad} voxels whose displacement is NaN or infinite; make the transform again")


def _read(path: str) -> sitk.Image:
    kind = kind_of(Path(path))
    if kind not in _READERS:
        raise ValueError(f"{path} is a {kind}; {_WANTED}, as NIfTI, NRRD or MetaImage")
    check, reader = _READERS[kind]
    check(Path(path))
    return sitk.ReadImage(path, imageIO=reader)


def _check_nifti(path: Path) -> None:
    """ITK's NIfTI library takes NaN, and what a file lacks, for 0."""
    packed = is_packed(path)
    try:
        with gzip.open(path) if packed else open(path, "rb") as file:
            header = _nifti_header(path, file.read(Nifti1Header.sizeof_hdr))
            file.seek(int(header["vox_offset"]))
            found, bad = _count(chunks_of(file), header.get_data_dtype())
    except (EOFError, OSError, zlib.error, HeaderDataError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    wanted = int(np.prod([int(n) for n in header["dim"][1:6]], dtype=object)) * header.get_data_dtype().itemsize
    check_length(found, wanted, wanted // int(header["dim"][3]), path)
    if bad:
        raise ValueError(f"{path} has {bad} values of its displacements that are NaN or infinite; make it again")


def _check_metaimage(path: Path) -> None:
    """ITK takes an origin that is missing for 0; an image without one has no other place than its own, a field has."""
    check_metaimage(path)
    if not is_placed(path):
        raise ValueError(f"{path} does not say where its first voxel lies; write Offset, in mm, into its header")


def _nifti_header(path: Path, block: bytes) -> Nifti1Header:
    if len(block) < Nifti1Header.sizeof_hdr or block[344:347] != b"n+1":
        raise ValueError(f"{path} is no single file of NIfTI-1, as ANTs and ITK write displacement fields; convert it")
    header = Nifti1Header(block, check=False)
    dim, intent = [int(n) for n in header["dim"]], int(header["intent_code"])
    if dim[0] != 5 or dim[4] != 1 or dim[5] != 3 or min(dim[1:4]) < 1 or intent not in _INTENTS:
        shape = " x ".join(map(str, dim[1 : max(dim[0], 0) + 1]))
        raise ValueError(
            f"{path} is no displacement field: it has {shape} values with the intent {intent}; {_WANTED}, which in "
            "NIfTI are X x Y x Z x 1 x 3 values with the intent 1007 (vector)"
        )
    name = bytes(header["intent_name"]).split(b"\0")[0].decode("latin-1").strip()
    if name.startswith("NREG") or name == "Mapping":
        raise ValueError(
            f"{path} is of NiftyReg or SPM ({name}), which write positions or displacements in RAS; write "
            "displacements in LPS mm"
        )
    placing(path, header, tuple(dim[1:4]))  # or an error
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not (slope == 0 or np.isnan(slope)) and (slope, intercept) != (1, 0):
        raise ValueError(f"{path} has the slope {slope:g} and the intercept {intercept:g}; write the mm themselves")
    if int(header["xyzt_units"]) & 7 not in _MM:
        raise ValueError(f"{path} is not in mm (xyzt_units in its header); write mm")
    return header


def _count(chunks: Iterable[bytes], kind: np.dtype) -> tuple[int, int]:
    """Bytes, and numbers among them that are not finite."""
    found, bad, rest = 0, 0, b""
    for chunk in chunks:
        found += len(chunk)
        rest += chunk
        whole = len(rest) // kind.itemsize * kind.itemsize
        if kind.kind == "f":
            bad += int(np.count_nonzero(~np.isfinite(np.frombuffer(rest[:whole], kind))))
        rest = rest[whole:]
    return found, bad


_READERS = {
    "NIfTI": (_check_nifti, "NiftiImageIO"),
    "NRRD": (check_nrrd, "NrrdImageIO"),
    "MetaImage": (_check_metaimage, "MetaImageIO"),
}
