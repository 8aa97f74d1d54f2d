"""`mine-reg benchmark`: collections in exactly their layouts, registered and judged as their owners do; every TRE is
computed a second time, by SimpleITK or by the formula of Learn2Reg's evaluation alone."""

import json

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from collection_folders import DIRLAB, write_points
from known_networks import SIZE, SPACING
from scipy.ndimage import map_coordinates
from typer.testing import CliRunner

from mine_reg.cli import app
from mine_reg.pair_tool import benchmark as module
from mine_reg.pair_tool.published_results import PUBLISHED
from mine_reg.pairs.collection_layouts import COLLECTIONS, Case
from mine_reg.storage.results import MARK

KINDS = {"landmarks": 20, "keypoints": 30}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """DIR-Lab's volumes at the phantom's size; nothing else is replaced."""
    for name in ("dirlab_4dct", "dirlab_copdgene"):
        source = COLLECTIONS[name]
        raw = source.raw._replace(cases=dict.fromkeys(source.raw.cases, Case(SIZE, (SPACING, SPACING, SPACING))))
        monkeypatch.setitem(COLLECTIONS, name, source._replace(raw=raw))


def run(collection, folder, out, weights, *more):
    command = ["benchmark", collection, folder, "--out", out, "--weights", weights, "--device", "cpu", *more]
    return CliRunner().invoke(app, list(map(str, command)))


def voxels(count, seed):
    return np.random.default_rng(seed).integers(12, 44, (count, 3))


def dirlab(folder, collection, pair, numbers=(1, 10)):
    """Raw volumes, the uppermost slice first, and 300 landmarks counted from 1; also what they are, counted from 0."""
    points, phases = {}, ("T00", "T50") if collection == "dirlab_4dct" else ("iBH", "eBH")
    for (name, number), (image, landmarks) in DIRLAB.items():
        if name != collection or number not in numbers:
            continue
        for side, phase in zip(("fixed", "moving"), phases, strict=True):
            path = folder / image.format(phase)
            path.parent.mkdir(parents=True, exist_ok=True)
            stored = getattr(pair, side).numpy()[::-1].round() + 1024
            stored.astype("<i2").tofile(path)
            points[number, side] = voxels(300, number) + (side == "moving") * np.array([1, -2, 3])
            write_points(folder / landmarks.format(phase), points[number, side] + 1, "\t")
    return points


def learn2reg(folder, task, pair, cases=(1, 2, 3)):
    """Case 2 has landmarks and keypoints, the others keypoints; the two scans' headers differ by 40 mm and more."""
    entries = [
        {side: f"./imagesTr/{task}_{case:04}_{k:04}.nii.gz" for k, side in enumerate(("fixed", "moving"))}
        for case in cases
    ]
    folder.mkdir(parents=True)
    listed = {"training_paired_images": entries, "registration_val": entries[-1:]}
    (folder / f"{task}_dataset.json").write_text(json.dumps({"name": task, **listed}))
    for case in cases:
        for k, side in enumerate(("fixed", "moving")):
            name = f"{task}_{case:04}_{k:04}"
            for part, values in (("images", getattr(pair, side)), ("masks", getattr(pair, f"{side}_mask"))):
                (folder / f"{part}Tr").mkdir(exist_ok=True)
                image = sitk.GetImageFromArray(values.numpy().round().astype(np.int16))
                image.SetSpacing((SPACING, SPACING, SPACING + k / 2))
                image.SetOrigin((-150, -160 + 10 * k, -170 - 40 * k))
                sitk.WriteImage(image, str(folder / f"{part}Tr/{name}.nii.gz"))
            for kind, count in KINDS.items():
                if kind == "keypoints" or case == 2:
                    given = voxels(count, case) + k * np.array([0.25, -1.5, 2.0])
                    write_points(folder / f"{kind}Tr/{name}.csv", given)
    return folder


def by_simpleitk(image, transform, fixed, moving, snapped):
    """TRE of voxel indices x, y, z on one grid, landmark by landmark."""
    errors = []
    for here, there in zip(fixed.tolist(), moving, strict=True):
        point = transform.TransformPoint(image.TransformContinuousIndexToPhysicalPoint(here))
        index = np.array(image.TransformPhysicalPointToContinuousIndex(point))
        index = np.floor(index + 0.5) if snapped else index
        errors.append(np.linalg.norm((index - there) * image.GetSpacing()))
    return np.mean(errors), np.std(errors, ddof=1)


