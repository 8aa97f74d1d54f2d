"""Ways to break the good pairs of `test_check.write_tiny_pairs`, and what must be said of them."""

import gzip
import re
import struct
from dataclasses import dataclass

import numpy as np
import pandas as pd
import SimpleITK as sitk
from test_check import change

A = "a_fixed.nii.gz"


def edit(folder, name, function):
    """Replace an image by function(image)."""
    image = function(sitk.ReadImage(str(folder / name)))
    sitk.WriteImage(image, str(folder / name))


def edit_array(folder, name, function, dtype=np.float32, **arguments):
    """Replace an image's voxels (z, y, x) and keep its place."""

    def apply(image):
        array = function(sitk.GetArrayFromImage(image).astype(np.float32))
        new = sitk.GetImageFromArray(array.astype(dtype), **arguments)
        new.CopyInformation(image)
        return new

    edit(folder, name, apply)


def edit_bytes(folder, name, offset, layout, *values):
    """Overwrite fields of the header of a NIfTI file."""
    header = bytearray(gzip.decompress((folder / name).read_bytes()))
    struct.pack_into("<" + layout, header, offset, *values)
    (folder / name).write_bytes(gzip.compress(bytes(header)))


def as_meta_image(folder, header):
    """The fixed image of pair a as a MetaImage file whose header is given."""
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "a_fixed.nii.gz")))
    text = (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n{header}\n"
        "DimSize = 12 13 14\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    (folder / "a_fixed.mha").write_bytes(text.encode() + array.tobytes())
    change(folder / "manifest.csv", fixed="a_fixed.mha")


def as_dicom(folder, series=1, skip=(), positions=None):
    """The fixed image of pair a as a folder of DICOM slices, 25 mm apart."""
    image, writer = sitk.ReadImage(str(folder / "a_fixed.nii.gz")), sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    (folder / "a_fixed").mkdir()
    for number in range(series):
        for k in range(image.GetSize()[2]):
            if k in skip:
                continue
            part, (x, y, z) = image[:, :, k : k + 1], image.GetOrigin()
            z += positions[k] if positions else 25 * k
            tags = {
                "0008|0060": "CT",
                "0020|000d": "1.2.3.9",
                "0020|000e": f"1.2.3.{number}",
                "0020|0013": str(k),
                "0008|0018": f"1.2.3.{number}.{k + 1}",
                "0020|0032": f"{x}\\{y}\\{z}",
                "0020|0037": "1\\0\\0\\0\\1\\0",
                "0028|1052": "0",
                "0028|1053": "1",
            }
            for tag, value in tags.items():
                part.SetMetaData(tag, value)
            writer.SetFileName(str(folder / "a_fixed" / f"{number}_{k:03}.dcm"))
            writer.Execute(part)
    change(folder / "manifest.csv", fixed="a_fixed")


def rewrite(folder, function, encoding="utf-8", name="manifest.csv"):
    """Replace the text of a file by function(text)."""
    text = (folder / name).read_text()
    (folder / name).write_bytes(function(text).encode(encoding))


def lines(folder, *rows):
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


def split(folder, *values, subjects=("s1", "s2", "s3")):
    table = pd.read_csv(folder / "manifest.csv")
    table.assign(split=values, subject_id=subjects).to_csv(folder / "manifest.csv", index=False)


def swap(folder):
    table = pd.read_csv(folder / "manifest.csv")
    partner = {"fixed": "moving", "moving": "fixed"}
    other = {name: re.sub("fixed|moving", lambda match: partner[match[0]], name) for name in table}
    table.rename(columns=other)[table.columns].to_csv(folder / "manifest.csv", index=False)


def manifest_row(name, **columns):
    return lambda d: change(d / "manifest.csv", **{name: columns[name]})


def move_origin(folder, offset):
    for name in ("a_moving.nii.gz", "a_moving_mask.nii.gz"):
        edit(folder, name, lambda image: shifted(image, offset))


def body(mask):
    mask[:, 1:-1, 2:-2] = 1
    return mask


def first_voxels(mask):
    return mask * (mask.cumsum().reshape(mask.shape) < 9)


def shifted(image, offset):
    image.SetOrigin(np.array(image.GetOrigin()) + offset)
    return image


def spaced(image, x_mm):
    image.SetSpacing((x_mm, *image.GetSpacing()[1:]))
    return image


def points(text):
    return lambda d: (d / "a_fixed_points.csv").write_text(text)


def both_points(folder, text):
    for name in ("fixed", "moving"):
        (folder / f"a_{name}_points.csv").write_text(text)


@dataclass
class Bad:
    """One kind of bad data.

    make : breaks the good data in a folder
    message : what the sentence must match
    refused_by : "images" (preprocess), "table" (read_manifest) or "nobody" (a warning)
    """

    make: object
    message: str
    refused_by: str = "images"


def table(make, message):
    return Bad(make, message, "table")


def warning(make, message):
    return Bad(make, message, "nobody")
