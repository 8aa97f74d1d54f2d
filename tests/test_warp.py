"""The one-pass warp gives what ITK gives, for any grid, type and order of transforms that it takes."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from mine_reg.images import transforms
from mine_reg.images.transforms import apply_transform
from mine_reg.images.warp import _compiled, chain_of, warp

AFFINE = sitk.AffineTransform(
    (1.03, 0.05, 0.0, -0.04, 0.97, 0.02, 0.01, -0.03, 1.02), (4.0, -6.0, 3.0), (10.0, 5.0, 2.0)
)


def oblique(values: np.ndarray, spacing, turns=(0.0, 0.0, 0.0), origin=(-30.0, 12.0, -50.0)) -> sitk.Image:
    image = sitk.GetImageFromArray(values, isVector=values.ndim == 4)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(sitk.Euler3DTransform((0.0, 0.0, 0.0), *turns).GetMatrix())
    return image


def field(random, turns=(0.0, 0.0, 0.0)) -> sitk.DisplacementFieldTransform:
    """Smooth, some 10 mm, on a grid that covers only a part of the images."""
    values = np.stack([gaussian_filter(random.normal(0, 300, (18, 20, 22)), 3) for _ in range(3)], axis=-1)
    return sitk.DisplacementFieldTransform(oblique(values, (3.0, 2.5, 4.0), turns, (-20.0, 20.0, -40.0)))


def images(random, dtype, turns):
    low, high = (0, 200) if dtype == "uint8" else (-1000, 500)
    moving = gaussian_filter(random.uniform(low, high, (30, 33, 28)), 1)
    if np.dtype(dtype).kind in "iu":
        moving = moving.round()
    return (
        oblique(moving.astype(dtype), (1.9, 2.3, 3.1), turns),
        oblique(np.zeros((25, 31, 37), np.uint8), (2.2, 1.7, 2.9), [-turn for turn in turns], (-25.0, 8.0, -45.0)),
    )


CHAINS = {
    "as written": lambda u: sitk.CompositeTransform([AFFINE, u]),
    "field alone": lambda u: u,
    "affine alone": lambda u: AFFINE,
    "the way back": lambda u: sitk.CompositeTransform([u, AFFINE.GetInverse()]),
    "nested": lambda u: sitk.CompositeTransform(
        [sitk.CompositeTransform([sitk.TranslationTransform(3, (3.0, 1.0, -2.0)), AFFINE]), u, sitk.Euler3DTransform()]
    ),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("dtype", ["int16", "uint8", "int32", "float32", "float64"])
def test_it_equals_itk(name, dtype):
    random = np.random.default_rng(0)
    for turns in ((0.0, 0.0, 0.0), (0.2, -0.1, 0.3)):
        moving, fixed = images(random, dtype, turns)
        transform = CHAINS[name](field(random, turns))
        outside = -999.0 if dtype != "uint8" else 7.0
        found = warp(moving, fixed, chain_of(transform), False, outside)
        exact = sitk.GetArrayFromImage(
            sitk.Resample(moving, fixed, transform, sitk.sitkLinear, outside, sitk.sitkFloat64)
        )
        values = sitk.GetArrayFromImage(found)
        assert values.dtype == dtype and found.GetOrigin() == fixed.GetOrigin() and (values == outside).any()
        assert np.abs(values - exact).max() < (0.02 if values.dtype.kind == "f" else 0.52)
        nearest = sitk.Resample(moving, fixed, transform, sitk.sitkNearestNeighbor, outside)
        labels = sitk.GetArrayFromImage(warp(moving, fixed, chain_of(transform), True, outside))
        # a place between two voxels, to the last digit, may go either way
        assert (labels != sitk.GetArrayFromImage(nearest)).mean() < 2e-4


def test_a_transform_of_another_form_is_left_to_itk():
    random = np.random.default_rng(1)
    assert chain_of(sitk.CompositeTransform([field(random), field(random)])) is None
    assert chain_of(sitk.BSplineTransform(3)) is None


def test_large_and_small_images_are_treated_alike(monkeypatch):
    """What `apply_transform` gives does not depend on which of the two it takes."""
    random = np.random.default_rng(2)
    moving, fixed = images(random, "int16", (0.1, 0.2, -0.1))
    transform = CHAINS["as written"](field(random))
    by_itk = sitk.GetArrayFromImage(apply_transform(moving, fixed, transform, label=False))
    monkeypatch.setattr(transforms, "_WORTH_COMPILING", 0)
    called = []
    monkeypatch.setattr("mine_reg.images.warp.warp", lambda *given: called.append(given) or warp(*given))
    in_one_pass = sitk.GetArrayFromImage(apply_transform(moving, fixed, transform, label=False))
    assert called and np.abs(in_one_pass.astype(int) - by_itk).max() <= 1
    assert (in_one_pass != by_itk).mean() < 1e-3


def test_it_works_where_nothing_compiled_can_be_kept(monkeypatch):
    from numba.core.caching import CacheImpl

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    assert _compiled(lambda value: value + 1)(1) == 2


def test_the_benchmark_runs(repository, tmp_path):
    command = [sys.executable, str(repository / "benchmarks/warp.py"), "--sizes", "40", "--repeats", "1"]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, capture_output=True)
    table = pd.read_csv(tmp_path / "warp.csv")
    assert table["interpolation"].tolist() == ["linear", "nearest"] and (table["ratio"] > 0).all()
    assert (table["largest_difference"] <= [1, 1500]).all() and (table["mean_difference"] < 0.05).all()
