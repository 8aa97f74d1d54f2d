"""Variation of training pairs: what is beyond the end of a scan is air, no lung and not looked at; air stays air."""

import torch

from mine_reg.spatial import affine_points, compose_affine, grid_points
from mine_reg.training.augmentation import DISTANCE, AsInClinics, augment, random_affine, shift_and_flip


def pair() -> dict:
    torch.manual_seed(0)
    image = torch.rand(1, 10, 12, 14) + 0.1
    image[:, 4:6, 4:6, 4:6] = 0.0
    return {
        "fixed": image,
        "moving": image.clone(),
        "fixed_mask": torch.ones_like(image),
        "moving_mask": torch.ones_like(image),
        DISTANCE: torch.zeros_like(image),
    }


def test_pairs_vary_and_the_originals_do_not(monkeypatch):
    monkeypatch.setattr("mine_reg.training.augmentation._ONE_LUNG", 0.0)
    given = pair()
    data = AsInClinics([given])
    torch.manual_seed(3)
    drawn = [data[0] for _ in range(40)]
    cut = [(p["fixed_mask"] == 0).any().item() or (p["moving_mask"] == 0).any().item() for p in drawn]
    assert 4 < sum(cut) < 25
    for p in drawn:
        for name in ("fixed", "moving"):
            assert p[name].shape == given[name].shape and p[name].min() >= 0 and p[name].max() <= 1
            assert (p[name][given[name] == 0] == 0).all() and (p[name][p[f"{name}_mask"] == 0] == 0).all()
        assert ((p[DISTANCE] == 255) == (p["fixed_mask"] == 0)).all()
    assert not torch.equal(drawn[0]["fixed"], drawn[1]["fixed"])
    for name, value in pair().items():
        assert torch.equal(given[name], value)


def test_one_lung_alone_lies_in_the_middle(monkeypatch):
    """All else of both images is air, no lung and not looked at; the kinds of numbers stay."""
    monkeypatch.setattr("mine_reg.training.augmentation._ONE_LUNG", 1.0)
    monkeypatch.setattr("mine_reg.training.augmentation._CUT", 0.0)
    distance = torch.full((1, 40, 40, 60), 50, dtype=torch.uint8)
    distance[:, 10:30, 5:25, 10:22] = distance[:, 10:30, 5:25, 38:50] = 0
    lungs = (distance == 0).to(torch.uint8)
    image = torch.full((1, 40, 40, 60), 0.5)
    given = {"fixed": image, "moving": image, "fixed_mask": lungs, "moving_mask": lungs, DISTANCE: distance}
    torch.manual_seed(1)
    for seen in (AsInClinics([given])[0] for _ in range(6)):
        for name in ("fixed_mask", "moving_mask"):
            marked = torch.nonzero(seen[name][0]).float()
            assert len(marked) == 20 * 20 * 12 and seen[name].dtype == torch.uint8
            assert (marked.mean(0)[:2] - torch.tensor([19.5, 19.5])).abs().max() <= 1
            assert abs(marked.mean(0)[2] - 29.5) <= 6  # the middle between two lungs belongs to either
        assert torch.equal(seen[DISTANCE] == 0, seen["fixed_mask"] == 1)
        assert ((seen["fixed"] > 0) == (seen[DISTANCE] < 255)).all()
        assert 20 * 20 * 12 < (seen["moving"] > 0).sum() < 40 * 40 * 40
    assert torch.equal(distance == 0, lungs == 1)


def test_the_same_random_numbers_give_the_same_pair():
    data = AsInClinics([pair()])
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(data[0])
    assert all(torch.equal(drawn[0][name], value) for name, value in drawn[1].items())


def test_a_shift_pads_with_air_and_crops():
    volume = torch.arange(27.0).reshape(1, 1, 3, 3, 3) + 1
    moved = shift_and_flip(volume, [1, 0, -1], [])
    assert moved.shape == volume.shape
    torch.testing.assert_close(moved[0, 0, 1:, :, :2], volume[0, 0, :2, :, 1:])
    assert (moved[0, 0, 0] == 0).all() and (moved[0, 0, :, :, 2] == 0).all()


def test_augmentation_moves_images_and_masks_of_a_pair_together():
    torch.manual_seed(0)
    volume = torch.rand(1, 1, 8, 8, 8)
    batch = augment({"fixed": volume, "moving": volume.clone(), "fixed_mask": volume.clone()}, 2, [0, 1, 2])
    assert (batch["fixed"] == batch["moving"]).all() and (batch["fixed"] == batch["fixed_mask"]).all()
    assert not (batch["fixed"] == volume).all()


def test_composition_of_affine_maps_is_composition_of_functions():
    torch.manual_seed(0)
    outer, inner = random_affine(2, 20, 0.2, 0.2), random_affine(2, 20, 0.2, 0.2)
    points, size = grid_points((5, 6, 7)).expand(2, -1, -1), (5, 6, 7)
    torch.testing.assert_close(
        affine_points(compose_affine(outer, inner), points, size),
        affine_points(outer, affine_points(inner, points, size), size),
        rtol=1e-4,
        atol=1e-4,
    )


def test_random_affine_without_limits_is_the_identity():
    torch.testing.assert_close(random_affine(3, 0, 0, 0), torch.eye(3, 4).expand(3, -1, -1))


def test_what_is_shifted_in_is_far_from_the_lungs():
    batch = {"fixed": torch.ones(1, 1, 6, 6, 6), DISTANCE: torch.zeros(1, 1, 6, 6, 6)}
    torch.manual_seed(3)
    moved = augment(batch, 3, [])
    assert 0 < (moved["fixed"] == 0).sum() == (moved[DISTANCE] == 255).sum()
