"""The paper's networks: the statistic network T of MINE, AffineNet and DeformNet."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mine_reg.spatial import compose_affine, compose_dvf, resample, smooth

SLOPE = 0.2  # of the leaky ReLU, in all networks
POOLED = {"moments": 4, "average": 1, "adaptive": 64}  # numbers that AffineNet's pooling makes of one feature map


class StatisticNet(nn.Module):
    """T of eq. 3-4: an entrance for each image, whose feature maps are concatenated and reduced to one score per voxel.

    All layers are 1x1x1 convolutions, written as linear layers over the channels of a list of voxels. With a receptive
    field T could tell the texture of F from the noise of the shuffled F, and would measure that instead of alignment
    (notebook 03 shows it). There is no normalisation: it would tie the joint and the shuffled batch together.

    width : feature maps per layer
    inputs : channels of each image
    """

    def __init__(self, width: int = 32, inputs: int = 1):
        super().__init__()
        self.inputs = inputs
        self.entrance_moving, self.entrance_fixed = (
            nn.Sequential(nn.Linear(inputs, width), nn.LeakyReLU(SLOPE), nn.Linear(width, width)) for _ in range(2)
        )
        self.joint = nn.Sequential(
            nn.LeakyReLU(SLOPE), nn.Linear(width, width), nn.LeakyReLU(SLOPE), nn.Linear(width, 1)
        )

    def forward(self, moving: Tensor, fixed: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, N) of T(M, F) and of T(M, F shuffled) for N voxels with C channels each, C = 1 for images.

        moving, fixed : (B, N, C)
        order : permutation (N,) that shuffles F. F's features are shuffled instead of its voxels: for a 1x1x1 T that
            is the same at half the cost, and it is right for any T.
        """
        # a layer on concatenated maps is the sum of a layer on each; each entrance ends in its half of that layer
        m, f = self.entrance_moving(moving), self.entrance_fixed(fixed)
        return self.joint(m + f)[..., 0], self.joint(m + f[:, order])[..., 0]


def _checked_passes(passes: int, network: str) -> int:
    """``passes``; raises ValueError for less than one."""
    if passes < 1:
        raise ValueError(f"{network}.passes must be at least 1, got {passes}")
    return passes


