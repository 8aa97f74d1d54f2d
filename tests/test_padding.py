"""What was filled in around or beyond a scan is recognised, whatever it was filled with; air and tissue are not."""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mine_reg.images.ct import read_ct
from mine_reg.images.geometry import to_image
from mine_reg.images.hounsfield import AIR_HU
from mine_reg.images.padding import without_padding
from mine_reg.synthetic.phantom import grid_origin, make_pair

SIZE, SPACING = (48, 48, 48), 6.5


@pytest.fixture(scope="module")
def scan():
    """HU of the phantom with a scanner's noise (D, H, W), nothing below air, and an even -1000 around the body."""
    hu = make_pair(SIZE, SPACING, 3).fixed.numpy().reshape(SIZE)
    noise = np.random.default_rng(0).normal(0, 8, SIZE)
    return np.where(hu > -990, hu + noise, hu).clip(AIR_HU).round().astype(np.float32)


def image_of(values) -> sitk.Image:
    return to_image(np.ascontiguousarray(values, np.float32), (SPACING,) * 3, grid_origin(SIZE, SPACING))


def slab_below(z, y, x):
    return z < 9


def slabs_at_both_ends(z, y, x):
    return (z < 6) | (z > 43)


def slab_at_the_side(z, y, x):
    return x > 38


def cylinder(z, y, x):
    """Outside the scanner's round field of view."""
    return (y - 23.5) ** 2 + (x - 23.5) ** 2 > 20**2


def cylinder_and_slabs(z, y, x):
    return cylinder(z, y, x) | slabs_at_both_ends(z, y, x)


def box(z, y, x):
    return (abs(z - 24) > 18) | (abs(y - 24) > 15) | (abs(x - 24) > 19)


SHAPES = [slab_below, slabs_at_both_ends, slab_at_the_side, cylinder, cylinder_and_slabs, box]


@pytest.mark.parametrize("value", [0.0, -200.0, 40.0, 3071.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_padding_becomes_air_and_nothing_else_does(scan, shape, value):
    padded = shape(*np.indices(SIZE))
    image = image_of(np.where(padded, value, scan))
    bare, shown, found = without_padding(image)
    assert found == value
    seen = sitk.GetArrayFromImage(shown)
    assert set(np.unique(seen)) == {0, 1} and shown.GetPixelID() == sitk.sitkFloat32
    # voxels that happen to have the value and touch the padding go with it; they are few, and none is missed
    assert not seen[padded].any() and (seen[~padded] == 0).mean() < 0.01
    values = sitk.GetArrayFromImage(bare)
    assert (values[seen == 0] == AIR_HU).all()
    np.testing.assert_array_equal(values[seen == 1], scan[seen == 1])
    for made in (bare, shown):
        for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(made, what)() == getattr(image, what)()


def unpadded(image):
    bare, shown, found = without_padding(image)
    assert found is None and shown is None
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(bare), sitk.GetArrayViewFromImage(image))


def test_a_phantom_has_none_for_its_air_is_air(scan):
    unpadded(image_of(scan))


def test_a_scan_within_the_body_has_none(scan):
    unpadded(image_of(scan[16:34, 18:34, 14:34]))


def test_even_tissue_inside_the_body_is_none(scan):
    values = scan.copy()
    values[16:32, 16:32, 16:32] = 40.0  # 7 % of the voxels, away from the border
    unpadded(image_of(values))


def test_a_little_of_one_value_at_the_border_is_none(scan):
    values = scan.copy()
    values[:, :2, :8] = 0.0  # 0.7 % of the voxels: a blanket, a number burnt in
    unpadded(image_of(values))


def test_an_even_table_below_the_patient_is_not_mixed_up_with_another_value(scan):
    """Of several values at the border the most common one is padding."""
    values = np.where(cylinder(*np.indices(SIZE)), 0.0, scan)
    values[:, -1, 20:28] = 120.0
    _, shown, found = without_padding(image_of(values))
    assert found == 0.0 and sitk.GetArrayViewFromImage(shown)[:, -1, 20:28].all()


def test_a_fill_below_air_reads_as_air_and_is_let_be(scan):
    unpadded(image_of(np.where(cylinder(*np.indices(SIZE)), AIR_HU, scan)))


REAL = ("popi00.n*", "ricord1012.n*", "cip64.n*")


@pytest.mark.parametrize("name", REAL)
def test_real_scans_have_none_until_it_is_put_there(repository, name):
    """Couches, a round field of view, air of the exporter's own value: whatever scanners leave."""
    folder = Path(os.environ.get("MINE_REG_REAL_CT", repository.parent / "shared" / "data"))
    found = sorted(folder.glob(name))
    if not found:
        pytest.skip(f"no real CT {name} in {folder}")
    image = sitk.BinShrink(read_ct(found[0], str(found[0])), [3, 3, 1])
    unpadded(image)
    values = sitk.GetArrayFromImage(image)
    values[: len(values) // 5] = 0
    padded = sitk.GetImageFromArray(values)
    padded.CopyInformation(image)
    _, shown, value = without_padding(padded)
    share = (sitk.GetArrayViewFromImage(shown) == 0).mean()
    assert value == 0 and share == pytest.approx(len(values) // 5 / len(values), abs=0.01)
