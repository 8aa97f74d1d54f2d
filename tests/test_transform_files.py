"""Transforms and displacement fields of every kind are read right, or refused in one sentence: damaged, cut, not
finite, of another kind."""

import gzip
import struct

import ants
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from mine_reg.images.transforms import map_points, read_transform, read_transforms


@pytest.fixture
def field() -> sitk.Image:
    """A small field, in mm, as vectors of float32."""
    values = np.random.default_rng(7).normal(0, 2, (10, 12, 14, 3)).astype(np.float32)
    image = sitk.GetImageFromArray(values, isVector=True)
    image.SetSpacing((2.0, 2.5, 3.0))
    image.SetOrigin((-5.0, 6.0, 7.0))
    return image


def at(field: sitk.Image) -> np.ndarray:
    """Points at voxels of a field, where it says where they go."""
    return np.array([field.TransformIndexToPhysicalPoint(index) for index in ((3, 4, 5), (8, 2, 1), (11, 9, 7))])


def moved_by(field: sitk.Image) -> np.ndarray:
    return at(field) + [field[index] for index in ((3, 4, 5), (8, 2, 1), (11, 9, 7))]


@pytest.mark.parametrize("name", ["f.nii.gz", "f.nii", "f.nrrd", "f.mha", "F.NII.GZ", "F.NRRD", "f.mhd", "f.nhdr"])
def test_fields_of_every_kind_are_read(field, tmp_path, name):
    sitk.WriteImage(field, str(tmp_path / name.lower()))
    if name != name.lower():
        (tmp_path / name.lower()).rename(tmp_path / name)
    found = map_points(read_transform(tmp_path / name), at(field))
    np.testing.assert_allclose(found, moved_by(field), atol=1e-4)


def test_ants_vectors_of_five_dimensions_are_read_right(field, tmp_path):
    values = sitk.GetArrayFromImage(field).transpose(2, 1, 0, 3)
    image = ants.from_numpy(np.ascontiguousarray(values), field.GetOrigin(), field.GetSpacing(), has_components=True)
    ants.image_write(image, str(tmp_path / "ants.nii.gz"))
    assert nibabel.load(tmp_path / "ants.nii.gz").shape == (14, 12, 10, 1, 3)
    np.testing.assert_allclose(
        map_points(read_transform(tmp_path / "ants.nii.gz"), at(field)), moved_by(field), atol=1e-4
    )


def nifti(path, values, affine=None, **header):
    """A NIfTI file of an array, of float32, with fields of its header set."""
    image = nibabel.Nifti1Image(
        np.asarray(values, np.float32), np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine
    )
    for name, value in header.items():
        image.header[name] = value
    image.to_filename(path)


def test_displacements_in_ras_are_turned(tmp_path):
    values = np.random.default_rng(0).normal(0, 1, (6, 6, 6, 1, 3))
    nifti(tmp_path / "f.nii", values, intent_code=1006)  # the standard's own, of which NIfTI says that it is RAS
    point = np.array([-4.0, -6.0, 4.0])  # voxel 2, 3, 2 in LPS
    moved = map_points(read_transform(tmp_path / "f.nii"), [point])[0]
    np.testing.assert_allclose(moved - point, values[2, 3, 2, 0] * [-1, -1, 1], atol=1e-5)


def in_nifti(offset, layout, value):
    """Change a number in the header of a NIfTI file."""

    def change(path):
        contents = bytearray(gzip.decompress(path.read_bytes()))
        struct.pack_into("<" + layout, contents, offset, value)
        path.write_bytes(gzip.compress(bytes(contents)))

    return change


def cut(count):
    return lambda path: path.write_bytes(path.read_bytes()[:-count])


def unpacked(function):
    """Change what a gzipped file holds, so that its own sum stays right."""
    return lambda path: path.write_bytes(gzip.compress(function(gzip.decompress(path.read_bytes()))))


DAMAGED_FIELDS = {
    "cut": ("f.nii.gz", cut(500), "f.nii.gz is damaged"),
    "cut before it was compressed": (
        "f.nii.gz",
        unpacked(lambda b: b[:-400]),
        "is damaged: it ends 400 bytes too early",
    ),
    "cut within its header": ("f.nii.gz", unpacked(lambda b: b[:200]), "f.nii.gz"),
    "empty": ("f.nii.gz", lambda path: path.write_bytes(b""), "f.nii.gz is an empty file"),
    "text": ("f.nii.gz", lambda path: path.write_text("no"), "f.nii.gz"),
    "cut .nii": ("f.nii", cut(500), "f.nii is damaged: it ends 500 bytes too early"),
    "cut .nrrd": ("f.nrrd", cut(500), "f.nrrd"),
    "cut .mha": ("f.mha", cut(500), "f.mha"),
    "NaN": ("f.nii.gz", in_nifti(4000, "f", np.nan), "has 1 values of its displacements that are NaN or infinite"),
    "infinity": ("f.nii.gz", in_nifti(4000, "f", np.inf), "has 1 values of its displacements that are NaN or infinite"),
    "a slope": ("f.nii.gz", in_nifti(112, "f", 2.0), "has the slope 2 and the intercept 0; write the mm themselves"),
    "metres": ("f.nii.gz", in_nifti(123, "b", 1), "is not in mm"),
    "an intent of its own": ("f.nii.gz", in_nifti(68, "h", 0), "is no displacement field: .* with the intent 0"),
}


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGED_FIELDS.values(), ids=DAMAGED_FIELDS)
def test_damaged_fields_are_refused_in_one_sentence(field, tmp_path, name, damage, message, capfd):
    sitk.WriteImage(field, str(tmp_path / name))
    damage(tmp_path / name)
    with pytest.raises(ValueError, match=message) as raised:
        read_transforms([tmp_path / name])
    assert "\n" not in str(raised.value) and name in str(raised.value)
    assert capfd.readouterr().err == ""


