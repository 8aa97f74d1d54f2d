"""Figure 1 of the paper, drawn from the networks themselves: registration, and the loss that trains them.

The page is laid out in mm, origin at the lower left.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mine_reg.figures.diagram import GREY, SMALL, arrow, box, heading, node, thumbnail
from mine_reg.figures.network_drawings import draw_affinenet, draw_deformnet, draw_statistic
from mine_reg.figures.plots import BLUE, GREEN, MM, ORANGE, RED, STYLE, View
from mine_reg.models import AffineNet, DeformNet, StatisticNet

WIDTH, HEIGHT = 180, 122  # mm
F, M, MOVED, AFFINE = r"$\mathcal{F}$", r"$\mathcal{M}$", r"$\mathcal{M}(\phi)$", r"$\mathcal{M}(\phi_A)$"
FINAL = r"$\mathcal{M}(\phi_A, \phi_D)$"


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

    affinenet, deformnet, statistic : the networks, whose layers are read while they run on the images
    images : ``fixed``, ``moving``, ``affine`` (M(phi_A)), ``moved`` (M(phi_A, phi_D)), each (1, D, H, W), 0 for air
        to 1
    dvf : (3, D, H, W) of DeformNet, voxels
    masks : ``fixed`` and ``moved`` (1, D, H, W); None draws the Dice term without a picture
    view : the slice shown
    weights : ``lambda``, ``lambda_dice``, ``mu`` of eq. 5 and 7
    """
    figure = plt.figure(figsize=(WIDTH * MM, HEIGHT * MM))
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    page.axis("off")
    length = dvf.norm(dim=0, keepdim=True)
    order = torch.randperm(images["fixed"].numel(), generator=torch.Generator().manual_seed(0))
    pictures = images | {
        "dvf": length / length.max().clamp_min(1e-6),
        "shuffled": images["fixed"].flatten()[order].view_as(images["fixed"]),
    }
    _registration(page, affinenet, deformnet, pictures, view)
    _training(page, statistic, pictures, masks, view, weights)
    return figure


def _registration(
    page: Axes, affinenet: AffineNet, deformnet: DeformNet, pictures: dict[str, Tensor], view: View
) -> None:
    """Panel A: both images through AffineNet, the moved image through DeformNet, the moving image through both maps."""
    passes = affinenet.passes, deformnet.passes
    how = "in one shot" if max(passes) == 1 else "in {} + {} passes, each on the image moved so far".format(*passes)
    heading(page, "A", f"Registration {how} (W: warp, linear resampling)", 119)
    fixed, moving, affine = (pictures[name][None] for name in ("fixed", "moving", "affine"))
    thumbnail(page, view, pictures["fixed"], 3, 94, 17, f"fixed {F}", above=True)
    thumbnail(page, view, pictures["moving"], 3, 70, 17, f"moving {M}")

    last = draw_affinenet(page, affinenet, fixed, moving, 27, 69, 46, 40)
    arrow(page, (20, 98), (27, 98))
    arrow(page, (20, 78.5), (27, 78.5))
    arrow(page, (23.5, 98), (23.5, 113.3), (108, 113.3), (108, 100), (113, 100), start=True)

    box(page, 78.5, last[1] - 3.5, 10, 7, r"$\phi_A$", BLUE)
    arrow(page, last, (78.5, last[1]))
    arrow(page, (83.5, last[1] - 3.5), (83.5, 67.5))
    arrow(page, (23.5, 78.5), (23.5, 65.5), (81.5, 65.5), start=True)
    node(page, 83.5, 65.5, "W")
    arrow(page, (85.5, 65.5), (89, 65.5))
    thumbnail(page, view, pictures["affine"], 89, 57, 17, AFFINE, above=True)
    arrow(page, (106, 71), (113, 71))

    last = draw_deformnet(page, deformnet, fixed, affine, 113, 64, 40, 45)
    arrow(page, last, (160, last[1]))
    thumbnail(page, view, pictures["dvf"], 160, 90, 17, r"DVF $\phi_D$", above=True, cmap="viridis")
    arrow(page, (168.5, 90), (168.5, 83.7))
    node(page, 168.5, 81.7, "W")
    arrow(page, (168.5, 79.7), (168.5, 76))
    thumbnail(page, view, pictures["moved"], 160, 59, 17, f"moved {FINAL}")
    arrow(page, (83.5, 63.5), (83.5, 53.8), (156.5, 53.8), (156.5, 81.7), (166.5, 81.7))
    once = rf"{M} and $\phi_A$: {M} is sampled once, at $A(x + u(x))$"
    page.text(131, 54.5, once, ha="center", va="bottom", fontsize=5.5, color=GREY)