@pytest.mark.parametrize("collection", ["dirlab_4dct", "dirlab_copdgene"])
def test_dirlab_is_judged_on_its_300_landmarks_snapped_and_not(collection, pair, weights, tmp_path):
    points = dirlab(tmp_path / "in", collection, pair)
    done = run(collection, tmp_path / "in", tmp_path / "out", weights)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "out/benchmark.csv").set_index("pair_id")
    name = "case" if collection == "dirlab_4dct" else "copd"
    assert [*table.index] == [f"{name}{number}" for number, side in points if side == "fixed"]
    for number in {number for number, _ in points}:
        row, result = table.loc[f"{name}{number}"], tmp_path / f"out/registered/{name}{number}"
        image = sitk.ReadImage(str(tmp_path / f"out/pairs/{name}{number}/images/{name}{number}_fixed.nii.gz"))
        transform = sitk.ReadTransform(str(result / "transform.h5"))
        given = image, transform, points[number, "fixed"], points[number, "moving"]
        assert row["count"] == 300 and row["points"] == "landmarks"
        assert row["tre_before_mm"] == pytest.approx(SPACING * np.sqrt(1 + 4 + 9), rel=1e-4)
        assert (row["tre_mm"], row["tre_sd_mm"]) == pytest.approx(by_simpleitk(*given, snapped=False), rel=1e-4)
        snapped = by_simpleitk(*given, snapped=True)
        assert (row["tre_snapped_mm"], row["tre_snapped_sd_mm"]) == pytest.approx(snapped, rel=1e-4)
        assert abs(row["tre_snapped_mm"] - row["tre_mm"]) > 1e-3  # or it would not matter which is shown
        report = json.loads((result / "report.json").read_text())
        assert row["tre_mm"] == pytest.approx(report["tre_mm_after"], rel=1e-4)  # in mm, here the same
        assert row["dsc_after"] == pytest.approx(report["dsc_after"], rel=1e-4) and 0.3 < row["dsc_after"] < 1
    totals = pd.read_csv(tmp_path / "out/aggregates.csv").set_index("measure")
    assert "p30" not in totals
    assert totals.loc["tre_snapped_mm", "mean"] == pytest.approx(table["tre_snapped_mm"].mean(), rel=1e-4)
    text = (tmp_path / "out/benchmark.md").read_text()
    for entry in (entry for entry in PUBLISHED if entry.collection == collection):
        assert entry.source in text and f"{entry.tre_mm:.2f}" in text
    last = next(line for line in text.splitlines() if line.startswith(f"| {name}10 "))
    assert "| 0.84 |" in last if name == "case" else "| 0.85 | 1.38 | 2.50 |" in last  # published for case 10
    assert f"{table['tre_snapped_mm'].iloc[-1]:.2f} ± {table['tre_snapped_sd_mm'].iloc[-1]:.2f}" in last


def by_learn2reg(folder, transform, name, kind):
    """Mean of `compute_tre` of the challenge's evaluation: a displacement in voxels at the fixed voxels, interpolated
    by cubic splines at the fixed points; index times spacing."""
    fixed, moving = (sitk.ReadImage(str(folder / f"imagesTr/{name}_{k:04}.nii.gz")) for k in (0, 1))
    here, there = (np.loadtxt(folder / f"{kind}Tr/{name}_{k:04}.csv", delimiter=",") for k in (0, 1))
    before = np.linalg.norm((here - there) * moving.GetSpacing(), axis=1).mean()
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(), fixed.GetDirection()
    )
    index = np.stack(np.meshgrid(*map(np.arange, fixed.GetSize()), indexing="ij"), axis=-1)
    mm = np.array(fixed.GetOrigin()) + index * fixed.GetSpacing() + sitk.GetArrayFromImage(field).transpose(2, 1, 0, 3)
    displacement = (mm - moving.GetOrigin()) / moving.GetSpacing() - index
    moved = here + np.stack([map_coordinates(displacement[..., axis], here.T) for axis in range(3)], axis=1)
    return before, np.linalg.norm((moved - there) * moving.GetSpacing(), axis=1).mean()


