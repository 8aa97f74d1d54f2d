"""What the explorer shows is right, and it works in JupyterLab, operated in a headless browser without a network."""

import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from mine_reg.figures.explorer import INCONSISTENCY, MODES, Explorer3D, RegisteredPair, SliceExplorer
from mine_reg.images.geometry import composite_transform, to_image
from mine_reg.images.transforms import apply_transform, read_transform
from mine_reg.images.writing import write_image
from mine_reg.pair_tool.files import writing
from mine_reg.pair_tool.inconsistency import inconsistency_map
from mine_reg.synthetic.phantom import grid_origin, make_pair

SIZE, SPACING, MAP = (48, 48, 48), 7.0, "inconsistency.nii.gz"
NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks/21_explore.ipynb"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A registration by a known field, as `mine-reg register` writes it, and the images that it belongs to."""
    folder, pair = tmp_path_factory.mktemp("registered"), make_pair(SIZE, SPACING, 5)
    names = {"fixed": "int16", "moving": "int16", "fixed_mask": "uint8", "moving_mask": "uint8"}
    images = {
        name: to_image(getattr(pair, name), (SPACING,) * 3, grid_origin(SIZE, SPACING), dtype=dtype)
        for name, dtype in names.items()
    }
    for name, image in images.items():
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    dvf = torch.zeros(1, 3, *SIZE)
    dvf[:, 0, :, :, 24:] = 1.5  # z, on the left half: no folding, since it does not change along z
    transform = composite_transform(torch.eye(3, 4)[None], dvf, images["fixed"], images["fixed"])
    field = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat32,
        images["fixed"].GetSize(),
        images["fixed"].GetOrigin(),
        images["fixed"].GetSpacing(),
        images["fixed"].GetDirection(),
    )
    moved = apply_transform(images["moving"], images["fixed"], transform, label=False)
    with writing(moved, transform, field, folder):
        pass
    (folder / "report.json").write_text(f'{{"fixed": "{folder}/fixed.nii.gz", "moving": "{folder}/moving.nii.gz"}}')
    return folder


def test_volumes_and_field_are_those_of_the_files(folder):
    pair = RegisteredPair(folder, moving_mask=folder / "moving_mask.nii.gz")
    np.testing.assert_allclose(pair.displacement[0, 10:38, 10:38, 30:].numpy(), 1.5 * SPACING, atol=1e-3)
    np.testing.assert_allclose(pair.displacement[0, 10:38, 10:38, :20].numpy(), 0, atol=1e-3)
    assert pair.jacobian.shape == SIZE and pair.jacobian[10:38, 10:38, 30:40].sub(1).abs().max() < 1e-3
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "moved.nii.gz")))
    assert np.abs(pair.moved[0].numpy() - expected)[10:38, 10:38].max() <= 1  # rounded to whole HU
    assert set(pair.volumes) == {"fixed", "moving", "moved", "moved mask"}


def test_each_control_changes_the_picture(folder):
    explorer = SliceExplorer(RegisteredPair(folder))
    seen = {explorer.picture.value}
    for mode in MODES[1:]:
        explorer.mode.value = mode
        seen.add(explorer.picture.value)
    assert len(seen) == len(MODES) - 1  # at blend 0 the first two modes both show the fixed image
    explorer.mode.value = MODES[0]
    for control, value in (
        (explorer.blend, 1.0),
        (explorer.position[0], 20),
        (explorer.position[2], 15),
        (explorer.crosshair, False),
    ):
        before = explorer.picture.value
        control.value = value
        assert explorer.picture.value != before
    assert bytes(explorer.picture.value).startswith(b"\x89PNG")


def test_the_inconsistency_is_a_mode_where_its_map_is_there(folder, tmp_path):
    assert INCONSISTENCY not in SliceExplorer(RegisteredPair(folder)).mode.options
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    field = sitk.ReadImage(str(copy / "dvf.nii.gz"))
    half = sitk.Shrink(field, [2, 2, 2])  # as `register` writes it
    write_image(inconsistency_map(read_transform(copy / "transform.h5"), sitk.Transform(), half), copy / MAP)
    pair = RegisteredPair(copy)
    assert pair.inconsistency.shape == pair.displacement[:1].shape
    off = (pair.inconsistency - pair.displacement.norm(dim=0)[None]).abs()  # the way back: none
    assert off.quantile(0.9) < 1e-3  # the field ends in a step, which the coarser map cannot show
    explorer = SliceExplorer(pair)
    before = explorer.picture.value
    explorer.mode.value = INCONSISTENCY
    assert explorer.picture.value != before and explorer.draw().axes[-1].get_ylabel() == "inconsistency / mm"
    write_image(sitk.ReadImage(str(copy / MAP))[1:], copy / MAP)
    with pytest.raises(ValueError, match="inconsistency.nii.gz does not cover .*dvf.nii.gz, .*; remove it"):
        RegisteredPair(copy)


