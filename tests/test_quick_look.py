"""What a quick look shows: colours and places on its page, the numbers of a report; and matplotlib stays as it is."""

import os
import re
import resource
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import SimpleITK as sitk
from lung_box import CENTRE, HALF_MM, IDENTITY, constant, field_of, lung_box, oblique
from PIL import Image

from mine_reg.images.geometry import averaged
from mine_reg.images.overlays import checkerboard, grey, red_cyan
from mine_reg.images.reading import read_image
from mine_reg.pair_tool.cropped_lungs import lungs_of_crop
from mine_reg.pair_tool.middle_slices import middle_slices
from mine_reg.pair_tool.quick_look import quick_look, volume_change
from mine_reg.pair_tool.working_grid import on_lungs_grid, working_grid


@pytest.fixture(scope="module")
def slices():
    ramp = oblique(lambda points: (points - CENTRE) @ (1.0, 2.0, 3.0))
    shift = sitk.TranslationTransform(3, (20.0, 0.0, 0.0))
    return middle_slices(ramp, ramp, lung_box(), shift, field_of(shift))


def test_colours_say_what_they_should():
    fixed, other = (grey(np.array([hu]), (-1000, 200)) for hu in ([-1000.0, 900.0, 900.0], [-1000.0, -2000.0, 900.0]))
    np.testing.assert_allclose(red_cyan(fixed, other), [[[0, 0, 0], [1, 0, 0], [1, 1, 1]]])
    np.testing.assert_allclose(grey(np.array([-1000.0, -700.0, 200.0]), (-1000, 200)), [0, 0.25, 1])
    board = checkerboard(np.zeros((20, 20)), np.ones((20, 20)), 10)
    assert not board[:10, :10].any() and not board[10:, 10:].any() and board[:10, 10:].all() and board[10:, :10].all()
    folded, none, tiny, half, same, twice, large = volume_change(np.array([[-0.5, 0.0, 0.01, 0.5, 1.0, 2.0, 9.0]]))[0]
    np.testing.assert_array_equal(folded, none)
    np.testing.assert_allclose(same, 1)
    np.testing.assert_allclose([tiny, large], [half, twice])
    assert half[2] > half[0] and twice[0] > twice[2] and folded[2] < 0.1 < 0.8 < folded[:2].min()


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Quick looks of a fixed image of air, one of tissue, and one of air with a ball of tissue in front of the right
    upper lobe."""
    ball = np.array(CENTRE) + (-HALF_MM[0] / 2, -HALF_MM[1] / 2, HALF_MM[2] / 2)
    values = {
        "air": constant(-1000),
        "tissue": constant(100),
        # as wide as the lungs are deep, so that every plane meets it
        "ball": lambda points: np.where(
            np.linalg.norm((points - ball) / (2.2, 1.2, 2.2), axis=-1) < 40, 100.0, -1000.0
        ),
    }
    found, field = {}, field_of(IDENTITY)
    images = {name: oblique(value, (0.1, 0.2, 0.3)) for name, value in values.items()}
    for name, image in images.items():
        path = tmp_path_factory.mktemp("scenes") / f"{name}.png"
        quick_look(middle_slices(image, images["air"], lung_box(), IDENTITY, field), path)
        found[name] = pixels(path)
    return found


def panels_of_first_column(scenes) -> list[tuple[slice, slice]]:
    """Where tissue is seen and air is not, left of the second column."""
    seen = (np.abs(scenes["tissue"] - scenes["air"]).sum(-1) > 100)[:, :326]
    rows = np.flatnonzero(seen.any(axis=1))
    parts = np.split(rows, np.flatnonzero(np.diff(rows) > 2) + 1)
    columns = [np.flatnonzero(seen[part].any(axis=0)) for part in parts]
    return [(slice(r[0], r[-1] + 1), slice(c[0], c[-1] + 1)) for r, c in zip(parts, columns, strict=True)]


def test_the_page_has_a_row_per_plane_in_true_proportions(scenes):
    panels = panels_of_first_column(scenes)
    assert len(panels) == 3
    sizes = [2 * half + 60 for half in HALF_MM]
    for (rows, columns), (height, width) in zip(panels, ((1, 0), (2, 0), (2, 1)), strict=True):
        ratio = (rows.stop - rows.start) / (columns.stop - columns.start)
        assert ratio == pytest.approx(sizes[height] / sizes[width], rel=0.06)


def test_the_patients_right_front_and_head_are_at_the_left_and_above(scenes):
    seen = np.abs(scenes["ball"] - scenes["air"]).sum(-1) > 100
    for number, (rows, columns) in enumerate(panels_of_first_column(scenes)):
        part = seen[rows, columns]
        y, x = (where.mean() for where in np.nonzero(part))
        assert part.any() and x < 0.47 * part.shape[1] and y < 0.47 * part.shape[0], number


def test_each_column_shows_what_its_heading_says(slices, tmp_path):
    """A part of the slices that changes is seen in the columns that show it, and nowhere else."""

    def columns(changed) -> np.ndarray:
        quick_look(changed, tmp_path / "look.png")
        page = pixels(tmp_path / "look.png")[40:]  # below the headings
        return np.stack([page[:, 6 + 326 * number : 326 * (number + 1)] for number in range(4)])

    bare, shown = columns(slices), {"fixed": [0, 1, 2], "moving": [0], "moved": [1, 2], "jacobian": [3], "lungs": [3]}
    for name, wanted in shown.items():
        other = {
            plane: replace(seen, **{name: np.roll(getattr(seen, name), 9, axis=1) if name == "lungs" else
                                    getattr(seen, name) * 0.5 + 0.1})
            for plane, seen in slices.items()
        }  # fmt: skip
        found = np.flatnonzero((columns(other) != bare).any(axis=(1, 2, 3)))
        assert found.tolist() == wanted, name


def test_the_same_pair_gives_the_same_bytes_whatever_matplotlib_is_set_to(slices, tmp_path):
    report = {"verdict": "failed", "tre_mm_before": 9.0, "tre_mm_after": 4.0, "warnings": ["it folds"]}
    quick_look(slices, tmp_path / "plain.png", "pair $x_1$", report)
    odd = {
        "font.family": "monospace", "font.size": 30, "font.weight": "bold", "text.usetex": True, "text.color": "green",
        "figure.dpi": 33, "savefig.dpi": 44, "savefig.bbox": "tight", "savefig.facecolor": "pink", "axes.grid": True,
        "savefig.transparent": True, "figure.facecolor": "pink", "figure.constrained_layout.use": True,
        "figure.autolayout": False, "axes.facecolor": "pink", "image.origin": "lower", "image.aspect": 3.0,
        "image.interpolation": "nearest", "image.resample": False, "image.cmap": "jet", "axes.xmargin": 0.3,
        "contour.linewidth": 9, "lines.linewidth": 9, "contour.corner_mask": False, "figure.frameon": False,
        "image.interpolation_stage": "rgba", "savefig.format": "pdf", "backend": "svg", "lines.antialiased": False,
    }  # fmt: skip
    with matplotlib.rc_context(odd):
        before = matplotlib.rcParams.copy()
        quick_look(slices, tmp_path / "odd.png", "pair $x_1$", report)
        assert matplotlib.rcParams.copy() == before
    assert (tmp_path / "odd.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_pyplot_is_left_alone(tmp_path):
    code = """
