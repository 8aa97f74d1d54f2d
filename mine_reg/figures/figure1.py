"""Figure 1 of the paper, drawn from the networks themselves: widths, levels and resolutions are what they compute with.

The page is laid out in mm, origin at the lower left.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from mine_reg.figures.diagram import (
    GREY,
    INK,
    SMALL,
    arrow,
    bar,
    bar_width,
    box,
    channels_label,
    group,
    heading,
    node,
    relative_height,
    resolution_label,
    size_text,
    thumbnail,
)
from mine_reg.figures.plots import BLUE, GREEN, MM, ORANGE, RED, STYLE, View
from mine_reg.models import AffineNet, DeformNet, StatisticNet

WIDTH, HEIGHT = 180, 122  # mm
F, M, MOVED, AFFINE = r"$\mathcal{F}$", r"$\mathcal{M}$", r"$\mathcal{M}(\phi)$", r"$\mathcal{M}(\phi_A)$"
FINAL = r"$\mathcal{M}(\phi_A, \phi_D)$"


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


@plt.rc_context(STYLE)
def figure1(
    affinenet: AffineNet,
    deformnet: DeformNet,
    statistic: StatisticNet,
    images: dict[str, Tensor],
    dvf: Tensor,
    masks: dict[str, Tensor] | None,
    view: View,
    weights: dict[str, float],
) -> Figure:
    """Figure 1: A, registration by AffineNet and DeformNet; B, the loss that trains them, with T in its middle.

    affinenet, deformnet, statistic : the networks; hooks read their layers while they run on the images
    images : ``fixed``, ``moving``, ``affine`` (M(phi_A)), ``moved`` (M(phi_A, phi_D)), each
        (1, D, H, W), 0 for air to 1
    dvf : (3, D, H, W) of DeformNet, voxels
    masks : ``fixed`` and ``moved`` (1, D, H, W); None draws the Dice term without a picture
    view : the slice shown
    weights : ``lambda``, ``lambda_dice``, ``mu`` of eq. 5 and 7
    """
    figure = plt.figure(figsize=(WIDTH * MM, HEIGHT * MM))
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    page.axis("off")
    _registration(page, affinenet, deformnet, images, dvf, view)
    _training(page, statistic, images, dvf, masks, view, weights)
    return figure


def _registration(
    page: Axes, affinenet: AffineNet, deformnet: DeformNet, images: dict[str, Tensor], dvf: Tensor, view: View
) -> None:
    passes = affinenet.passes, deformnet.passes
    how = "in one shot" if max(passes) == 1 else "in {} + {} passes, each on the image moved so far".format(*passes)
    heading(page, "A", f"Registration {how} (W: warp, linear resampling)", 119)
    fixed, moving, affine = (images[name][None] for name in ("fixed", "moving", "affine"))
    full = tuple(fixed.shape[2:])
    thumbnail(page, view, images["fixed"], 3, 94, 17, f"fixed {F}", above=True)
    thumbnail(page, view, images["moving"], 3, 70, 17, f"moving {M}")

    group(page, 27, 69, 46, 40, "AffineNet", BLUE)
    last = _affinenet(page, trace(affinenet, fixed, moving), full, affinenet.largest_size, 27, 69, 46, 40)
    arrow(page, (20, 98), (27, 98))
    arrow(page, (20, 78.5), (27, 78.5))
    arrow(page, (23.5, 98), (23.5, 113.3), (108, 113.3), (108, 100), (113, 100), start=True)

    box(page, 78.5, last[1] - 3.5, 10, 7, r"$\phi_A$", BLUE)
    arrow(page, last, (78.5, last[1]))
    arrow(page, (83.5, last[1] - 3.5), (83.5, 67.5))
    arrow(page, (23.5, 78.5), (23.5, 65.5), (81.5, 65.5), start=True)
    node(page, 83.5, 65.5, "W")
    arrow(page, (85.5, 65.5), (89, 65.5))
    thumbnail(page, view, images["affine"], 89, 57, 17, AFFINE, above=True)
    arrow(page, (106, 71), (113, 71))

    group(page, 113, 64, 40, 45, "DeformNet", GREEN)
    last = _deformnet(page, trace(deformnet, fixed, affine), full, 113, 64, 40, 45)
    arrow(page, last, (160, last[1]))
    length = dvf.norm(dim=0, keepdim=True)
    thumbnail(
        page, view, length / length.max().clamp_min(1e-6), 160, 90, 17, r"DVF $\phi_D$", above=True, cmap="viridis"
    )
    arrow(page, (168.5, 90), (168.5, 83.7))
    node(page, 168.5, 81.7, "W")
    arrow(page, (168.5, 79.7), (168.5, 76))
    thumbnail(page, view, images["moved"], 160, 59, 17, f"moved {FINAL}")
    arrow(page, (83.5, 63.5), (83.5, 53.8), (156.5, 53.8), (156.5, 81.7), (166.5, 81.7))
    page.text(
        131,
        54.5,
        rf"{M} and $\phi_A$: {M} is sampled once, at $A(x + u(x))$",
        ha="center",
        va="bottom",
        fontsize=5.5,
        color=GREY,
    )


def _affinenet(
    page: Axes, layers: list[Layer], full: tuple, largest: int, x: float, y: float, width: float, height: float
) -> tuple[float, float]:
    """Feature maps of falling resolution, pooled features, parameters; returns the right edge of the last."""
    convolutions = [layer for layer in layers if layer.size]
    working = tuple(min(n, largest) for n in full)
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
    page.text(
        x + width / 2,
        y + 1.2,
        "pooled: means of map and of map × coordinate",
        fontsize=SMALL,
        ha="center",
        va="bottom",
        color=GREY,
    )
    return edge, middle


def _deformnet(
    page: Axes, layers: list[Layer], full: tuple, x: float, y: float, width: float, height: float
) -> tuple[float, float]:
    """The U: a row per resolution, a column per layer in order of execution, dashes for skips; returns its end."""
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
        cx, cy, w, h = (
            x + 2.5 + step * i,
            rows[size],
            min(bar_width(channels), 0.62 * step),
            tall * relative_height(size, full),
        )
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
    return bars[-1][0] + bars[-1][2] / 2, bars[-1][1]


def _training(
    page: Axes,
    statistic: StatisticNet,
    images: dict[str, Tensor],
    dvf: Tensor,
    masks: dict[str, Tensor] | None,
    view: View,
    weights: dict[str, float],
) -> None:
    heading(
        page,
        "B",
        r"Training, one network after the other: $\phi = \phi_A$ for AffineNet, $\phi = (\phi_A, \phi_D)$ for DeformNet"
        " (C: concatenation)",
        49.5,
    )
    shuffled = images["fixed"].flatten()[
        torch.randperm(images["fixed"].numel(), generator=torch.Generator().manual_seed(0))
    ]
    rows = {"fixed": 36.5, "moved": 22.5, "shuffled": 8.5}
    pictures = images | {"shuffled": shuffled.view_as(images["fixed"])}
    for (name, y), label in zip(rows.items(), (F, MOVED, r"$\tilde{\mathcal{F}}$"), strict=True):
        thumbnail(page, view, pictures[name], 15, y - 5.5, 11, "")
        page.text(14, y, label, ha="right", va="center")
    arrow(page, (15, rows["fixed"] - 3), (4, rows["fixed"] - 3), (4, rows["shuffled"] - 3), (15, rows["shuffled"] - 3))
    page.text(
        2.4, rows["moved"] - 3, "voxels shuffled", rotation=90, ha="center", va="center", fontsize=SMALL, color=GREY
    )
    _statistic(page, statistic, rows)
    _losses(page, images, dvf, masks, view, weights)


def _statistic(page: Axes, statistic: StatisticNet, rows: dict[str, float]) -> None:
    """T: an entrance per image, concatenated feature maps, a score per voxel; for joint and shuffled pairs."""
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
        arrow(
            page,
            (26, y),
            _stack(page, 35, y, [entrance[0].inputs, *(layer.channels for layer in entrance)], 54),
            small=True,
        )
    upper, lower = (rows["fixed"] + rows["moved"]) / 2, (rows["moved"] + rows["shuffled"]) / 2
    for y, source in ((upper, "fixed"), (lower, "shuffled")):
        arrow(page, (54, rows[source]), (54, y + (2 if y == upper else -2)))
        arrow(page, (54, rows["moved"]), (54, y + (-2 if y == upper else 2)))
        node(page, 54, y, "C")
        arrow(page, (56, y), _stack(page, 63, y, [layer.channels for layer in head], 79), small=True)
    page.text(66, (upper + lower) / 2, "shared weights", fontsize=SMALL, ha="center", va="center", color=GREY)

    for y, source, mean in (
        (upper, F, r"$\mathbb{E}[T]$"),
        (lower, r"$\tilde{\mathcal{F}}$", r"$\log\,\mathbb{E}[e^{T}]$"),
    ):
        page.text(87.5, y + 1, f"$T(${MOVED}$, ${source}$)$", ha="center", va="bottom", fontsize=5.5)
        arrow(page, (79, y), (96, y))
        box(page, 96, y - 3.2, 15, 6.4, mean, ORANGE)
    middle = rows["moved"]
    arrow(page, (103.5, upper - 3.2), (103.5, middle + 2))
    arrow(page, (103.5, lower + 3.2), (103.5, middle - 2))
    node(page, 103.5, middle, "−")
    page.text(113.5, middle + 1, r"$I(\mathcal{M}(\phi);\mathcal{F})$", ha="center", va="bottom", fontsize=5.5)
    arrow(page, (105.5, middle), (136, middle))


def _losses(
    page: Axes,
    images: dict[str, Tensor],
    dvf: Tensor,
    masks: dict[str, Tensor] | None,
    view: View,
    weights: dict[str, float],
) -> None:
    top, middle, bottom = 36.5, 22.5, 8.5
    if masks is not None:
        thumbnail(page, view, images["fixed"], 119, top - 5.5, 11, "", masks=masks)
        page.text(118, top, "masks\n" + r"$\mathbf{f}$, $\mathbf{m}(\phi)$", fontsize=5.5, ha="right", va="center")
        arrow(page, (130, top), (136, top), dashed=True)
    length = dvf.norm(dim=0, keepdim=True)
    thumbnail(page, view, length / length.max().clamp_min(1e-6), 119, bottom - 5.5, 11, "", cmap="viridis")
    page.text(118, bottom, r"$\phi_D$", ha="right", va="center")
    arrow(page, (130, bottom), (136, bottom))
    box(page, 136, top - 3.2, 16, 6.4, r"$L_{Dice}$", RED, dashed=True)
    box(page, 136, middle - 3.2, 16, 6.4, r"$L_{MINE} = -I$", ORANGE)
    box(page, 136, bottom - 3.2, 16, 6.4, r"$L_{TV} = \|\nabla\phi_D\|^2$", GREEN)
    arrow(page, (152, top), (161, top), (161, middle + 2), dashed=True)
    arrow(page, (152, middle), (159, middle))
    arrow(page, (152, bottom), (161, bottom), (161, middle - 2))
    node(page, 161, middle, "+")
    for x, y, name, key in (
        (156.8, top, r"\lambda_2", "lambda_dice"),
        (155.5, middle, r"\lambda", "lambda"),
        (156.8, bottom, r"\mu", "mu"),
    ):
        page.text(x, y + 0.7, f"${name} = {weights[key]:g}$", ha="center", va="bottom", fontsize=SMALL)
    arrow(page, (163, middle), (166, middle))
    box(page, 166, middle - 5, 12.5, 10, "loss\n(eq. 5, 7)", "0.5")
    page.text(144, top + 4, "MIDiceRegNet only", fontsize=SMALL, ha="center", va="bottom", color=RED)
    page.text(144, bottom - 4, "DeformNet only", fontsize=SMALL, ha="center", va="top", color=GREEN)


def _stack(page: Axes, x: float, y: float, channels: Sequence[int], end: float) -> tuple[float, float]:
    """Bars of feature maps of single voxels from x on, with a line up to ``end``; returns the first left edge."""
    step = 6.3
    page.plot([x, end], [y, y], color=INK, linewidth=0.6, zorder=1)
    for i, count in enumerate(channels):
        page.add_patch(
            Rectangle(
                (x + i * step - bar_width(count) / 2, y - 2.75), bar_width(count), 5.5, facecolor="white", linewidth=0
            )
        )
        bar(page, x + i * step, y, bar_width(count), 5.5, ORANGE)
        channels_label(page, x + i * step, y + 2.75, count)
    return x - bar_width(channels[0]) / 2, y
