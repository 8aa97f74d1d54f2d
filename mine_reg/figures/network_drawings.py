"""The three networks as rows of feature maps, drawn from what they compute: widths, levels, resolutions, pooling.

Every function draws on a page laid out in mm, see `diagram`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from mine_reg.figures.diagram import (
    GREY,
    INK,
    SMALL,
    arrow,
    bar,
    bar_width,
    channels_label,
    group,
    node,
    relative_height,
    resolution_label,
    size_text,
)
from mine_reg.figures.plots import BLUE, GREEN, ORANGE
from mine_reg.models import AffineNet, DeformNet, StatisticNet

POOLING = {  # of AffineNet, in words
    "moments": "pooled: means of map and of map × coordinate",
    "average": "pooled: mean of map",
    "adaptive": "pooled: means of map over 4 × 4 × 4 boxes",
}


class Layer(NamedTuple):
    """One convolution or linear layer as it ran: name in the network, channels in and out, output size (D, H, W)."""

    name: str
    inputs: int
    channels: int
    size: tuple[int, ...]


def trace(network: nn.Module, *inputs: Tensor) -> list[Layer]:
    """Convolutions and linear layers of ``network`` in the order in which they run on ``inputs``, found by hooks."""
    layers, hooks = [], []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv3d | nn.Linear):

            def note(module, arguments, output, name=name):
                convolution = isinstance(module, nn.Conv3d)
                channels, size = (output.shape[1], tuple(output.shape[2:])) if convolution else (output.shape[-1], ())
                layers.append(Layer(name, arguments[0].shape[1 if convolution else -1], channels, size))

            hooks.append(module.register_forward_hook(note))
    try:
        with torch.inference_mode():
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return layers


def draw_affinenet(
    page: Axes,
    network: AffineNet,
    fixed: Tensor,
    moving: Tensor,
    x: float,
    y: float,
    width: float,
    height: float,
) -> tuple[float, float]:
    """Draw feature maps of falling resolution, pooled features and parameters in a frame with lower left corner x, y.

    fixed, moving : images (1, 1, D, H, W) on which the network runs. Returns the middle of the last bar's right edge.
    """
    group(page, x, y, width, height, "AffineNet", BLUE)
    layers = trace(network, fixed, moving)
    convolutions = [layer for layer in layers if layer.size]
    working = tuple(network.averaged_size(fixed.shape[2:]))
    maps = [(layer.channels, layer.size) for layer in convolutions]
    maps.insert(0, (convolutions[0].inputs, working))
    dense = [layer.inputs for layer in layers if not layer.size] + [layers[-1].channels]
    step, middle = (width - 7) / (len(maps) + len(dense) - 0.2), y + height / 2
    centres = [x + 3.5 + step * i for i in range(len(maps) + len(dense))]
    tall = (0.62 if len(set(working)) == 1 else 0.5) * height  # other sizes are written in three lines
    channels_label(page, centres[0], middle + tall / 2, maps[0][0])
    edge = None
    for centre, (channels, size) in zip(centres, maps, strict=False):
        h, w = tall * relative_height(size, working), min(bar_width(channels), 0.8 * step)
        bar(page, centre, middle, w, h, BLUE)
        if edge is not None:
            arrow(page, (edge, middle), (centre - w / 2, middle), small=True)
            channels_label(page, centre, middle + h / 2, channels)
        resolution_label(page, centre, middle - h / 2, size)
        edge = centre + w / 2
    for centre, count, name in zip(centres[len(maps) :], dense, ("pooled", r"$\phi_A$"), strict=True):
        h = 0.42 * tall if name == "pooled" else 0.2 * tall
        bar(page, centre, middle, 1.4, h, BLUE, alpha=0.9)
        arrow(page, (edge, middle), (centre - 0.7, middle), small=True)
        channels_label(page, centre, middle + h / 2, count)
        page.text(centre, middle - h / 2 - 0.8, name, fontsize=SMALL, ha="center", va="top", color=GREY)
        edge = centre + 0.7
    pooling = POOLING[network.pooling]
    page.text(x + width / 2, y + 1.2, pooling, fontsize=SMALL, ha="center", va="bottom", color=GREY)
    return edge, middle


def draw_deformnet(
    page: Axes,
    network: DeformNet,
    fixed: Tensor,
    moved: Tensor,
    x: float,
    y: float,
    width: float,
    height: float,
) -> tuple[float, float]:
    """Draw the U in a frame with lower left corner x, y: a row per resolution, a column per layer, dashes for skips.

    fixed, moved : images (1, 1, D, H, W) on which the network runs; layers stand in the order in which they do. Returns
        the middle of the last bar's right edge.
    """
    group(page, x, y, width, height, "DeformNet", GREEN)
    layers, full = trace(network, fixed, moved), tuple(fixed.shape[2:])
    maps = [(layers[0].inputs, full), *((layer.channels, layer.size) for layer in layers)]
    if maps[-1][1] != full:
        maps.append((layers[-1].channels, full))  # upsampled linearly
    sizes = sorted({size for _, size in maps}, reverse=True)
    scales = [relative_height(size, full) for size in sizes]
    gap = 3.1
    tall = (height - 7.5 - gap * len(sizes)) / sum(scales)
    rows, top = {}, y + height - 4.5
    for size, scale in zip(sizes, scales, strict=True):
        rows[size] = top - gap * 0.8 - tall * scale / 2
        top -= tall * scale + gap
    step = (width - 5) / (len(maps) - 1)
    bars = []
    for i, (channels, size) in enumerate(maps):
        cx, cy = x + 2.5 + step * i, rows[size]
        w, h = min(bar_width(channels), 0.62 * step), tall * relative_height(size, full)
        bar(page, cx, cy, w, h, GREEN)
        channels_label(page, cx, cy + h / 2, channels)
        bars.append((cx, cy, w, h))
    for (ax, ay, aw, ah), (bx, by, bw, bh) in pairwise(bars):
        if by < ay - 0.1:
            arrow(page, (ax, ay - ah / 2), (ax, by), (bx - bw / 2, by), small=True)
        elif by > ay + 0.1:
            arrow(page, (ax + aw / 2, ay), (bx, ay), (bx, by - bh / 2), small=True)
        else:
            arrow(page, (ax + aw / 2, ay), (bx - bw / 2, by), small=True)
    deepest = min(range(len(bars)), key=lambda i: bars[i][1])
    for size, cy in rows.items():
        at = [i for i, (_, s) in enumerate(maps) if s == size]
        before, after = [i for i in at if i <= deepest], [i for i in at if i > deepest]
        if 0 < before[-1] < deepest and after:
            (ax, _, aw, _), (bx, _, bw, _) = bars[before[-1]], bars[after[0]]
            arrow(page, (ax + aw / 2, cy), (bx - bw / 2, cy), small=True, colour=GREY, dashed=True)
        centre = (bars[before[-1]][0] + bars[after[0]][0]) / 2 if after else bars[deepest][0]
        low = cy - (0.4 if size != sizes[-1] else bars[deepest][3] / 2 + 0.5)  # below the dashes, or below the bars
        page.text(centre, low, size_text(size), fontsize=SMALL, ha="center", va="top", color=GREY)
    if network.smoothing:
        text = f"field smoothed,\n$\\sigma = {network.smoothing:g}$ voxel"
        page.text(x + width - 1.2, y + 1.2, text, fontsize=SMALL, ha="right", va="bottom", color=GREY)
    return bars[-1][0] + bars[-1][2] / 2, bars[-1][1]


def draw_statistic(page: Axes, statistic: StatisticNet, rows: dict[str, float]) -> tuple[float, float]:
    """Draw T: an entrance per image, concatenated feature maps, a score per voxel; for joint and shuffled pairs.

    rows : heights of the images ``fixed``, ``moved`` and ``shuffled``, whose right edges lie at 26 mm. Returns the
        heights of both scores, which leave at 79 mm.
    """
    voxels = torch.zeros(1, 8, statistic.inputs)
    layers = trace(statistic, voxels, voxels, torch.arange(8))
    part = {
        name: [layer for layer in layers if layer.name.startswith(name)]
        for name in ("entrance_moving", "entrance_fixed", "joint")
    }
    head = part["joint"][: len(part["joint"]) // 2]  # runs twice
    group(page, 30, 1.5, 49, 44, r"statistic network $T$, voxel by voxel", ORANGE)
    for name, y in rows.items():
        entrance = part["entrance_moving" if name == "moved" else "entrance_fixed"]
        channels = [entrance[0].inputs, *(layer.channels for layer in entrance)]
        arrow(page, (26, y), _stack(page, 35, y, channels, 54), small=True)
    upper, lower = (rows["fixed"] + rows["moved"]) / 2, (rows["moved"] + rows["shuffled"]) / 2
    for y, source in ((upper, "fixed"), (lower, "shuffled")):
        arrow(page, (54, rows[source]), (54, y + (2 if y == upper else -2)))
        arrow(page, (54, rows["moved"]), (54, y + (-2 if y == upper else 2)))
        node(page, 54, y, "C")
        arrow(page, (56, y), _stack(page, 63, y, [layer.channels for layer in head], 79), small=True)
    page.text(66, (upper + lower) / 2, "shared weights", fontsize=SMALL, ha="center", va="center", color=GREY)
    return upper, lower


def _stack(page: Axes, x: float, y: float, channels: Sequence[int], end: float) -> tuple[float, float]:
    """Draw feature maps of single voxels as bars from x on, with a line up to ``end``; returns the first left edge."""
    step = 6.3
    page.plot([x, end], [y, y], color=INK, linewidth=0.6, zorder=1)
    for i, count in enumerate(channels):
        left, width = x + i * step - bar_width(count) / 2, bar_width(count)
        page.add_patch(Rectangle((left, y - 2.75), width, 5.5, facecolor="white", linewidth=0))
        bar(page, x + i * step, y, width, 5.5, ORANGE)
        channels_label(page, x + i * step, y + 2.75, count)
    return x - bar_width(channels[0]) / 2, y
