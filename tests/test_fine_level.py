"""The fine level: it continues from the coarse answer, in the same places, and learns."""

import lightning
import pandas as pd
import torch
from torch.utils.data import Dataset

from mine_reg.models import AffineNet, DeformNet
from mine_reg.registration import Registration, halved, predict_coarse, predict_fine
from mine_reg.settings import settings
from mine_reg.spatial import compose_dvf, resample, smooth, transform_points
from mine_reg.training.augmentation import DISTANCE
from mine_reg.training.fit import PairData, fit
from mine_reg.training.modules import FineTraining
from mine_reg.training.weights import load_deformnet

COARSE, FINE = (12, 16, 14), (23, 31, 27)


def trained(seed: int) -> Registration:
    torch.manual_seed(seed)
    affinenet, deformnet = AffineNet((4, 8)), DeformNet((4, 8), passes=2)
    torch.nn.init.normal_(affinenet.parameters_head.weight, std=0.2)
    torch.nn.init.normal_(deformnet.field.weight, std=0.3)
    return Registration(affinenet, deformnet).eval()


def test_halving_keeps_places_and_thickens_voxels():
    image = torch.arange(27.0).expand(1, 1, 23, 31, 27)
    assert halved(image).shape[2:] == COARSE
    torch.testing.assert_close(halved(image)[..., 2:-2], image[:, :, ::2, ::2, ::2][..., 2:-2])
    noise = torch.randn(1, 1, 41, 41, 41)
    assert 0.2 < halved(noise).std() < 0.36  # the mean of eight voxels would have 0.35


def test_the_coarse_answer_means_the_same_on_the_fine_grid():
    registration, images = trained(0), smooth(torch.rand(2, 1, *COARSE), 1.0)[:, None]
    with torch.inference_mode():
        theta, dvf = predict_coarse(registration, *images)
        expected = registration.deformnet.predict(*images, theta)
    points = torch.rand(1, 50, 3) * (torch.tensor(COARSE) - 1)
    torch.testing.assert_close(
        transform_points(2 * points, FINE, theta, dvf),
        2 * transform_points(points, COARSE, theta, expected),
        rtol=1e-3,
        atol=1e-3,
    )


def test_each_pass_continues_from_what_is_there():
    torch.manual_seed(1)
    network = DeformNet((4, 8), passes=2).eval()
    torch.nn.init.normal_(network.field.weight, std=0.3)
    fixed, moving = torch.rand(2, 1, 1, *FINE)
    theta, dvf = torch.eye(3, 4)[None] + 0.02 * torch.randn(1, 3, 4), torch.randn(1, 3, 12, 16, 14)
    first = compose_dvf(dvf, network(fixed, resample(moving, theta, dvf)), FINE)
    torch.testing.assert_close(predict_fine(network, fixed, moving, theta, dvf, 1), first)
    second = compose_dvf(first, network(fixed, resample(moving, theta, first)), FINE)
    torch.testing.assert_close(predict_fine(network, fixed, moving, theta, dvf), second)


class Shifted(Dataset):
    """Textures moved by two fine voxels along x."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict:
        image = smooth(torch.rand(1, 1, 23, 31, 40, generator=torch.Generator().manual_seed(index)), 1.5)[0]
        image = (image - image.min()) / (image.max() - image.min())
        mask = torch.ones(1, *FINE)
        return {
            "fixed": image[..., :27],
            "moving": image[..., 2:29],
            "fixed_mask": mask,
            "moving_mask": mask,
            DISTANCE: torch.zeros(1, *FINE),
        }


def test_the_fine_network_learns_and_leaves_the_coarse_ones_alone(tmp_path):
    below = Registration(AffineNet((4, 8)), DeformNet((4, 8)))  # start at the identity
    before = {name: value.clone() for name, value in below.state_dict().items()}
    cfg = settings(
        "deformnet",
        profile="smoke",
        channels=[8, 16],
        passes=1,
        epochs=60,
        validate_every=60,
        samples=8000,
        shift_voxels=1,
        flip_axes=[],
        mu=1.0,
        smoothing=1.0,
        warmup_steps=5,
    )
    lightning.seed_everything(0, verbose=False)
    fit(
        FineTraining(cfg, below, None),
        PairData(cfg, Shifted(), Shifted(), b""),
        tmp_path / "out",
        tmp_path / "work",
        tmp_path / "curves",
    )
    for name, value in below.state_dict().items():
        assert torch.equal(value, before[name]), name
    pair = {name: value[None] for name, value in Shifted()[0].items()}
    with torch.inference_mode():
        theta, dvf = predict_coarse(below, halved(pair["fixed"]), halved(pair["moving"]))
        dvf = predict_fine(load_deformnet(tmp_path / "out"), pair["fixed"], pair["moving"], theta, dvf)
    inner = dvf[0, :, 3:-3, 3:-3, 3:-3].mean(dim=(1, 2, 3))
    assert abs(inner[2] + 2) < 0.7 and inner[:2].abs().max() < 0.5, inner
    assert pd.read_csv(tmp_path / "curves/plots/metrics/val/mine.tsv", sep="\t")["mine"].iloc[-1] > 0.2
