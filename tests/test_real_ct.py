"""Real thoracic CT through the manifest, when the scans of data_manifests/example_real_ct.csv are at hand.

Their folder is MINE_REG_REAL_CT, or shared/data beside the repository. No two scans are of one person, so these tests
show that real input is handled and say nothing about the accuracy of a registration.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from mine_reg.images.ct import lung_mask, read_clipped
from mine_reg.images.reading import read_image
from mine_reg.pairs.manifest import IMAGES, read_manifest, read_scans
from mine_reg.pairs.preprocess import preprocess
from mine_reg.pairs.preprocessed import load_pair, read_pairs
from mine_reg.synthetic.scan_pairs import read_scan, simulate_pair

SCANS = ("cip64", "lidc1011", "popi00", "ricord1012")


@pytest.fixture(scope="module")
def manifest(repository, tmp_path_factory) -> Path:
    """The example manifest with its ``ct/`` replaced by the folder of this machine."""
    scans = Path(os.environ.get("MINE_REG_REAL_CT", repository.parent / "shared" / "data"))
    if not all(list(scans.glob(f"{name}.n*")) for name in SCANS):
        pytest.skip(f"no real CT in {scans}; set MINE_REG_REAL_CT to the folder of {', '.join(SCANS)}")
    table = pd.read_csv(repository / "data_manifests" / "example_real_ct.csv")
    for name in IMAGES[:4]:
        table[name] = [str(scans.resolve() / Path(path).relative_to("ct")) for path in table[name]]
    path = tmp_path_factory.mktemp("real") / "manifest.csv"
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def scans(repository, manifest) -> Path:
    """The example table of single CTs, likewise."""
    table, folder = (
        pd.read_csv(repository / "data_manifests" / "example_scans.csv"),
        Path(pd.read_csv(manifest)["fixed"][0]).parent,
    )
    for name in ("image", "mask"):
        table[name] = [str(folder / Path(path).relative_to("ct")) for path in table[name]]
    path = manifest.parent / "scans.csv"
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def preprocessed(manifest) -> Path:
    folder = manifest.parent / "preprocessed"
    preprocess(
        read_manifest(manifest),
        folder,
        size=[32, 32, 32],
        spacing_mm=10.0,
        window_hu=[-1000, 500],
        start="centre_of_mass",
        split={},
        seed=0,
        workers=1,
    )
    return folder


def test_the_scans_are_as_real_exports_are(manifest):
    """What preprocessing has to cope with: values far below air, and grids that differ in spacing, size and origin."""
    scans = {Path(path).name: read_image(path) for path in read_manifest(manifest)["fixed"].unique()}
    lowest = [sitk.GetArrayViewFromImage(scan).min() for scan in scans.values()]
    assert min(lowest) < -1024
    assert len({scan.GetSpacing() for scan in scans.values()}) > 1
    assert len({scan.GetOrigin() for scan in scans.values()}) == len(scans)


def test_every_pair_is_on_one_grid_with_its_lungs(preprocessed, manifest):
    table, raw = read_pairs(preprocessed), read_manifest(manifest).set_index("pair_id")
    assert table["split"].value_counts().to_dict() == {"train": 4, "test": 2, "validation": 1}
    for row in table.itertuples():
        pair = load_pair(preprocessed, row)
        for name in ("fixed", "moving"):
            image, mask = getattr(pair, name), getattr(pair, f"{name}_mask")
            assert image.shape == mask.shape == (1, 32, 32, 32)
            assert image.min() == 0 and image.max() <= 1  # air, and nothing below it
            assert image[mask > 0].mean() < 0.35  # lung: well below -500 HU
            original = read_image(raw.loc[row.pair_id, f"{name}_mask"])
            litres = np.count_nonzero(sitk.GetArrayViewFromImage(original)) * np.prod(original.GetSpacing()) / 1e6
            kept = mask.sum().item() * 10**3 / 1e6 / litres
            assert 1.5 < litres < 8 and 0.9 < kept < 1.05, (row.pair_id, name, litres, kept)


def test_bodies_start_on_top_of_each_other(preprocessed):
    """Up to 380 mm apart as their headers say, and of different people; yet the lungs overlap roughly."""
    table = read_pairs(preprocessed)
    assert table[["start_x", "start_y", "start_z"]].abs().to_numpy().max() > 300
    for row in table.itertuples():
        pair = load_pair(preprocessed, row)
        # 0.41 for lidc1011 and ricord1012, whose mask lacks the consolidated, posterior part of the lungs
        both = pair.fixed_mask * pair.moving_mask
        assert 2 * both.sum() / (pair.fixed_mask.sum() + pair.moving_mask.sum()) > 0.35, row.pair_id


@pytest.mark.pipeline
def test_whole_study_runs_on_real_ct(make_study_copy, manifest):
    study = make_study_copy(
        profile="smoke",
        data__source="manifest",
        data__manifest=str(manifest),
        preprocess__start="centre_of_mass",
        profiles__smoke__estimator__steps=5,
    )
    study.run("dvc", "repro")
    metrics = pd.read_csv(study.folder / "results/metrics.csv")
    assert set(metrics["pair_id"]) == {"lidc1011_ricord1012", "lidc1011_popi00"}
    assert {"none", "ants", "miregnet", "midiceregnet"} <= set(metrics["method"])
    assert np.isfinite(metrics[["dsc", "asd_mm", "hd_mm", "hd95_mm", "folding_percent"]]).all(axis=None)
    assert metrics["tre_mm"].isna().all() and "inter_observer" not in set(
        metrics["method"]
    )  # nobody marked these scans
    assert "MIDiceRegNet" in (study.folder / "results/table1.md").read_text(encoding="utf-8")


def test_lungs_are_found_as_in_the_mask_that_came_with_a_scan(scans):
    """cip64's mask was shipped with it; those of the other three were themselves made by thresholding."""
    for row in read_scans(scans).itertuples():
        found, given = lung_mask(read_clipped(row.image)), read_image(row.mask) != 0
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(sitk.Cast(found, sitk.sitkUInt8), sitk.Cast(given, sitk.sitkUInt8))
        assert overlap.GetDiceCoefficient() > 0.97, (row.scan_id, overlap.GetDiceCoefficient())