def _training(
    page: Axes,
    statistic: StatisticNet,
    pictures: dict[str, Tensor],
    masks: dict[str, Tensor] | None,
    view: View,
    weights: dict[str, float],
) -> None:
    """Panel B: the fixed, moved and shuffled image through T to the estimate, and the terms of the loss."""
    which = r"$\phi = \phi_A$ for AffineNet, $\phi = (\phi_A, \phi_D)$ for DeformNet"
    heading(page, "B", f"Training, one network after the other: {which} (C: concatenation)", 49.5)
    rows = {"fixed": 36.5, "moved": 22.5, "shuffled": 8.5}
    for (name, y), label in zip(rows.items(), (F, MOVED, r"$\tilde{\mathcal{F}}$"), strict=True):
        thumbnail(page, view, pictures[name], 15, y - 5.5, 11, "")
        page.text(14, y, label, ha="right", va="center")
    arrow(page, (15, rows["fixed"] - 3), (4, rows["fixed"] - 3), (4, rows["shuffled"] - 3), (15, rows["shuffled"] - 3))
    page.text(
        2.4, rows["moved"] - 3, "voxels shuffled", rotation=90, ha="center", va="center", fontsize=SMALL, color=GREY
    )
    _estimate(page, draw_statistic(page, statistic, rows), rows["moved"])
    _losses(page, pictures, masks, view, rows.values(), weights)


def _estimate(page: Axes, heights: tuple[float, float], middle: float) -> None:
    """Eq. 4, from both scores of T at ``heights`` to their difference at ``middle``."""
    upper, lower = heights
    for y, source, mean in (
        (upper, F, r"$\mathbb{E}[T]$"),
        (lower, r"$\tilde{\mathcal{F}}$", r"$\log\,\mathbb{E}[e^{T}]$"),
    ):
        page.text(87.5, y + 1, f"$T(${MOVED}$, ${source}$)$", ha="center", va="bottom", fontsize=5.5)
        arrow(page, (79, y), (96, y))
        box(page, 96, y - 3.2, 15, 6.4, mean, ORANGE)
    arrow(page, (103.5, upper - 3.2), (103.5, middle + 2))
    arrow(page, (103.5, lower + 3.2), (103.5, middle - 2))
    node(page, 103.5, middle, "−")
    page.text(113.5, middle + 1, r"$I(\mathcal{M}(\phi);\mathcal{F})$", ha="center", va="bottom", fontsize=5.5)
    arrow(page, (105.5, middle), (136, middle))


def _losses(page: Axes, pictures: dict[str, Tensor], masks, view: View, rows, weights: dict[str, float]) -> None:
    """Eq. 5 and 7: the terms at the heights ``rows`` from the top, their weights, and their sum."""
    top, middle, bottom = rows
    if masks is not None:
        thumbnail(page, view, pictures["fixed"], 119, top - 5.5, 11, "", masks=masks)
        page.text(118, top, "masks\n" + r"$\mathbf{f}$, $\mathbf{m}(\phi)$", fontsize=5.5, ha="right", va="center")
        arrow(page, (130, top), (136, top), dashed=True)
    thumbnail(page, view, pictures["dvf"], 119, bottom - 5.5, 11, "", cmap="viridis")
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