class Convolution(nn.Conv3d):
    """nn.Conv3d that uses oneDNN on the CPU for single volumes too.

    For those torch itself chooses a kernel that takes several times as long.
    """

    def forward(self, maps: Tensor) -> Tensor:
        if (
            maps.device.type == "cpu"
            and maps.dtype == torch.float32
            and torch.backends.mkldnn.is_available()
            and not torch.is_autocast_enabled("cpu")
        ):
            return torch.mkldnn_convolution(
                maps, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
            )
        return super().forward(maps)


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3x3 convolution, instance normalisation (section 2.4 of the paper), leaky ReLU."""
    return nn.Sequential(
        Convolution(inputs, outputs, 3, stride=stride, padding=1),
        nn.InstanceNorm3d(outputs, affine=True),
        nn.LeakyReLU(SLOPE),
    )


def local_contrast(image: Tensor) -> Tensor:
    """Local contrast normalisation of images (B, C, D, H, W) (Jarrett et al., ICCV 2009).

    (I - G1 I) / sqrt(G2 (I - G1 I)^2), where G1 and G2 convolve with Gaussians of 1 and 2 voxels. In CT scaled to
    [0, 1] the vessels of the lung differ from their surroundings by a few hundredths, the chest wall by nearly one;
    after this both differ by about one, so that a network sees the vessels from the start.
    """
    detail = image - smooth(image, 1.0)
    return detail / (smooth(detail.square(), 2.0) + 1e-4).sqrt()  # 1e-4: noise of 15 HU is not blown up


class AffineNet(nn.Module):
    """The spatial transformer of section 2.2: concat(F, M) -> convolutions -> global pooling -> parameters phi_A.

    channels : width of each stride-2 convolution
    largest_size : longer axes are averaged down to this before the first convolution; an affine map needs no more
    passes : how often `predict` asks the network; 1 is the paper's one shot, see `DeformNet`
    pooling : ``average`` takes the mean of each feature map, as in the paper; ``moments`` also the means of feature
        times coordinate (first moments); ``adaptive`` the means over 4 x 4 x 4 boxes. In the study's ablation the first
        two are not told apart (landmark error 2.32 and 2.24 mm, p = 0.30: results/ablation.csv); the last diverges
    last_norm : instance normalisation in the last block
    coordinates : the voxels' coordinates are further input channels

    Fully convolutional up to the pooling, so any image size works. Raises ValueError for an unknown pooling.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 96),
        largest_size: int = 96,
        passes: int = 1,
        pooling: str = "moments",
        last_norm: bool = True,
        coordinates: bool = False,
    ):
        super().__init__()
        if pooling not in POOLED:
            raise ValueError(f"unknown affinenet.pooling {pooling!r}; choose from {', '.join(POOLED)}")
        self.largest_size, self.passes = largest_size, _checked_passes(passes, "affinenet")
        self.pooling, self.coordinates = pooling, coordinates
        widths = [2 + 3 * coordinates, *channels]
        self.features = nn.Sequential(*(convolution(a, b, stride=2) for a, b in pairwise(widths)))
        if not last_norm:
            self.features[-1][1] = nn.Identity()
        self.parameters_head = nn.Linear(POOLED[pooling] * channels[-1], 12)
        nn.init.zeros_(self.parameters_head.weight)  # starts at the identity
        nn.init.zeros_(self.parameters_head.bias)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """theta (B, 3, 4) in `affine_grid` coordinates of the grid of the images (B, 1, D, H, W)."""
        maps, size = self.averaged_down(torch.cat([fixed, moving], dim=1)), fixed.shape[2:]
        if self.coordinates:
            axes = torch.meshgrid(*(_coordinate(n, maps) for n in maps.shape[2:]), indexing="ij")
            maps = torch.cat([maps, torch.stack(axes).expand(len(maps), -1, -1, -1, -1)], dim=1)
        maps = self.features(maps)
        phi = self.parameters_head(self._pool(maps))
        # 0.1: with Adam a step changes phi by about the learning rate, and 0.1 x 1e-3 of the half width is a fine step
        # the sum in the weights' own precision: under bf16-mixed phi has three digits, of which 1 + phi would lose two
        identity = torch.eye(3, 4, dtype=self.parameters_head.weight.dtype, device=phi.device)
        return self._to_full_grid(identity + 0.1 * phi.view(-1, 3, 4), size)

    def averaged_size(self, size: Sequence[int]) -> list[int]:
        """The size that `averaged_down` gives to volumes of ``size`` (D, H, W)."""
        return [min(n, self.largest_size) for n in size]

    def averaged_down(self, volumes: Tensor) -> Tensor:
        """Volumes (B, C, D, H, W), averaged so that no axis is longer than ``largest_size``."""
        size = self.averaged_size(volumes.shape[2:])
        return volumes if size == list(volumes.shape[2:]) else F.interpolate(volumes, size=size, mode="area")

    def _to_full_grid(self, theta: Tensor, size: Sequence[int]) -> Tensor:
        """The map theta (B, 3, 4) on the averaged grid as the same map in coordinates of the grid of ``size``.

        On either grid -1 and 1 are the centres of the outermost voxels. Along an axis of n voxels that are averaged to
        m, these lie (n - 1) / 2 voxels from the middle on the full grid; on the averaged one, whose voxels are n / m
        as wide, (m - 1) / 2 * n / m. With s the ratio of the second to the first, the coordinate x' on the averaged
        grid is s x' on the full one, and x' -> A x' + b becomes x -> S A S^-1 x + S b, where S = diag(s).
        """
        axes = zip(reversed(size), reversed(self.averaged_size(size)), strict=True)  # theta has the order x, y, z
        s = theta.new_tensor([(m - 1) * n / (m * (n - 1)) if m < n else 1.0 for n, m in axes])[:, None]
        return s * theta / torch.cat([s.T, theta.new_ones(1, 1)], dim=1)

    def predict(self, fixed: Tensor, moving: Tensor, passes: int | None = None) -> Tensor:
        """phi_A (B, 3, 4) for images (B, 1, D, H, W) after ``passes``; None: the network's own number.

        Every pass sees the moving image through all maps so far. Gradients flow through the last pass alone. The images
        are averaged once, before the first pass.
        """
        size, theta = fixed.shape[2:], None
        fixed, moving = self.averaged_down(fixed), self.averaged_down(moving)
        for remaining in reversed(range(passes or self.passes)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and remaining == 0):
                if theta is None:
                    theta = self(fixed, moving)
                else:
                    theta = compose_affine(theta, self(fixed, resample(moving, theta)))
        return self._to_full_grid(theta, size)

    def _pool(self, maps: Tensor) -> Tensor:
        """Feature maps (B, C, d, h, w) pooled to (B, C * POOLED[pooling])."""
        if self.pooling == "adaptive":
            return F.adaptive_avg_pool3d(maps, 4).flatten(1)
        pooled = [maps.mean(dim=(2, 3, 4))]
        if self.pooling == "moments":
            for axis in (2, 3, 4):
                profile = maps.mean(dim=[other for other in (2, 3, 4) if other != axis])
                pooled.append((profile * _coordinate(maps.shape[axis], maps)).mean(dim=-1))
        return torch.cat(pooled, dim=1)


