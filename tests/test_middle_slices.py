"""Slices for a quick look: every pixel is where a radiologist looks for it, whatever the images' axes."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
from lung_box import CENTRE, HALF_MM, IDENTITY, WORKING_GRID, constant, field_of, lung_box, oblique

from mine_reg.pair_tool.middle_slices import middle_slices

SLOPES = {"fixed": (1.0, 2.0, 3.0), "moving": (-1.5, 1.0, 0.5)}  # HU per mm from the centre
SCALES, SHIFT = (1.1, 0.9, 1.2), (-3.0, -20.0, -180.0)


def ramp(name: str):
    return lambda points: (points - CENTRE) @ SLOPES[name]


TRANSFORM = sitk.AffineTransform(np.diag(SCALES).ravel().tolist(), SHIFT)


@pytest.fixture(scope="module")
def slices():
    fixed = oblique(ramp("fixed"), (0.2, -0.3, 1.5), (3.0, 2.0, 6.0))
    moving = oblique(ramp("moving"), (math.pi, 0, 0), (1.5, 4.0, 3.0))
    return middle_slices(fixed, moving, lung_box(), TRANSFORM, field_of(TRANSFORM))


def places(slices, plane) -> np.ndarray:
    """LPS mm (rows, columns, 3) that a radiologist expects in a slice: the middle of the lungs 30 mm from its edges."""
    shape, spacing, at = slices[plane].fixed.shape, slices[plane].spacing_mm, slices[plane].at_mm
    right, front, head = CENTRE[0] - HALF_MM[0] - 30, CENTRE[1] - HALF_MM[1] - 30, CENTRE[2] + HALF_MM[2] + 30
    rows, columns = np.indices(shape) * spacing
    flat = np.full(shape, at)
    found = {
        "axial": (right + columns, front + rows, flat),
        "coronal": (right + columns, flat, head - rows),
        "sagittal": (flat, front + columns, head - rows),
    }
    return np.stack(found[plane], -1)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_each_pixel_is_where_a_radiologist_looks_for_it(slices, plane):
    """To the 4 mm of the lungs' voxels; and to a hundredth when where they begin is known."""
    seen, points = slices[plane], places(slices, plane)
    tolerance = 5 * sum(SLOPES["fixed"])
    np.testing.assert_allclose(seen.fixed, ramp("fixed")(points), atol=tolerance)
    # the residue is one shift of the whole picture: slope and direction are exact
    for name, picture, at in (
        ("fixed", seen.fixed, points),
        ("moving", seen.moving, points),
        ("moving", seen.moved, points * SCALES + SHIFT),
    ):
        rest = picture - ramp(name)(at)
        assert np.ptp(rest) < 0.05, (name, np.ptp(rest))
    mm = np.array(seen.fixed.shape) * seen.spacing_mm
    height, width = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}[plane]
    np.testing.assert_allclose(mm, [2 * HALF_MM[height] + 60, 2 * HALF_MM[width] + 60], atol=8)


def test_planes_go_through_the_middle_and_the_sagittal_one_through_most_of_the_lungs(slices):
    assert slices["axial"].at_mm == pytest.approx(CENTRE[2], abs=4)
    assert slices["coronal"].at_mm == pytest.approx(CENTRE[1], abs=4)
    assert CENTRE[0] <= slices["sagittal"].at_mm <= CENTRE[0] + HALF_MM[0]
    share = slices["axial"].lungs.mean(axis=0)
    assert share[: len(share) // 3].max() < 0.6 * share.max()  # the smaller half is the patient's right, on the left


def test_the_jacobian_is_that_of_the_whole_transform(slices):
    for seen in slices.values():
        np.testing.assert_allclose(seen.jacobian, np.prod(SCALES), rtol=1e-4)
        assert seen.jacobian.shape == seen.fixed.shape == seen.lungs.shape


def test_a_jacobian_that_changes_lies_in_its_place():
    """Volume doubles towards the head, above the centre alone."""
    head = field_of(IDENTITY)
    array = sitk.GetArrayFromImage(head)
    array[..., 2] = np.maximum(np.arange(127) - 63, 0)[:, None, None] * 2.5
    field = sitk.GetImageFromArray(array, isVector=True)
    field.CopyInformation(WORKING_GRID)
    empty = oblique(constant(0), spacing=(10.0, 10.0, 10.0))
    found = middle_slices(empty, empty, lung_box(), IDENTITY, field)
    for plane in ("coronal", "sagittal"):
        half = len(found[plane].jacobian) // 2
        np.testing.assert_allclose(found[plane].jacobian[: half - 2], 2, rtol=1e-4)
        np.testing.assert_allclose(found[plane].jacobian[half + 2 :], 1, rtol=1e-4)


def test_other_grids_and_lungs_elsewhere_are_refused():
    empty, away = oblique(constant(0), spacing=(20.0, 20.0, 20.0)), lung_box()
    turned = sitk.Image(WORKING_GRID)
    turned.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, 1))
    with pytest.raises(ValueError, match="isotropic voxels with axes L, P, S"):
        middle_slices(empty, empty, lung_box(), IDENTITY, field_of(IDENTITY, turned))
    away.SetOrigin((5000.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="the lungs mark nothing on the grid of the field"):
        middle_slices(empty, empty, away, IDENTITY, field_of(IDENTITY))
