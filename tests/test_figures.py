"""Figures: orientation of slices, what Figure 1 finds in the networks, every figure with parts missing."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb

from mine_reg.evaluation.metrics import METRICS
from mine_reg.figures.figure1 import figure1
from mine_reg.figures.network_drawings import POOLING, trace
from mine_reg.figures.plots import BLUE, ORANGE, View, save, show_pair, views_of
from mine_reg.figures.registration_figures import draw_dvf, figure2, figure3, mask_difference
from mine_reg.figures.results import boxplots, training_curves
from mine_reg.models import POOLED, AffineNet, DeformNet, StatisticNet
from mine_reg.storage.tables import read_curve

SIZE = (20, 26, 33)  # odd and even, no cube
HEAD, FRONT, RIGHT = 17, 4, 6  # a voxel near the head, the chest and the patient's right, on LPS axes


@pytest.fixture(autouse=True)
def no_window():
    with plt.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


@pytest.fixture
def images() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(1, *SIZE, generator=generator) for name in ("fixed", "moving", "affine", "moved")}


@pytest.fixture
def masks(images) -> dict[str, torch.Tensor]:
    return {name: (image > 0.5).float() for name, image in images.items()}


@pytest.fixture
def views() -> list[View]:
    return [View("coronal", 12, (2.0, 1.0, 1.0)), View("axial", 9, (2.0, 1.0, 1.0))]


def screen_position(view: View, volume: torch.Tensor) -> tuple[float, float]:
    """Where the brightest voxel is seen, as fractions of the axis from left and from below."""
    _, axis = plt.subplots()
    shown = view.draw(axis, view.cut(volume)).get_array()
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    x, y = view.coordinates(shown.shape)
    return tuple(axis.transAxes.inverted().transform(axis.transData.transform((x[column], y[row]))))


@pytest.mark.parametrize(
    ("plane", "index", "expected"),
    [
        ("coronal", FRONT, (RIGHT / 33, HEAD / 20)),  # head up, the patient's right on the left
        ("axial", HEAD, (RIGHT / 33, 1 - FRONT / 26)),  # chest up, the patient's right on the left
        ("sagittal", RIGHT, (FRONT / 26, HEAD / 20)),  # head up, chest on the left
    ],
)
def test_patients_are_seen_as_radiologists_see_them(plane, index, expected):
    volume = torch.zeros(SIZE)
    volume[HEAD, FRONT, RIGHT] = 1
    assert screen_position(View(plane, index, (2.5, 1.0, 0.7)), volume) == pytest.approx(expected, abs=0.04)


def test_millimetres_have_one_length_along_both_axes(views):
    figure, axis = plt.subplots()
    view = views[0]
    view.draw(axis, view.cut(torch.zeros(SIZE)))
    figure.canvas.draw()
    box = axis.get_window_extent()
    assert box.height / box.width == pytest.approx(20 * 2.0 / 33, rel=0.01) and view.aspect((20, 33)) == pytest.approx(
        20 * 2.0 / 33
    )


def test_views_go_through_the_mask_and_show_the_body():
    fixed, mask = torch.zeros(1, 40, 40, 40), torch.zeros(1, 40, 40, 40)
    fixed[:, 5:35, 10:30, 4:36] = 1
    mask[:, 20:25, 12:19, 8:30] = 1
    coronal, axial = views_of(("coronal", "axial"), [fixed], (1, 1, 1), mask)
    assert (coronal.index, axial.index) == (15, 22)
    assert coronal.crop == ((4, 35), (9, 30), (3, 36))
    assert views_of(("axial",), [torch.zeros_like(fixed)], (1, 1, 1))[0].crop == ((0, 39),) * 3


def test_mask_difference_tells_which_mask_holds_a_voxel():
    colours = mask_difference(np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]]))
    assert np.allclose(colours[0, 1:], [to_rgb(BLUE), to_rgb(ORANGE), (1, 1, 1)])


def test_dvf_grid_lies_at_x_plus_u(views):
    dvf = torch.zeros(3, *SIZE)
    dvf[0], dvf[2] = 1.5, -2  # voxels up and to the patient's right; 3 mm and 2 mm
    _, axis = plt.subplots()
    shown = draw_dvf(axis, views[0], dvf, largest_mm=5)
    corner = np.concatenate([line.get_xydata() for line in axis.lines]).min(axis=0)
    assert corner == pytest.approx([-2, 3])
    assert np.allclose(shown.get_array(), np.hypot(3, 2))


def test_trace_reads_widths_and_resolutions_from_the_networks(images):
    fixed, moving = images["fixed"][None], images["moving"][None]
    layers = trace(DeformNet((4, 6, 8), first_stride=1), fixed, moving)
    assert [layer.channels for layer in layers] == [4, 6, 8, 8, 6, 4, 3]
    assert [layer.size for layer in layers[:3]] == [SIZE, (10, 13, 17), (5, 7, 9)] and layers[-1].size == SIZE
    layers = trace(AffineNet((4, 8)), fixed, moving)
    assert [(layer.inputs, layer.channels) for layer in layers] == [(2, 4), (4, 8), (32, 12)]


def written(axes) -> set[str]:
    return {text.get_text() for text in axes.texts}


WEIGHTS = {"lambda": 1.0, "lambda_dice": 0.5, "mu": 0.01}


@pytest.mark.parametrize("first_stride", [1, 2])
@pytest.mark.parametrize("channels", [(5, 7), (5, 7, 9, 11, 13)])
def test_figure1_shows_the_networks_it_is_given(images, masks, views, channels, first_stride):
    networks = AffineNet((6, 10, 14)), DeformNet(channels, first_stride), StatisticNet(17, inputs=2)
    figure = figure1(*networks, images, torch.randn(3, *SIZE), masks, views[0], WEIGHTS)
    assert {
        "6",
        "10",
        "14",
        "56",
        "12",
        "17",
        *map(str, channels),
        "20×26×33",
        r"$\mu = 0.01$",
        r"$\lambda_2 = 0.5$",
    } <= written(figure.axes[0])


@pytest.mark.parametrize(
    ("pooling", "pooled", "label"),
    [
        ("moments", 24, "means of map and of map × coordinate"),
        ("average", 6, "mean of map"),
        ("adaptive", 384, "means of map over 4 × 4 × 4 boxes"),
    ],
)
def test_figure1_says_how_affinenet_pools(images, views, pooling, pooled, label):
    networks = AffineNet((4, 6), pooling=pooling), DeformNet((4, 4)), StatisticNet(4)
    text = written(figure1(*networks, images, torch.zeros(3, *SIZE), None, views[0], WEIGHTS).axes[0])
    assert {each for each in text if each.startswith("pooled:")} == {f"pooled: {label}"}
    assert str(pooled) in text
    assert list(POOLING) == list(POOLED)


@pytest.mark.parametrize(
    ("passes", "how"), [((1, 1), "in one shot"), ((2, 3), "in 2 + 3 passes, each on the image moved so far")]
)
def test_figure1_says_how_often_the_networks_are_asked(images, views, passes, how):
    networks = AffineNet((4, 6), passes=passes[0]), DeformNet((4, 4), passes=passes[1]), StatisticNet(4)
    text = written(figure1(*networks, images, torch.zeros(3, *SIZE), None, views[0], WEIGHTS).axes[0])
    assert f"Registration {how} (W: warp, linear resampling)" in text


@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_figure1_says_whether_the_field_is_smoothed(images, views, sigma):
    networks = AffineNet((4, 6)), DeformNet((4, 4), smoothing=sigma), StatisticNet(4)
    text = written(figure1(*networks, images, torch.zeros(3, *SIZE), None, views[0], WEIGHTS).axes[0])
    assert ("field smoothed,\n$\\sigma = 1.5$ voxel" in text) == bool(sigma)


def test_figures_without_masks_and_with_a_method_missing(images, masks, views, tmp_path):
    networks = AffineNet((4, 4)), DeformNet((4, 4)), StatisticNet(4)
    figure1(*networks, images, torch.zeros(3, *SIZE), None, views[0], WEIGHTS)
    complete = figure2(images, torch.zeros(3, *SIZE), masks, views, (0, 1), 1)
    without = figure2(images, torch.zeros(3, *SIZE), None, views, (0, 1), 1)
    assert len(complete.axes) - len(without.axes) == len(views)
    three = figure3(
        images["fixed"], {"none": images["moving"], "miregnet": images["moved"]}, views, 1, {"none": "DSC 0.9"}
    )
    save(three, tmp_path, "figure3", 50)
    again = tmp_path / "again"
    again.mkdir()
    save(three, again, "figure3", 50)
    for name in ("figure3.png", "figure3.pdf"):
        assert (tmp_path / name).read_bytes() == (again / name).read_bytes()


def test_show_pair_has_a_row_per_image(images, masks):
    figure = show_pair(images["fixed"], {"moving": images["moving"], "moved": images["moved"]}, masks)
    assert len(figure.axes) == 6


def test_boxplots_of_known_and_unknown_methods_with_gaps():
    rng = np.random.default_rng(0)
    rows = [
        {"pair_id": f"p{i}", "method": m, **dict(zip(METRICS, rng.random(len(METRICS)), strict=True))}
        for i in range(5)
        for m in ("none", "inter_observer", "ants", "miregnet", "midiceregnet", "another")
    ]
    metrics = pd.DataFrame(rows)
    metrics.loc[metrics["method"] == "inter_observer", ["tre_mm", "folding_percent", "sd_log_jacobian"]] = np.nan
    metrics = metrics.drop(index=2)  # ANTs failed for the first pair
    figure = boxplots(metrics)
    legend = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert legend == ["None", "Inter Observer", "ANTs", "MIRegNet", "MIDiceRegNet", "another"]
    assert len(figure.axes[list(METRICS).index("tre_mm")].patches) == 5


@pytest.fixture
def curves(tmp_path):
    """As DVCLive writes them."""
    for name, values in {"train/mine": [0.1, 0.2], "val/dsc": [0.8, 0.9], "val/tre_mm": [5, 4]}.items():
        path = tmp_path / "plots/metrics" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"step": [10, 20], path.stem: values}).to_csv(path, sep="\t", index=False)
    return tmp_path


def test_learning_curves(curves):
    assert read_curve(curves, "val_tre_mm")["value"].tolist() == [5, 4] and read_curve(curves, "train_tv") is None
    figure = training_curves({("affinenet", "miregnet"): curves, ("deformnet", "midiceregnet"): curves})
    assert [len(axis.lines) for axis in figure.axes] == [1, 1, 1, 0] * 2
