"""Variation of training pairs: what is beyond the end of a scan is air, no lung and not looked at; air stays air."""

import torch

from mine_reg.training.augmentation import DISTANCE, AsInClinics


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
