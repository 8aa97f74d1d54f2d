"""The weights that come with the package, on a phantom they have not seen; notebook 20 with them, as papermill runs
it."""

import re

import nbformat
import numpy as np
import papermill
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

import mine_reg
from mine_reg.images.geometry import to_image
from mine_reg.settings import LOSSES
from mine_reg.synthetic.phantom import grid_origin, make_pair
from mine_reg.training.weights import SHIPPED, load_weights_file

SIZE, SPACING, SEED = (96, 96, 96), 3.6, 987_001


@pytest.fixture(scope="module")
def phantom():
    return make_pair(SIZE, SPACING, SEED)


@pytest.fixture(scope="module")
def images(phantom):
    """Fixed and moving image, the latter with thick slices and axes of its own."""
    fixed, moving = (
        to_image(values, (SPACING,) * 3, grid_origin(SIZE, SPACING), dtype="int16")
        for values in (phantom.fixed, phantom.moving)
    )
    grid = sitk.Image([150, 110, 60], sitk.sitkInt16)
    grid.SetSpacing((2.6, 3.4, 6.0))
    direction = Rotation.from_rotvec([0.05, 0.0, 0.3]).as_matrix()
    grid.SetDirection(direction.ravel())
    grid.SetOrigin((-direction @ ((np.array(grid.GetSize()) - 1) / 2 * np.array(grid.GetSpacing()))).tolist())
    return fixed, sitk.Resample(moving, grid, sitk.Transform(), sitk.sitkLinear, -1024)


@pytest.mark.parametrize("name", LOSSES)
def test_shipped_weights_say_where_they_come_from(name):
    assert (SHIPPED / f"{name}.safetensors").stat().st_size < 8e6
    provenance = load_weights_file(name).provenance
    assert provenance["method"] == name and len(provenance["code"]) == 40
    assert provenance["scans"] and provenance["seed"] is not None
    assert set(provenance["validation"]) == {"phantom", "simulated"} and all(
        scores["tre_mm_after"] < scores["tre_mm_before"] for scores in provenance["validation"].values()
    )


@pytest.mark.parametrize("name", LOSSES)
def test_shipped_weights_register_an_unseen_phantom_out_of_the_box(phantom, images, name):
    points = {"fixed_points": phantom.fixed_points_xyz.numpy(), "moving_points": phantom.moving_points_xyz.numpy()}
    report = mine_reg.register(*images, name, device="cpu", **points).report
    assert (
        report["tre_mm_after"] < min(2.5, report["tre_mm_before"] / 2)
        and report["folding_percent"] == 0
        and not report["warnings"]
    )


@pytest.fixture
def files(images, tmp_path):
    paths = {name: tmp_path / f"{name}.nii.gz" for name in ("fixed", "moving")}
    for path, image in zip(paths.values(), images, strict=True):
        sitk.WriteImage(image, str(path))
    return {name: str(path) for name, path in paths.items()} | {"out": str(tmp_path / "out")}


def execute(repository, tmp_path, parameters):
    papermill.execute_notebook(
        repository / "notebooks/20_register.ipynb",
        tmp_path / "run.ipynb",
        parameters,
        kernel_name="python3",
        language="python",
        cwd=repository,
        progress_bar=False,
    )
    return nbformat.read(tmp_path / "run.ipynb", as_version=4)


def test_notebook_20_registers_and_shows(repository, files, tmp_path):
    executed = execute(repository, tmp_path, files | {"device": "cpu"})
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "moved.nii.gz",
        "transform.h5",
        "0GenericAffine.mat",
        "1Warp.nii.gz",
        "report.json",
        "quick_look.png",
        "inconsistency.nii.gz",
    }
    pictures = {"inconsistency.png", "before_after.png", "field.png"}
    assert {path.name for path in (tmp_path / "out/figures").glob("*.png")} == pictures
    shown = [
        output
        for cell in executed.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(shown) == 4  # and the quick look
    said = "".join(o.get("text", "") for cell in executed.cells for o in cell.get("outputs", ()))
    assert float(re.search(r"in the lungs: median ([\d.]+) mm", said)[1]) < 3


def test_notebook_20_refuses_a_misspelt_name(repository, files, tmp_path):
    said = "unknown parameter .refin. in papermill -p; did you mean .refine."
    with pytest.raises(papermill.PapermillExecutionError, match=said):
        execute(repository, tmp_path, files | {"refin": 10})
    assert not (tmp_path / "out").exists()
