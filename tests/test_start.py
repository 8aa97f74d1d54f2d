"""Where a registration starts: of pairs whose truth is known, the right start wins, and an answer of the networks that
is worse than none is not used."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from known_networks import SIZE, SPACING, known_weights, turned

import mine_reg
from mine_reg.images.geometry import composite_transform, voxels_to_points
from mine_reg.pair_tool.conventional_affine import conventional_affine
from mine_reg.pair_tool.inputs import BODY, LUNGS, read_images
from mine_reg.pair_tool.start import Comparison, Start, best_start, candidate_starts, normalised_information
from mine_reg.pair_tool.views import Views
from mine_reg.synthetic.phantom import make_pair
from mine_reg.training.weights import load_weights_file

NAMES = {"fixed": "fixed", "moving": "moving"}
STILL = torch.eye(3, 4)


@pytest.fixture(scope="module")
def pair():
    return make_pair(SIZE, SPACING, 3)


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Networks that push everything away, whatever they see."""
    return load_weights_file(known_weights(tmp_path_factory.mktemp("bad"))).registration


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    """Networks that answer nothing."""
    file = known_weights(tmp_path_factory.mktemp("idle"), STILL, torch.zeros(3))
    return load_weights_file(file).registration


def read(fixed, moving, **masks):
    return read_images(fixed, moving, masks.get("fixed_mask"), masks.get("moving_mask"), NAMES)


def start_of(images, registration):
    return best_start(Views(images, "cpu"), registration, None)


def assert_nothing_moves(answer):
    torch.testing.assert_close(answer.theta, STILL[None])
    assert answer.dvf.abs().max() == 0 and answer.by == "none"


def with_noise(image, seed=0):
    noise = np.random.default_rng(seed).normal(0, 20, image.GetSize()[::-1])
    noisy = sitk.GetImageFromArray((sitk.GetArrayFromImage(image) + noise).clip(-1024, 3000).astype(np.int16))
    noisy.CopyInformation(image)
    return noisy


def cut(image, low, high):
    """Slices from ``low`` to before ``high``."""
    return image[:, :, low:high]


def test_a_good_header_is_kept_and_networks_that_are_worse_than_none_are_not_used(pair, bad):
    fixed = turned(pair.fixed, angle=0.1)
    answer = start_of(read(fixed, with_noise(fixed)), bad)
    assert answer.start.name == "header" and not answer.start.shift.any()
    assert_nothing_moves(answer)
    assert answer.overlap == 1 and answer.dvf.shape == (1, 3, 127, 127, 127)
    best = max(answer.tried, key=lambda one: one["agreement"])
    assert {one["by"] for one in answer.tried} >= {"none", "networks", "deformnet"}
    assert (best["start"], best["by"]) == ("header", "none") and best["agreement"] > 0.4
    assert all(one["agreement"] < 0.9 * best["agreement"] for one in answer.tried if one is not best)


@pytest.mark.parametrize("networks", ["bad", "idle"])
@pytest.mark.parametrize("shift", [(150.0, 0.0, 0.0), (0.0, -90.0, 120.0), (-600.0, 700.0, 800.0)])
def test_images_whose_headers_are_far_off_are_brought_together(pair, networks, shift, request):
    fixed = turned(pair.fixed)
    answer = start_of(read(fixed, with_noise(turned(pair.fixed, shift))), request.getfixturevalue(networks))
    # T(x) = x + shift is right; what regions say of it is as exact as voxels of 4 mm
    np.testing.assert_allclose(answer.start.shift, shift, atol=1.5)
    assert_nothing_moves(answer)
    assert answer.overlap > 0.99 and answer.agreement > 0.4


@pytest.mark.parametrize("axis", [0, 2])
def test_a_patient_who_lies_tilted_is_turned_back_without_networks(pair, idle, axis):
    fixed = turned(pair.fixed)
    there = sitk.Euler3DTransform()
    there.SetRotation(*(0.45 * np.eye(3)[axis]).tolist())  # 26 degrees
    there.SetTranslation((10.0, -15.0, 5.0))
    moving = with_noise(sitk.Resample(fixed, fixed, there.GetInverse(), sitk.sitkLinear, -1024))
    images = read(fixed, moving)
    answer = start_of(images, idle)
    assert answer.by == "affine"
    found = composite_transform(answer.theta, answer.dvf, images.grid, images.grid)
    lungs = voxels_to_points(
        np.argwhere(sitk.GetArrayFromImage(images.regions["fixed"]))[::50], images.regions["fixed"]
    )
    errors = [
        np.linalg.norm(found.TransformPoint(point) + answer.start.shift - there.TransformPoint(point))
        for point in lungs.tolist()
    ]
    assert len(errors) > 100 and max(errors) < 3