import sys, matplotlib
before = matplotlib.rcParams.copy()
import mine_reg.pair_tool.quick_look, numpy as np
from mine_reg.pair_tool.middle_slices import Slice
flat = np.zeros((40, 30))
mine_reg.pair_tool.quick_look.quick_look({"axial": Slice(flat, flat, flat, flat + 1, flat > 0, 2.5, 0.0)}, sys.argv[1])
assert matplotlib.rcParams.copy() == before and "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, tmp_path / "look.png"], capture_output=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "MPLBACKEND"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_verdict_numbers_and_warnings_are_shown_where_there_are_any(slices, tmp_path):
    def drawn(report) -> np.ndarray:
        quick_look(slices, tmp_path / "look.png", "a", report)
        return pixels(tmp_path / "look.png")

    bare = drawn(None)
    unknown = {"tre_mm_before": None, "tre_mm_after": 1.0, "sd_log_jacobian": float("nan"), "seconds": {}}
    np.testing.assert_array_equal(drawn(unknown), bare)
    judged = [drawn({"verdict": verdict}) for verdict in ("trusted", "doubtful", "failed")]
    assert all(page.shape == bare.shape and (page != bare).any() for page in judged)
    assert (judged[0] != judged[2]).any() and not (judged[0] != bare)[40:].any()  # in the title
    lines = [
        {"dsc_before": 0.9, "dsc_after": 0.98},
        {"dsc_before": 0.9, "dsc_after": 0.98, "warnings": ["one", "x " * 200]},
    ]
    assert bare.shape[0] < drawn(lines[0]).shape[0] < drawn(lines[1]).shape[0]
    assert (drawn(lines[0]) != drawn({"dsc_before": 0.9, "dsc_after": 0.97})).any()


def test_any_name_can_be_drawn(slices, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("肺 \\alpha $ _^{", "two\nlines", "x" * 4000, ""):
            quick_look(slices, tmp_path / "look.png", name)
    assert pixels(tmp_path / "look.png").shape[1] < 1500


def test_what_cannot_be_written_is_named(slices, tmp_path):
    with pytest.raises(ValueError, match=r"look.jpg must end in .png"):
        quick_look(slices, tmp_path / "look.jpg")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=re.escape(str(tmp_path / "look.png"))):
            quick_look(slices, tmp_path / "look.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_real_ct_shows_its_lungs(repository, tmp_path):
    scan = Path(os.environ.get("MINE_REG_REAL_CT", repository.parent / "shared" / "data")) / "cip64.nrrd"
    if not scan.is_file():
        pytest.skip(f"no real CT at {scan}; set MINE_REG_REAL_CT to its folder")
    ct = sitk.Cast(read_image(scan), sitk.sitkFloat32)
    lungs = lungs_of_crop(on_lungs_grid(ct), ct)
    grid = working_grid(lungs)
    seen = averaged(ct, grid.GetSpacing()[0])
    slices = middle_slices(seen, seen, lungs, IDENTITY, field_of(IDENTITY, grid))
    for picture in slices.values():
        assert np.median(picture.fixed[picture.lungs]) < -700 and picture.lungs.sum() > 500
        assert np.median(picture.fixed[~picture.lungs]) > -200
        np.testing.assert_array_equal(picture.fixed, picture.moved)
    quick_look(slices, tmp_path / "look.png", "cip64")
    height, width = pixels(tmp_path / "look.png").shape[:2]
    assert width == 1368 and 600 < height < 1200