@pytest.mark.parametrize(("collection", "task"), [("l2r_lungct", "LungCT"), ("l2r_nlst", "NLST")])
def test_learn2reg_is_judged_as_its_evaluation_does(collection, task, pair, weights, tmp_path):
    folder = learn2reg(tmp_path / "in", task, pair)
    done = run(collection, folder, tmp_path / "out", weights)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "out/benchmark.csv")
    assert "tre_snapped_mm" not in table
    cases = [(f"{task}_{case:04}", kind) for case in (1, 2, 3) for kind in KINDS if kind == "keypoints" or case == 2]
    assert [*zip(table["pair_id"], table["points"], strict=True)] == cases
    assert [*table["split"]] == ["train", "train", "train", "validation"]
    for row in table.itertuples():
        transform = sitk.ReadTransform(str(tmp_path / f"out/registered/{row.pair_id}/transform.h5"))
        before, after = by_learn2reg(folder, transform, row.pair_id, row.points)
        assert row.count == KINDS[row.points]
        assert row.tre_before_mm == pytest.approx(before, rel=1e-4)  # headers that differ play no part
        assert row.tre_mm == pytest.approx(after, abs=0.01)
    totals = pd.read_csv(tmp_path / "out/aggregates.csv").set_index(["split", "points", "measure"])
    own = table[(table["split"] == "train") & (table["points"] == "keypoints")]["tre_mm"]
    assert len(own) == 2
    expected = own.min() + 0.3 * (own.max() - own.min())
    assert totals.loc[("train", "keypoints", "tre_mm"), "p30"] == pytest.approx(expected, rel=1e-4)
    assert totals.loc[("train", "keypoints", "tre_mm"), "sd"] == pytest.approx(own.std(), abs=1e-4)


def empire10(folder, pair, numbers):
    for number in numbers:
        for side in ("fixed", "moving"):
            for part, values in (("scans", getattr(pair, side)), ("lungMasks", getattr(pair, f"{side}_mask"))):
                (folder / part).mkdir(parents=True, exist_ok=True)
                image = sitk.GetImageFromArray(values.numpy().round().astype(np.int16))
                image.SetSpacing([SPACING] * 3)
                sitk.WriteImage(image, str(folder / part / f"{number}_{side.title()}.mhd"))


def test_empire10_has_no_tre_but_overlap_and_folding(pair, weights, tmp_path):
    empire10(tmp_path / "in", pair, ["01"])
    assert run("empire10", tmp_path / "in", tmp_path / "out", weights).exit_code == 0
    table = pd.read_csv(tmp_path / "out/benchmark.csv")
    assert not [name for name in table if "tre" in name]
    assert table["dsc_after"].between(0.3, 1).all() and table["folding_percent"].notna().all()
    text, warnings = (tmp_path / "out/benchmark.md").read_text(), table["warnings"].fillna("").item()
    assert "keeps its landmarks secret" in text and ("## Warnings" in text) == bool(warnings) and warnings in text
    done = run("empire10", tmp_path / "in", tmp_path / "out", weights, "--refine", 1)  # arrives at `register`
    assert done.exit_code == 1 and "test.safetensors hold no T, which refine needs" in done.stderr


def marks(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob(MARK)}