def test_a_conventional_affine_registration_repeats_itself_and_may_come_to_nothing(pair):
    volume, region = pair.fixed[None, None] / 1500 + 0.7, pair.fixed_mask > 0.5
    found = [conventional_affine(volume, volume.roll(3, dims=4), region) for _ in range(2)]
    assert found[0].equal(found[1]) and found[0].shape == (1, 3, 4)
    torch.testing.assert_close(found[0][0, :, 3], torch.tensor([2 * 3 / (SIZE[0] - 1), 0, 0]), atol=2e-3, rtol=0)
    assert conventional_affine(volume, volume, torch.zeros_like(region)) is None


@pytest.mark.parametrize("upper", [True, False])
def test_half_of_the_lungs_is_not_pulled_onto_all_of_them(pair, bad, upper):
    fixed, half = turned(pair.fixed), SIZE[2] // 2
    moving = cut(with_noise(fixed), *((half, None) if upper else (0, half)))
    images = read(fixed, moving)
    assert images.kinds["moving"] == LUNGS  # they are found there, too
    centres = [start for start in candidate_starts(images) if start.name == "centre of the regions"]
    assert len(centres) == 1 and abs(centres[0].shift[2]) > 20  # where it would have gone
    answer = start_of(images, bad)
    assert answer.start.name == "header" and answer.by == "none" and 0.3 < answer.overlap < 0.75
    assert_nothing_moves(answer)


