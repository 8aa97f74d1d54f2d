"""The weights that come with the package: made from CTs by one command, and able to register."""

import pandas as pd
import SimpleITK as sitk

from mine_reg.experiments.train_shipped_weights import main
from mine_reg.images.geometry import same_grid, to_image
from mine_reg.pair_tool.register import register
from mine_reg.synthetic.phantom import grid_origin, make_pair
from mine_reg.training.weights import load_weights_file

SIZE, SPACING = (64, 64, 64), 5.0


def test_weights_are_made_from_scans_and_register_a_pair(tmp_path, repository, monkeypatch):
    rows, scans = [], [make_pair(SIZE, SPACING, seed) for seed in (1, 2, 3)]
    for number, pair in enumerate(scans):
        for name, values, dtype in (("image", pair.moving, "int16"), ("mask", pair.moving_mask, "uint8")):
            sitk.WriteImage(
                to_image(values, (SPACING,) * 3, grid_origin(SIZE, SPACING), dtype=dtype),
                str(tmp_path / f"{name}{number}.nii.gz"),
            )
        rows.append(
            {
                "scan_id": f"s{number}",
                "image": f"image{number}.nii.gz",
                "mask": f"mask{number}.nii.gz",
                "subject_id": f"s{number}",
                "split": "train",
            }
        )
    pd.DataFrame(rows).to_csv(tmp_path / "scans.csv", index=False)
    monkeypatch.setattr(
        "mine_reg.experiments.train_shipped_weights.GRIDS", {"coarse": ([32] * 3, 10.0), "fine": ([63] * 3, 5.0)}
    )  # an eighth of the time
    monkeypatch.chdir(repository)
    monkeypatch.setattr(
        "sys.argv",
        [
            "ship",
            str(tmp_path / "scans.csv"),
            "--leave-out",
            "s2",
            "--phantoms",
            "2",
            "--simulated",
            "2",
            "--affinenet-epochs",
            "1",
            "--deformnet-epochs",
            "1",
            "--fine-epochs",
            "1",
            "--work",
            str(tmp_path / "work"),
            "--out",
            str(tmp_path / "shipped"),
        ],
    )
    main()

    assert sorted(path.name for path in (tmp_path / "shipped").iterdir()) == [
        "midiceregnet.safetensors",
        "miregnet.safetensors",
    ]
    assert {path.name for path in (tmp_path / "work/subjects/fine").iterdir() if path.is_dir()} == {"s0-s1", "s1-s0"}
    _, fine, statistic, provenance = load_weights_file(tmp_path / "shipped/miregnet.safetensors")
    assert (
        fine is not None
        and statistic is not None
        and provenance["scans"] == ["s0", "s1"]
        and provenance["method"] == "miregnet"
    )
    assert (
        set(provenance["validation"]) == {"phantom", "simulated"} and 0.5 < provenance["validation"]["phantom"]["dsc_after"] < 1
    )
    assert str(tmp_path) not in str(provenance)  # nobody's folders travel with the weights
    fixed, moving = (sitk.ReadImage(str(tmp_path / f"image{i}.nii.gz")) for i in (0, 1))
    result = register(fixed, moving, tmp_path / "shipped/miregnet.safetensors", refine=10)
    assert (
        same_grid(result.moved, fixed)
        and result.report["refinement"]["objective_after"] <= result.report["refinement"]["objective_before"]
    )