def test_pairs_simulated_from_real_ct(scans):
    blood = {}
    for number, row in enumerate(read_scans(scans).itertuples()):
        scan = read_scan(row.image, row.mask, (40, 40, 40), 8.0)
        blood[row.scan_id] = scan.blood_hu
        pair = simulate_pair(scan, number)
        assert len(pair.fixed_points_xyz) >= 100
        lungs = [
            image[mask].median() for image, mask in ((pair.fixed, pair.fixed_mask), (pair.moving, pair.moving_mask))
        ]
        assert max(lungs) < -600
        assert (pair.fixed_points_xyz - pair.moving_points_xyz).norm(dim=1).max() > 3
    assert max(value for name, value in blood.items() if name != "lidc1011") < 80 and blood["lidc1011"] > 150


@pytest.mark.pipeline
def test_data_and_preprocessing_run_on_simulated_pairs(make_study_copy, scans):
    study = make_study_copy(profile="smoke", data__source="simulate", data__scans=str(scans))
    study.run("dvc", "repro", "preprocess")
    table = read_pairs(study.folder / "data/preprocessed")
    assert table["split"].value_counts().to_dict() == {"train": 3, "validation": 2, "test": 2}
    assert set(table.loc[table["split"] == "test", "subject_id"]) == {"lidc1011"}
    calibration = pd.read_csv(study.folder / "results/calibration.csv")
    assert calibration["method"].tolist() == ["none"] * 3 and 0.7 < calibration["mean"][0] < 1