def test_half_of_the_lungs_with_a_header_far_off_is_brought_to_its_half(pair, idle):
    """Centres are no use there, but ends that both images show are."""
    fixed, shift = turned(pair.fixed), np.array([20.0, -120.0, 200.0])
    moving = cut(with_noise(turned(pair.fixed, shift)), SIZE[2] // 2, None)
    answer = start_of(read(fixed, moving), idle)
    assert answer.start.name == "top of the regions"
    np.testing.assert_allclose(answer.start.shift, shift, atol=8)


def test_without_lungs_bodies_are_brought_together(pair, idle):
    def dense(values, mask):
        return turned(torch.where(mask > 0.5, 0.35 * values - 20, values))

    fixed = dense(pair.fixed, pair.fixed_mask)
    moving = with_noise(fixed)
    moving.SetOrigin((np.array(fixed.GetOrigin()) + [150.0, 30.0, -80.0]).tolist())
    images = read(fixed, moving)
    assert set(images.kinds.values()) == {BODY}
    assert [start.name for start in candidate_starts(images)] == ["header", "centre of the bodies"]
    answer = start_of(images, idle)
    np.testing.assert_allclose(answer.start.shift, [150, 30, -80], atol=2)


def test_candidates_begin_with_the_header_and_differ(pair):
    images = read(turned(pair.fixed), turned(pair.moving, (40.0, 0.0, 90.0)))
    starts = candidate_starts(images)
    assert starts[0].name == "header" and not starts[0].shift.any() and len(starts) > 1
    for number, start in enumerate(starts):
        assert all(np.linalg.norm(start.shift - other.shift) > 8 for other in starts[:number])
        np.testing.assert_allclose(start.transform().TransformPoint((1.0, 2.0, 3.0)), start.shift + [1, 2, 3])


def test_masks_decide_what_is_brought_together(pair, idle):
    """The left lung of one image, marked, and the same in the other: not both lungs, which are there as well."""
    left = turned(pair.fixed_mask, dtype="uint8")
    values = sitk.GetArrayFromImage(left)
    values[:, :, : SIZE[0] // 2] = 0
    mask = sitk.GetImageFromArray(values)
    mask.CopyInformation(left)
    fixed, shift = turned(pair.fixed), np.array([130.0, 0.0, 60.0])
    moving, moving_mask = turned(pair.fixed, shift), sitk.Image(mask)
    moving_mask.SetOrigin((np.array(mask.GetOrigin()) + shift).tolist())
    images = read(fixed, moving, fixed_mask=mask, moving_mask=moving_mask)
    assert set(images.kinds.values()) == {"mask"}
    assert images.grid.TransformContinuousIndexToPhysicalPoint([63.0] * 3)[0] > 30  # around the left lung
    answer = start_of(images, idle)
    np.testing.assert_allclose(answer.start.shift, shift, atol=1)


def test_the_measure_of_agreement():
    random = np.random.default_rng(0)
    values, others = random.random(50_000), random.random(50_000)
    assert normalised_information(values, values) == pytest.approx(1)
    assert normalised_information(values, 1 - values) == pytest.approx(1, abs=1e-3)  # other contrast, same structure
    assert 0 <= normalised_information(values, others) < 0.02
    noisy = [normalised_information(values, (values + s * random.normal(size=50_000)).clip(0, 1)) for s in (0.05, 0.2)]
    assert 1 > noisy[0] > noisy[1] > 0.02
    assert normalised_information(values, np.zeros(50_000)) == pytest.approx(0, abs=1e-6)


def test_what_hardly_overlaps_does_not_agree(pair):
    images = read(turned(pair.fixed), turned(pair.fixed))
    compare = Comparison(Views(images, "cpu"), coarse=True)

    def at(shift):
        return compare(Start("header", np.array(shift, float)))

    assert at([0, 0, 0]) == (pytest.approx(1, abs=1e-2), 1)
    agreement, overlap = at([0, 0, 250])
    assert agreement == 0 and 0 < overlap < 0.3
    assert at([0, 0, 2000]) == (0, 0)


@pytest.mark.parametrize("refine", [0, 20])
def test_identical_images_stay_where_they_are(pair, refine):
    fixed = turned(pair.fixed, angle=0.1)
    result = mine_reg.register(fixed, fixed, device="cpu", refine=refine)
    assert not result.report["refinement"].get("taken")
    assert np.linalg.norm(sitk.GetArrayFromImage(result.dvf), axis=-1).max() < 0.1
    assert result.report["verdict"] == "trusted" and result.report["warnings"] == []
    assert result.report["start"] == "header" and result.report["start_mm"] == [0, 0, 0]
    assert not any(np.signbit(result.report["start_mm"]))


def test_trained_networks_are_used_where_they_help_and_far_headers_do_not_matter(pair):
    """Pairs of known truth, 150 mm apart."""
    shift = np.array([90.0, -60.0, 104.0])
    fixed, moving = turned(pair.fixed), turned(pair.moving, shift)
    points = {"fixed_points": pair.fixed_points_xyz.numpy(), "moving_points": pair.moving_points_xyz.numpy() + shift}
    report = mine_reg.register(fixed, moving, device="cpu", **points).report
    assert report["start_by"].startswith(("networks", "deformnet"))
    np.testing.assert_allclose(report["start_mm"], -shift, atol=25)  # lungs breathe
    distance = np.linalg.norm(points["fixed_points"] + shift - points["moving_points"], axis=1).mean()
    assert report["tre_mm_after"] < min(3, 0.5 * distance)
    assert any("the images lay far apart" in sentence for sentence in report["warnings"])


def test_a_mask_of_something_small_leaves_its_surroundings_on_the_grid(pair):
    """A mask need not mark lungs: a nodule of one centimetre is seen with nine centimetres around it."""
    fixed, moving = turned(pair.fixed), turned(pair.moving)
    nodule = sitk.Image(fixed.GetSize(), sitk.sitkUInt8)
    nodule.CopyInformation(fixed)
    nodule[27:29, 27:29, 27:29] = 1
    result = mine_reg.register(fixed, moving, device="cpu", fixed_mask=nodule)
    width = result.report["working_spacing_mm"] * (result.report["working_size"][0] - 1)
    assert result.report["region"] == "mask" and 90 < width < 110
    assert np.isfinite(result.report["inconsistency_mm"]) and result.report["verdict"] in (
        "trusted",
        "doubtful",
        "failed",
    )