def test_bad_cases_stop_no_other_and_nothing_is_done_twice(pair, weights, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    dirlab(folder, "dirlab_4dct", pair, numbers=(1, 2, 8, 10))
    good = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    cut, gone = folder / "Case1Pack/Images/case1_T00_s.img", folder / "Case2Pack/Images/case2_T50-ssm.img"
    blank = folder / "Case8Deploy/Images/case8_T50.img"
    cut.write_bytes(good[cut][:-2])
    gone.unlink()
    np.full(SIZE, 24, "<i2").tofile(blank)  # air alone
    done = run("dirlab_4dct", folder, out, weights)
    assert done.exit_code == 1 and "shows 1 cases; 3 could not be judged" in done.stdout
    table = pd.read_csv(out / "benchmark.csv", keep_default_na=False).set_index("pair_id")
    assert [*table.index] == ["case1", "case2", "case8", "case10"] and table.loc["case10", "error"] == ""
    text = (out / "benchmark.md").read_text()
    for case, reason in (
        ("case1", "case1_T00_s.img has 351230 bytes"),
        ("case2", "holds no case2_T50*.img, but other files of the case"),
        ("case8", "case8_T50.img: no lungs were found"),
    ):
        assert reason in table.loc[case, "error"] and table.loc[case, "tre_mm"] == "" and reason in text
        assert f"{case}: " in done.stderr and not (out / "registered" / case).exists()
    before = marks(out)

    for path, contents in good.items():
        if path in (cut, gone):
            path.write_bytes(contents)
    done = run("dirlab_4dct", folder, out, weights)
    assert done.exit_code == 1 and "shows 3 cases; 1 could not be judged" in done.stdout
    after = marks(out)
    assert before and {path: after[path] for path in before} == before and len(after) == len(before) + 4

    landmarks = folder / "Case10Pack/extremePhases/case10_dirLab300_T50_xyz.txt"
    write_points(landmarks, voxels(300, 99) + 1, "\t")
    run("dirlab_4dct", folder, out, weights)
    changed = {path.parent.name for path, when in marks(out).items() if when != after[path]}
    assert changed == {"case10"}
    again = pd.read_csv(out / "benchmark.csv").set_index("pair_id")
    assert again.loc["case10", "tre_mm"] != pytest.approx(float(table.loc["case10", "tre_mm"]), rel=1e-3)


def test_a_registration_that_fails_is_told_and_all_bad_is_a_table_too(pair, weights, tmp_path, monkeypatch):
    empire10(tmp_path / "in", pair, ["01", "02"])
    kept = module.register_manifest

    def one_fails(manifest, out, **options):
        (tmp_path / "in/scans/02_Moving.raw").write_bytes(b"")  # between the check and the registration
        return kept(manifest, out, **options)

    monkeypatch.setattr(module, "register_manifest", one_fails)
    done = run("empire10", tmp_path / "in", tmp_path / "out", weights)
    assert done.exit_code == 1 and "empire10_02: " in done.stderr and "02_Moving.mhd" in done.stderr
    assert pd.read_csv(tmp_path / "out/benchmark.csv")["error"].isna().tolist() == [True, False]
    for path in (tmp_path / "in/scans").glob("*.raw"):
        path.write_bytes(b"")
    done = run("empire10", tmp_path / "in", tmp_path / "out", weights)
    assert done.exit_code == 1 and "shows 0 cases; 2 could not be judged" in done.stdout
    assert (tmp_path / "out/benchmark.md").read_text().count("is damaged") == 4  # two scans of two cases


def test_what_cannot_be_used_is_said_before_anything_is_made(weights, tmp_path):
    (tmp_path / "in").mkdir()
    for arguments, said in (
        (("popi", "in", "out"), "'popi' is no collection; give one of l2r_lungct"),
        (("empire10", "none", "out"), "none is no folder; give the one into which"),
        (("empire10", "in", "in"), "in holds the collection itself; give another folder for the results"),
        (("dirlab_4dct", "in", "out"), "in holds no pair; expected is caseN_T00*.img"),
    ):
        collection, folder, out = arguments
        done = run(collection, tmp_path / folder, tmp_path / out, weights)
        assert done.exit_code == 1 and said in done.stderr and done.stderr.count("\n") == 1
    done = run("empire10", tmp_path / "in", tmp_path / "out", tmp_path / "no.safetensors")
    assert done.exit_code == 1 and "no.safetensors" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in"] and not [*(tmp_path / "in").iterdir()]


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: f"{entry.collection}-{entry.method}-{entry.points}")
def test_a_published_number_has_a_source_and_agrees_with_its_cases(entry):
    assert entry.collection in COLLECTIONS and any(mark in entry.source for mark in ("arXiv:", "PMC", "IEEE"))
    assert not entry.by_case or np.mean(entry.by_case) == pytest.approx(entry.tre_mm, abs=0.0051)
    assert not entry.by_case or len(entry.by_case) == 10
