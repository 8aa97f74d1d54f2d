"""Images that are no CT in HU: masks in place of lungs must not let them through without a word."""

import numpy as np
import pytest
import SimpleITK as sitk

import mine_reg
from mine_reg.images.geometry import to_image
from mine_reg.pair_tool.inputs import read_images
from mine_reg.pair_tool.verdict import verdict
from mine_reg.synthetic.phantom import grid_origin, make_pair

SIZE, SPACING = (48, 48, 48), 6.5
NAMES = {"fixed": "fixed", "moving": "moving"}


@pytest.fixture(scope="module")
def pair():
    made = make_pair(SIZE, SPACING, 987_006)
    names = ("fixed", "moving", "fixed_mask", "moving_mask")
    return {n: to_image(getattr(made, n), (SPACING,) * 3, grid_origin(SIZE, SPACING), dtype="int16") for n in names}


def test_hu_with_an_offset_are_refused_and_registered_once_it_is_gone(pair):
    shifted = pair["fixed"] + 1024
    masks = {name: pair[name] for name in ("fixed_mask", "moving_mask")}
    with pytest.raises(ValueError, match=r"^fixed has values from .* these look like HU \+ 1024, so subtract 1024$"):
        mine_reg.register(shifted, pair["moving"], device="cpu", **masks)
    assert not mine_reg.register(shifted - 1024, pair["moving"], device="cpu", **masks).report["warnings"]


def test_other_intensities_are_said(pair):
    values = sitk.GetArrayFromImage(pair["fixed"]).astype(np.float32)
    rescaled = to_image((values + 1000) / 3, (SPACING,) * 3, grid_origin(SIZE, SPACING))
    masks = {name: pair[name] for name in ("fixed_mask", "moving_mask")}
    report = mine_reg.register(rescaled, pair["moving"], device="cpu", **masks).report
    assert any("is it MR, or rescaled? Give the CT in HU" in sentence for sentence in report["warnings"])


def test_an_offset_is_seen_where_all_zeros_are_padding(pair):
    """Raw values have their 0 outside the scanner's round field of view alone."""
    raw = sitk.GetArrayFromImage(pair["fixed"]).astype(np.int16) + 1024
    _, y, x = np.indices(raw.shape)
    raw[(y - 23.5) ** 2 + (x - 23.5) ** 2 > 22**2] = 0
    image = to_image(raw, (SPACING,) * 3, grid_origin(SIZE, SPACING), dtype="int16")
    with pytest.raises(ValueError, match=r"^fixed has values from 0 to .* HU \+ 1024, so subtract 1024$"):
        mine_reg.register(image, pair["moving"], device="cpu")


def with_a_rim(raw):
    _, y, x = np.indices(raw.shape)
    return (y - 23.5) ** 2 + (x - 23.5) ** 2 > 22**2


def with_one_voxel(raw):
    return np.arange(raw.size).reshape(raw.shape) == 7


@pytest.mark.parametrize("value", [-2000, -1024, -1000, -1])
@pytest.mark.parametrize("where", [with_a_rim, with_one_voxel])
@pytest.mark.parametrize("name", ["fixed", "moving"])
def test_an_offset_is_seen_whatever_lies_below(pair, where, value, name):
    """Padding that was filled in after the offset; one image of the two is enough."""
    raw = sitk.GetArrayFromImage(pair[name]).astype(np.int16) + 1024
    raw[where(raw)] = value
    given = pair | {name: to_image(raw, (SPACING,) * 3, grid_origin(SIZE, SPACING), dtype="int16")}
    with pytest.raises(ValueError, match=rf"^{name} has values from .* HU \+ 1024, so subtract 1024$"):
        mine_reg.register(given["fixed"], given["moving"], device="cpu")


@pytest.mark.parametrize("value", [-3024, -1024])
def test_padding_below_hu_is_no_offset(pair, value):
    hu = sitk.GetArrayFromImage(pair["fixed"])
    hu[with_a_rim(hu)] = value
    padded = to_image(hu, (SPACING,) * 3, grid_origin(SIZE, SPACING), dtype="int16")
    assert not [s for s in read_images(padded, pair["moving"], None, None, NAMES).doubts if "values from" in s]


@pytest.mark.parametrize("factor", [0.1, 3.0])
def test_voxels_of_a_wrong_size_are_never_trusted(pair, factor):
    given = {name: sitk.Image(image) for name, image in pair.items()}
    for image in given.values():
        image.SetSpacing([factor * SPACING] * 3)
    images = read_images(given["fixed"], given["moving"], None, None, NAMES)
    good = {"inconsistency_mm": 0.0, "folding_percent": 0.0, "agreement": 0.5, "overlap": 1.0, "region_dsc": None}
    good |= {"mutual_information_before": 0.5, "mutual_information_after": 1.0, "start_mm": [0.0] * 3}
    assert verdict(good | {"regions": images.kinds, "lungs_l": images.lungs_l})[0] == "doubtful"


def test_what_is_no_ct_fails_and_says_so(pair):
    random = np.random.default_rng(0).integers(0, 900, (20, 20, 20)).astype(np.float32)
    report = mine_reg.register(pair["fixed"], sitk.GetImageFromArray(random), device="cpu").report
    assert report["verdict"] == "failed" and report["region_dsc"] is None
    assert any("is it MR, or rescaled? Give the CT in HU" in sentence for sentence in report["warnings"])