def test_volumes_for_niivue_are_written_and_masks_are_optional(folder, tmp_path):
    view = Explorer3D(RegisteredPair(folder, fixed_mask=folder / "fixed_mask.nii.gz"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fixed.nii.gz", "fixed_mask.nii.gz", "moved.nii.gz"]
    assert [volume.opacity for volume in view.viewer.volumes] == [1.0, 0.0, 0.0]
    view.children[1].children[1].value = 0.6
    assert view.viewer.volumes[1].opacity == 0.6


def test_a_folder_without_a_registration_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no registration; give the folder"):
        RegisteredPair(tmp_path)


@pytest.fixture
def lab(folder, tmp_path):
    """Address of a JupyterLab that serves a copy of the notebook whose parameters name the folder."""
    text = NOTEBOOK.read_text(encoding="utf-8").replace(
        'folder = \\"scratch/20_register\\"', f'folder = \\"{folder}\\"'
    )
    (tmp_path / "explore.ipynb").write_text(text, encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=t",
        f"--notebook-dir={tmp_path}",
        "--allow-root",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with (tmp_path / "lab.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        for _ in range(240):
            time.sleep(0.25)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield f"http://127.0.0.1:{port}/lab/tree/explore.ipynb?token=t"
        server.terminate()


def _open_and_run(page, address: str) -> None:
    """Open the notebook and run all cells, again when nothing has started.

    That happens on a busy machine when the page is not connected to its kernel yet.
    """
    from playwright.sync_api import TimeoutError as NothingHappened

    for _ in range(4):
        page.goto(address)
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(
            timeout=60_000
        )  # before, Run asks for a kernel
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
        try:
            page.locator(".jp-InputPrompt").filter(has_text=re.compile(r"\[[\d*]+\]")).first.wait_for(timeout=20_000)
            return
        except NothingHappened:
            continue
    pytest.fail("JupyterLab did not run the notebook")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_the_notebook_works_in_jupyterlab_without_a_network(lab, tmp_path):
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER,
            args=[
                "--no-sandbox",
                "--disable-quic",
                "--disable-background-networking",
                "--enable-unsafe-swiftshader",
                "--use-angle=swiftshader",
            ],
        )
        page, foreign = browser.new_page(viewport={"width": 1300, "height": 2000}), []
        page.route(
            lambda url: "127.0.0.1" not in url and not url.startswith(("data:", "blob:")),
            lambda route: (foreign.append(route.request.url), route.abort()),
        )
        _open_and_run(page, lab)
        picture = page.locator(".jp-OutputArea img.widget-image")
        expect(picture).to_be_visible(timeout=120_000)
        expect(page.locator(".jp-OutputArea-output canvas").first).to_be_visible(timeout=60_000)
        expect(page.get_by_text("slices.png is written")).to_be_visible(timeout=60_000)

        before = picture.get_attribute("src")
        page.locator("select").filter(has_text="checkerboard").select_option("checkerboard")
        page.wait_for_function(
            "before => document.querySelector('.jp-OutputArea img.widget-image').src != before",
            arg=before,
            timeout=30_000,
        )
        time.sleep(3)  # for NiiVue to draw what has arrived
        page.screenshot(path=tmp_path / "explore.png")
        canvas = page.locator(".jp-OutputArea-output canvas").first.screenshot(path=tmp_path / "canvas.png")
        page.get_by_role("button", name="3D", exact=True).click()
        time.sleep(3)
        rendered = page.locator(".jp-OutputArea-output canvas").first.screenshot(path=tmp_path / "rendered.png")
        browser.close()
    assert rendered != canvas
    for name in ("canvas", "rendered"):
        assert np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")).std() > 10, f"{name}.png is empty"
    assert not foreign, foreign