def test_images_that_are_no_field_are_refused(field, tmp_path):
    values = np.zeros((6, 6, 6, 1, 3))
    nifti(tmp_path / "four.nii.gz", values[:, :, :, 0])  # as Learn2Reg's, in voxels
    nifti(tmp_path / "two.nii.gz", values[..., :2], intent_code=1007)
    sitk.WriteImage(sitk.VectorIndexSelectionCast(field), str(tmp_path / "scalar.nii.gz"))
    sitk.WriteImage(sitk.VectorIndexSelectionCast(field), str(tmp_path / "scalar.nrrd"))
    for name in ("four.nii.gz", "two.nii.gz", "scalar.nii.gz", "scalar.nrrd"):
        with pytest.raises(ValueError, match=f"{name} is no displacement field.* 3 components per voxel, in LPS mm"):
            read_transform(tmp_path / name)
    with_nan = sitk.GetArrayFromImage(field)
    with_nan[3, 4, 5, 1] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(with_nan, isVector=True), str(tmp_path / "nan.mha"))
    (tmp_path / "folder.nii.gz").mkdir()
    sitk.WriteTransform(
        sitk.DisplacementFieldTransform(
            sitk.Cast(sitk.GetImageFromArray(with_nan, isVector=True), sitk.sitkVectorFloat64)
        ),
        str(tmp_path / "nan.h5"),
    )
    for name, message in (
        ("nan.mha", "has 1 voxels whose displacement is NaN or infinite"),
        ("nan.h5", "has 1 voxels whose displacement is NaN or infinite"),
        ("folder.nii.gz", "is a folder"),
    ):
        with pytest.raises(ValueError, match=f"{name} {message}"):
            read_transform(tmp_path / name)


def affine() -> sitk.AffineTransform:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((1.01, 0.02, 0.03, 0.04, 0.99, 0.01, 0.02, 0.03, 1.02))
    transform.SetTranslation((12.345, -6.789, 101.112))
    transform.SetCenter((1.5, 2.5, 3.5))
    return transform


@pytest.mark.parametrize("name", ["a.mat", "a.tfm", "a.txt", "a.xfm", "a.h5", "c.h5", "c.tfm"])
def test_transforms_cut_anywhere_are_refused_in_one_sentence(field, tmp_path, name, capfd):
    whole = affine()
    if name.startswith("c"):
        whole = sitk.CompositeTransform(
            [whole, sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))]
        )
    sitk.WriteTransform(whole, str(tmp_path / name))
    contents = (tmp_path / name).read_bytes()
    points = np.random.default_rng(0).uniform(-20, 20, (20, 3))
    expected = map_points(whole, points)
    np.testing.assert_allclose(map_points(read_transform(tmp_path / name), points), expected, atol=1e-3)
    count = len(contents)
    for end in {*np.linspace(0, count - 1, 60).astype(int).tolist(), *range(max(0, count - 40), count)}:
        (tmp_path / name).write_bytes(contents[:end])
        try:
            found = map_points(read_transform(tmp_path / name), points)
        except ValueError as error:
            assert "\n" not in str(error) and name in str(error)
        else:  # what has been cut was nothing
            np.testing.assert_allclose(found, expected, atol=1e-6)
    assert capfd.readouterr().err == ""


