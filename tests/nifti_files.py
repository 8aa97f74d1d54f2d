"""NIfTI files for the tests, written with nibabel: under any name, with any field of their headers as asked for."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from mine_reg.images.reading import image_files

HU = np.random.default_rng(0).integers(-1000, 1500, (7, 6, 5)).astype(np.int16)  # x, y, z
AFFINE = np.array([[-2.0, 0, 0, 10], [0, 3, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]])  # RAS
OBLIQUE = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.2, -0.1, 0.3)) @ AFFINE


def write(path, array=HU, affine=AFFINE, kind=nibabel.Nifti1Image, **fields):
    """A NIfTI file with fields of its header as given; scl_slope and scl_inter too, which nibabel would choose."""
    end = next((end for end in (".hdr", ".img", ".hdr.gz", ".img.gz") if path.name.lower().endswith(end)), "")
    pairs = {nibabel.Nifti1Image: nibabel.Nifti1Pair, nibabel.Nifti2Image: nibabel.Nifti2Pair}
    image = (pairs[kind] if end else kind)(array, affine)
    image.header.set_xyzt_units("mm")
    plain = path.with_name("w.hdr" if end else "w.nii")
    image.to_filename(plain)
    edit(plain, **fields)
    packed = gzip.compress if path.name.lower().endswith(".gz") else bytes
    if not end:
        path.write_bytes(packed(plain.read_bytes()))
    else:
        stem, zipped = path.name[: -len(end)], path.name[len(path.name) - len(end) + 4 :]
        for part in (".hdr", ".img"):
            name = stem + (part.upper() if path.name[-len(end) :].isupper() else part) + zipped
            path.with_name(name).write_bytes(packed(plain.with_suffix(part).read_bytes()))
            plain.with_suffix(part).unlink()
    plain.unlink(missing_ok=True)
    return path


def edit(path, **fields):
    content = path.read_bytes()
    kind = nibabel.Nifti2Header if int.from_bytes(content[:4], "little") == 540 else nibabel.Nifti1Header
    size = kind.template_dtype.itemsize
    header = kind(content[:size], check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + content[size:])
    return path


def voxels_of(path) -> Path:
    """The file that holds the voxels."""
    return image_files(path)[-1] if path.name.lower().endswith((".hdr", ".hdr.gz")) else path


def cut(path, count):
    voxels = voxels_of(path)
    content = voxels.read_bytes()
    packed = content[:2] == b"\x1f\x8b"
    voxels.write_bytes(gzip.compress(gzip.decompress(content)[:-count]) if packed else content[:-count])
    return path


def hold(image, array=HU, affine=AFFINE):
    """Voxels and places are those of nibabel."""
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(image).T, array)
    for index in ((0, 0, 0), (6, 5, 4), (1, 4, 2)):
        expected = (affine @ [*index, 1])[:3] * [-1, -1, 1]
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), expected, atol=2e-4)


def big_endian(path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nibabel.Nifti1Image(HU, AFFINE, header).to_filename(path)
    return path


def members(path):
    """gzip in two members, as bgzip and parallel programs write it."""
    content = gzip.decompress(write(path).read_bytes())
    path.write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    return path


def extended(path):
    image = nibabel.Nifti1Image(HU, AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"somebody's notes" * 5))
    image.to_filename(path)
    return path


def unpacked(path):
    """Unpacked on its way, its name as before."""
    path.write_bytes(gzip.decompress(write(path).read_bytes()))
    return path


def appended(path, content):
    path.write_bytes(write(path).read_bytes() + content)
    return path


def qform_only(path, array=HU, affine=AFFINE, **fields):
    """As the standard's method 2."""
    image = nibabel.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(None)
    image.to_filename(path)
    return edit(path, **fields) if fields else path


def both_forms(path, qform):
    image = nibabel.Nifti1Image(HU, AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(qform, 1)
    image.to_filename(path)
    return path


def shifted(mm):
    return AFFINE + np.array([[0, 0, 0, mm], [0] * 4, [0] * 4, [0] * 4])