def _coordinate(n: int, like: Tensor) -> Tensor:
    """From -1 to 1 along an axis of ``n`` voxels; 0 for a single one."""
    return torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) if n > 1 else like.new_zeros(1)


class DeformNet(nn.Module):
    """The U-net variant of section 2.2: F and M(phi_A) -> encoder and decoder with skips -> displacement field phi_D.

    channels : width at each level, finest first; each level has half the resolution of the one before
    first_stride : 2 predicts the field at half resolution (to be upsampled linearly), 1 at full resolution
    passes : how often `predict` asks the network; 1 is the paper's one shot. Each further pass sees the image moved by
        the field so far and answers with what remains, as in the recursive cascades of Zhao et al. (ICCV 2019), but
        with the same weights
    smoothing : sigma of the Gaussian that smooths the predicted field, in its voxels; 0 is the paper. Breathing is
        smooth on a scale that differences between neighbours (TV) do not see; demons and SyN smooth their fields too
    local_contrast : the `local_contrast` of both images is a further input; not in the paper
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 64),
        first_stride: int = 2,
        passes: int = 1,
        smoothing: float = 0.0,
        local_contrast: bool = False,
    ):
        super().__init__()
        self.passes = _checked_passes(passes, "deformnet")
        self.smoothing, self.local_contrast = smoothing, local_contrast
        widths = [4 if local_contrast else 2, *channels]
        self.encoder = nn.ModuleList(
            convolution(a, b, stride=first_stride if level == 0 else 2) for level, (a, b) in enumerate(pairwise(widths))
        )
        self.decoder = nn.ModuleList(
            convolution(below + skip, skip)
            for skip, below in zip(reversed(channels[:-1]), reversed(channels[1:]), strict=True)
        )
        self.bottom = convolution(channels[-1], channels[-1])
        self.field = nn.Conv3d(channels[0], 3, 1)
        nn.init.normal_(self.field.weight, std=1e-5)  # starts at the identity, but not with a zero gradient below
        nn.init.zeros_(self.field.bias)

    def forward(self, fixed: Tensor, moved: Tensor) -> Tensor:
        """DVF (B, 3, d, h, w) in voxels of the images' grid; d = ceil(D / first_stride) and so on.

        fixed, moved : (B, 1, D, H, W) of any size; moved is M(phi_A)
        """
        return self._field(self._seen(fixed), self._seen(moved))

    def _seen(self, image: Tensor) -> Tensor:
        """The input channels (B, C, D, H, W) that come from one image."""
        return torch.cat([image, local_contrast(image)], dim=1) if self.local_contrast else image

    def _field(self, fixed: Tensor, moved: Tensor) -> Tensor:
        """The DVF for images as `_seen` gives them."""
        maps, skips = torch.cat([fixed, moved], dim=1), []
        for block in self.encoder:
            maps = block(maps)
            skips.append(maps)
        maps = self.bottom(skips.pop())
        for block in self.decoder:
            skip = skips.pop()
            maps = F.interpolate(maps, size=skip.shape[2:], mode="trilinear", align_corners=True)
            maps = block(torch.cat([maps, skip], dim=1))
        return smooth(self.field(maps), self.smoothing)

    def predict(self, fixed: Tensor, moving: Tensor, theta: Tensor, passes: int | None = None) -> Tensor:
        """phi_D as one DVF (B, 3, d, h, w) in voxels after ``passes``; None: the network's own number.

        fixed, moving : (B, 1, D, H, W); moving is not registered
        theta : phi_A (B, 3, 4)

        Every pass samples the moving image itself, through phi_A and all fields so far. Gradients flow through the last
        pass alone: several passes cost no more to train than one, and each learns from what the passes before leave.
        """
        size, dvf, seen = fixed.shape[2:], None, self._seen(fixed)
        for remaining in reversed(range(passes or self.passes)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and remaining == 0):
                step = self._field(seen, self._seen(resample(moving, theta, dvf)))
                dvf = step if dvf is None else compose_dvf(dvf, step, size)
        return dvf
