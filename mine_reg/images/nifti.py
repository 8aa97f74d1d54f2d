"""NIfTI files, 1 and 2, single or in pairs, compressed or not, under any name: whole, and as the standard means them.

The NIfTI library inside ITK hands out NaN as 0 and what a truncated file lacks as 0, adds the intercept of a slope of
0, does not read NIfTI-2, and takes a spacing of 0 for 1 mm, all without a word. So nibabel reads the header, and the
voxels are read here, each byte of them once.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from mine_reg.images.kinds import is_nifti, is_packed
from mine_reg.images.whole import check_length, chunks_of, copy_whole

_TO_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: unknown, metre, millimetre, micrometre
_DISAGREEMENT_MM = 0.5  # between sform and qform, whose quaternion of float32 rounds to 0.2 mm at most
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI speaks RAS


def nifti_files(path: Path) -> tuple[Path, Path]:
    """The files of header and voxels, given either: ``.hdr`` and ``.img``, both with ``.gz`` or not, in any case; else
    twice the file itself. Raises ValueError when one of a pair is missing."""
    ending = _pair_ending(path)
    if not ending:
        return path, path
    stem = path.name[: -len(ending)]
    found = {}
    for other in sorted(path.parent.iterdir(), key=lambda other: other != path):  # the given one first
        if other.name.startswith(stem) and (its := _pair_ending(other)) and other.name[: -len(its)] == stem:
            found.setdefault(its[:4].lower(), other)
    for kind in (".hdr", ".img"):
        if kind not in found:
            raise ValueError(f"{path} cannot be read: the file {stem}{kind} beside it is missing; copy both")
    return found[".hdr"], found[".img"]


def read_nifti(path: Path) -> sitk.Image:
    """One scalar volume. Raises ValueError, one sentence that names the file, for one that is damaged, holds anything
    else, or contradicts itself."""
    header_path, voxels_path = nifti_files(path)
    header = _header(path, header_path)
    size = _size(path, header)
    affine = placing(path, header, size)
    array = _voxels(path, voxels_path, header, size, single=header_path == voxels_path)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def _pair_ending(path: Path) -> str:
    name = path.name.lower()
    return next((path.name[-len(end) :] for end in (".hdr", ".img", ".hdr.gz", ".img.gz") if name.endswith(end)), "")


def _header(path: Path, header_path: Path) -> Nifti1Header:
    try:
        with _opened(header_path) as file:
            block = file.read(540)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}; export or copy it again") from None
    if not is_nifti(block):
        raise ValueError(f"{path} cannot be read: its header {header_path.name} is no header of NIfTI")
    kind = Nifti2Header if {int.from_bytes(block[:4], order) for order in ("little", "big")} & {540} else Nifti1Header
    size = kind.template_dtype.itemsize
    if len(block) < size:
        raise ValueError(f"{path} is damaged: it ends within its header; export or copy it again")
    header = kind(block[:size], check=False)
    magic = bytes(header["magic"])[:3]
    if magic not in (b"n+1", b"ni1", b"n+2", b"ni2"):
        raise ValueError(
            f"{path} is an Analyze 7.5 image, which does not say which side is left; convert it to NIfTI where that is "
            "known"
        )
    if (magic[1:2] == b"+") != (not _pair_ending(header_path)):
        raise ValueError(f"{path} is named unlike its kind of NIfTI: .hdr and .img for a pair, .nii for a single file")
    return header


def _opened(path: Path):
    return gzip.open(path) if is_packed(path) else open(path, "rb")


def _size(path: Path, header: Nifti1Header) -> tuple[int, ...]:
    """Voxels along x, y, z."""
    count = int(header["dim"][0])
    size = [int(n) for n in header["dim"][1 : count + 1]]
    if not 1 <= count <= 7 or min(size) < 1:
        raise ValueError(f"{path} is damaged: the size in its header is {' x '.join(map(str, size)) or count}")
    if len(size) > 4 and size[3] == 1 and size[4] > 1:
        raise ValueError(f"{path} holds a vector of {size[4]} values per voxel; give a scalar image")
    while len(size) > 3 and size[-1] == 1:  # many writers add an empty time axis
        size.pop()
    if len(size) != 3:
        text = " x ".join(map(str, size))
        raise ValueError(f"{path} has {len(size)} dimensions ({text}); give a file with a single 3D volume")
    return tuple(size)


def placing(path: Path, header: Nifti1Header, size: tuple[int, ...]) -> np.ndarray:
    """(4, 4), index x, y, z to LPS mm: of the sform where there is one, else of the qform."""
    spacing = np.array(header["pixdim"][1:4], float)
    if not ((spacing > 0) & (spacing < np.inf)).all():
        raise ValueError(
            f"{path} has the spacing {_product(spacing)} in its header (pixdim); write the size of a voxel, in "
            "mm, above 0"
        )
    if header["pixdim"][0] != -1:  # the standard takes 0 for 1, and nibabel does not
        header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    try:
        (sform, _), (qform, _) = header.get_sform(coded=True), header.get_qform(coded=True)
    except (HeaderDataError, ValueError):
        raise ValueError(f"{path} has a qform in its header that is no rotation; mend it") from None
    if sform is None and qform is None:
        raise ValueError(
            f"{path} does not say how its voxels lie in space (sform_code and qform_code are 0); write the orientation "
            "into its header"
        )
    for name, affine in (("sform", sform), ("qform", qform)):
        if affine is not None and not np.isfinite(affine).all():
            raise ValueError(f"{path} has a {name} in its header that is not finite; mend it")
    if abs(np.linalg.det(qform if sform is None else sform)) < 1e-12:
        raise ValueError(f"{path} places all voxels in one plane (sform); mend its header")
    if sform is not None:
        columns = np.linalg.norm(sform[:3, :3], axis=0)
        cosines = sform[:3, :3].T @ sform[:3, :3] / np.outer(columns, columns)
        # axes that are not at right angles are refused for that, by whoever asked for the image
        if (abs(columns - spacing) * size).max() > _DISAGREEMENT_MM and np.allclose(cosines, np.eye(3), atol=1e-3):
            raise ValueError(
                f"{path} has voxels of {_product(columns)} mm by its sform and of {_product(spacing)} mm by its "
                "pixdim; mend its header"
            )
    if sform is not None and qform is not None:
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in size])).reshape(3, -1)
        apart = (sform - qform) @ np.vstack([corners, np.ones(8)])
        if (most := np.linalg.norm(apart, axis=0).max()) > _DISAGREEMENT_MM:
            raise ValueError(
                f"{path} contradicts itself: its sform and its qform place voxels up to {most:.3g} mm apart; set the "
                "code of the wrong one to 0 (nibabel: image.set_qform(None) or image.set_sform(None))"
            )
    affine = _LPS @ (qform if sform is None else sform)
    unit = int(header["xyzt_units"]) & 7
    if unit not in _TO_MM:
        raise ValueError(f"{path} gives lengths in a unit that is not known (xyzt_units {unit}); write mm")
    affine[:3] *= _TO_MM[unit]
    return affine


def _product(values) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _voxels(path: Path, voxels_path: Path, header: Nifti1Header, size: tuple[int, ...], single: bool) -> np.ndarray:
    """(z, y, x), scaled as the header says: as stored for a slope of 0 or none, else floating."""
    try:
        kind = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        raise ValueError(f"{path} has a type of voxels in its header that is not known; export it again") from None
    if kind.kind not in "iuf":
        what = {"c": "complex number"}.get(kind.kind, "colour" if kind.fields else "bit")
        raise ValueError(f"{path} holds a {what} per voxel; give a scalar image")
    offset = float(header["vox_offset"])
    if not 0 <= offset < 2**62:
        raise ValueError(f"{path} is damaged: its voxels begin at byte {offset:g} by its header")
    start = int(offset) or (header.sizeof_hdr + 4 if single else 0)
    if single and start < header.sizeof_hdr:
        raise ValueError(f"{path} is damaged: its voxels begin within its header, by the header")
    wanted = int(np.prod(size, dtype=object)) * kind.itemsize
    if not is_packed(voxels_path):
        check_length(voxels_path.stat().st_size - start, wanted, wanted // size[2], path)
    try:
        with _opened(voxels_path) as file:
            file.seek(start)
            data = copy_whole(chunks_of(file), wanted, wanted // size[2], path, voxels_path)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}; export or copy it again") from None
    array = data.view(kind).reshape(size[::-1])
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    wide = kind.itemsize > 8  # numbers of 16 bytes, which nothing else here knows
    array = array.astype(np.float64 if wide else kind.newbyteorder("="), copy=False)
    if slope == 0 or np.isnan(slope) or (slope, intercept) == (1, 0):
        return array
    if not np.isfinite([slope, intercept]).all():
        raise ValueError(f"{path} has a slope {slope:g} and an intercept {intercept:g} in its header; give finite ones")
    scaled = np.empty(array.shape, np.promote_types(array.dtype, np.float32))  # of 32 bits for 8 and 16, else of 64
    for part, out in zip(array, scaled, strict=True):
        out[:] = np.multiply(part, slope, dtype=np.float64) + intercept
    return scaled
