"""NRRD and MetaImage files for the tests, with any field of their headers as asked for."""

import numpy as np
import SimpleITK as sitk

from mine_reg.images.reading import image_files

HU = np.random.default_rng(0).integers(-1000, 1500, (5, 6, 7)).astype(np.int16)  # z, y, x
IN_LPS = {
    "space": "left-posterior-superior",
    "space directions": "(2,0,0) (0,3,0) (0,0,4)",
    "space origin": "(7,8,9)",
}


def image(array=HU):
    made = sitk.GetImageFromArray(array)
    made.SetSpacing((2, 3, 4))
    made.SetOrigin((7, 8, 9))
    return made


def write(path, packed=False, array=HU):
    sitk.WriteImage(image(array), str(path), packed)
    return path


def nrrd(path, array=HU, data=None, dimension=3, sizes="7 6 5", encoding="raw", **fields):
    """A field None is left out; an underscore in a name stands for a blank."""
    types = {np.dtype(np.int16): "short", np.dtype(np.float32): "float"}
    known = {"type": types[array.dtype], "dimension": dimension, "sizes": sizes, "endian": "little", **IN_LPS}
    known |= {"encoding": encoding} | {name.replace("_", " "): value for name, value in fields.items()}
    lines = ["NRRD0005", *(f"{name}: {value}" for name, value in known.items() if value is not None)]
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + (array.tobytes() if data is None else data))
    return path


def meta(path, array=HU, data=None, **fields):
    known = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "7 8 9",
        "ElementSpacing": "2 3 4",
        "DimSize": "7 6 5",
        "ElementType": "MET_SHORT",
    }
    known |= {"ElementDataFile": "LOCAL"} | fields
    known["ElementDataFile"] = known.pop("ElementDataFile")  # comes last
    lines = [f"{name} = {value}" for name, value in known.items() if value is not None]
    path.write_bytes("\n".join(lines).encode() + b"\n" + (array.tobytes() if data is None else data))
    return path


def hold(found, array=HU):
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(found), array)
    assert found.GetSpacing() == (2, 3, 4) and found.GetOrigin() == (7, 8, 9)
    np.testing.assert_allclose(found.GetDirection(), np.eye(3).ravel())


def cut(path, count):
    voxels = image_files(path)[-1]
    voxels.write_bytes(voxels.read_bytes()[:-count])
    return path


def flipped(path, at):
    voxels = image_files(path)[-1]
    content = bytearray(voxels.read_bytes())
    content[at] ^= 255
    voxels.write_bytes(content)
    return path


def without_data(path):
    image_files(write(path))[-1].unlink()
    return path