def test_transforms_of_another_kind_are_said(field, tmp_path, capfd):
    with pytest.raises(FileNotFoundError, match="nothing.h5 does not exist"):
        read_transform(tmp_path / "nothing.h5")
    with pytest.raises(ValueError, match=f"{tmp_path} is a folder; give the transform.h5 in it"):
        read_transform(tmp_path)
    for name in ("text.h5", "text.mat", "text.tfm", "text.json"):
        (tmp_path / name).write_text("no\n" * 20)
        with pytest.raises(ValueError, match=f"{name} is (not a|no|damaged)"):
            read_transform(tmp_path / name)
    sitk.WriteTransform(sitk.AffineTransform(2), str(tmp_path / "flat.h5"))
    with pytest.raises(ValueError, match="flat.h5 is a transform of 2 dimensions; give one of 3"):
        read_transform(tmp_path / "flat.h5")
    squashed = sitk.AffineTransform((1.0, 0, 0, 0, 1, 0, 0, 0, 0), (0.0, 0, 0))
    sitk.WriteTransform(squashed, str(tmp_path / "squashed.mat"))
    with pytest.raises(ValueError, match="squashed.mat squashes space flat"):
        read_transform(tmp_path / "squashed.mat")
    sitk.WriteTransform(sitk.TranslationTransform(3, (np.nan, 0.0, 0.0)), str(tmp_path / "nan.mat"))
    with pytest.raises(ValueError, match="nan.mat has parameters that are NaN or infinite"):
        read_transform(tmp_path / "nan.mat")
    assert capfd.readouterr().err == ""


def test_several_transforms_in_a_file_are_not_taken_for_the_first(tmp_path):
    sitk.WriteTransform(affine(), str(tmp_path / "a.tfm"))
    sitk.WriteTransform(affine(), str(tmp_path / "a.mat"))
    text = (tmp_path / "a.tfm").read_text()
    (tmp_path / "two.tfm").write_text(text + text.partition("\n")[2].replace("#Transform 0", "#Transform 1"))
    (tmp_path / "two.mat").write_bytes((tmp_path / "a.mat").read_bytes() * 2)
    sitk.WriteTransform(affine(), str(tmp_path / "a.xfm"))
    text = (tmp_path / "a.xfm").read_text()
    (tmp_path / "two.xfm").write_text(text + text[text.index("Transform_Type") :])
    for name in ("two.tfm", "two.mat", "two.xfm"):
        with pytest.raises(ValueError, match=f"{name} holds several transforms"):
            read_transform(tmp_path / name)
    sitk.WriteTransform(sitk.CompositeTransform([affine(), affine()]), str(tmp_path / "one.tfm"))
    point = (1.0, 2.0, 3.0)
    twice = affine().TransformPoint(affine().TransformPoint(point))
    np.testing.assert_allclose(read_transform(tmp_path / "one.tfm").TransformPoint(point), twice, atol=1e-6)


def test_bsplines_and_rigid_transforms_are_read(tmp_path):
    spline = sitk.BSplineTransformInitializer(sitk.Image([30, 30, 30], sitk.sitkUInt8), [4, 4, 4])
    spline.SetParameters(np.random.default_rng(0).normal(0, 3, len(spline.GetParameters())).tolist())
    rigid = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.2, 0.3, (4.0, 5.0, 6.0))
    points = np.array([[5.0, 6.0, 7.0], [10.0, 12.0, 14.0]])
    for name, transform in (("spline.h5", spline), ("spline.tfm", spline), ("rigid.tfm", rigid), ("rigid.mat", rigid)):
        sitk.WriteTransform(transform, str(tmp_path / name))
        found = map_points(read_transform(tmp_path / name), points)
        np.testing.assert_allclose(found, map_points(transform, points), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sform_code": 0, "qform_code": 0}, "does not say how its voxels lie in space"),
        ({"pixdim": [1, 0, 2, 2, 1, 1, 1, 1]}, "has the spacing 0 x 2 x 2"),
        ({"qform_code": 1, "qoffset_x": 60.0}, "contradicts itself"),
        ({"intent_name": b"Mapping"}, r"NiftyReg or SPM \(Mapping\)"),
        ({"intent_name": b"NREG_TRANS"}, r"NiftyReg or SPM \(NREG_TRANS\)"),
        ({"srow_x": [2000.0, 0, 0, 0]}, "by its sform and of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_field_must_say_where_and_what_it_is(tmp_path, change, message):
    image = nibabel.Nifti1Image(np.ones((6, 6, 6, 1, 3), np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    image.header.set_intent(1007)
    nibabel.save(image, tmp_path / "good.nii")
    assert map_points(read_transform(tmp_path / "good.nii"), [(-2.0, -2.0, 2.0)]).tolist() == [[-1.0, -1.0, 3.0]]
    contents = bytearray((tmp_path / "good.nii").read_bytes())
    header = nibabel.Nifti1Header(bytes(contents[:348]))
    for name, value in change.items():
        header[name] = value
    contents[:348] = header.binaryblock
    (tmp_path / "bad.nii").write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        read_transform(tmp_path / "bad.nii")


def test_a_field_without_its_place_is_refused(field, tmp_path):
    sitk.WriteImage(field, str(tmp_path / "f.mhd"))
    lines = (tmp_path / "f.mhd").read_text().splitlines(keepends=True)
    (tmp_path / "f.mhd").write_text("".join(line for line in lines if not line.startswith("Offset")))
    with pytest.raises(ValueError, match=r"f\.mhd does not say where its first voxel lies; write Offset"):
        read_transform(tmp_path / "f.mhd")
