"""Small folders laid out as the owners of public collections distribute them."""

import json

import numpy as np
import SimpleITK as sitk

SIZE, SPACING = (6, 5, 4), (2.0, 3.0, 4.0)  # x, y, z
ORIGIN, DIRECTION = (10.0, -20.0, 30.0), (-1, 0, 0, 0, 1, 0, 0, 0, -1)
VOXELS = [(0, 0, 0), (1, 2, 3), (5, 4, 3)]
# by hand: 10 - 2 i, -20 + 3 j, 30 - 4 k
MM = [(10, -20, 30), (8, -14, 18), (0, -8, 18)]


def write_scan(path, dtype=np.int16, value=None, origin=ORIGIN):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.arange(np.prod(SIZE)).reshape(SIZE[::-1]) if value is None else np.full(SIZE[::-1], value)
    image = sitk.GetImageFromArray(array.astype(dtype))
    image.SetSpacing(SPACING)
    image.SetOrigin(origin)
    image.SetDirection(DIRECTION)
    sitk.WriteImage(image, str(path))


def write_points(path, voxels, separator=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(separator.join(map(str, voxel)) + "\n" for voxel in voxels))


def learn2reg(folder, task="LungCT", present=(1, 2, 3, 4), listed=None):
    """Training pairs 1 to 3, of which 2 validates as well; test pair 4; landmarks for 2 and 4, keypoints for all."""

    def entry(case):
        return {
            side: f"./images{'Ts' if case == 4 else 'Tr'}/{task}_{case:04}_{number:04}.nii.gz"
            for number, side in enumerate(("fixed", "moving"))
        }

    keys = listed or {"training_paired_images": [1, 2, 3], "registration_val": [2], "registration_test": [4]}
    folder.mkdir(parents=True, exist_ok=True)
    table = {"name": task, **{key: [entry(case) for case in cases] for key, cases in keys.items()}}
    (folder / f"{task}_dataset.json").write_text(json.dumps(table))
    for case in present:
        part = "Ts" if case == 4 else "Tr"
        for number in (0, 1):
            name = f"{task}_{case:04}_{number:04}"
            write_scan(folder / f"images{part}" / f"{name}.nii.gz")
            write_scan(folder / f"masks{part}" / f"{name}.nii.gz", np.uint8, 1)
            write_points(folder / f"keypoints{part}" / f"{name}.csv", VOXELS[:1])
            if case in (2, 4):
                write_points(folder / f"landmarks{part}" / f"{name}.csv", VOXELS)
    return folder


def empire10(folder, numbers=("01", "07")):
    for number in numbers:
        for side in ("Fixed", "Moving"):
            write_scan(folder / "scans" / f"{number}_{side}.mhd")
            write_scan(folder / "lungMasks" / f"{number}_{side}.mhd", np.uint8, 1)
    return folder


DIRLAB = {  # image, landmarks; as in the archives, which differ from case to case
    ("dirlab_4dct", 1): ("Case1Pack/Images/case1_{}_s.img", "Case1Pack/ExtremePhases/Case1_300_{}_xyz.txt"),
    ("dirlab_4dct", 2): ("Case2Pack/Images/case2_{}-ssm.img", "Case2Pack/ExtremePhases/Case2_300_{}_xyz.txt"),
    ("dirlab_4dct", 8): ("Case8Deploy/Images/case8_{}.img", "Case8Deploy/extremePhases/case8_dirLab300_{}_xyz.txt"),
    ("dirlab_4dct", 10): ("Case10Pack/Images/case10_{}.img", "Case10Pack/extremePhases/case10_dirLab300_{}_xyz.txt"),
    ("dirlab_copdgene", 1): ("copd1/copd1/copd1_{}CT.img", "copd1/copd1/copd1_300_{}_xyz_r1.txt"),
    ("dirlab_copdgene", 10): ("copd10/copd10_{}CT.img", "copd10/copd10_300_{}_xyz_r1.txt"),
}
LANDMARKS = [(1, 1, 1), (3, 2, 4)] + [(6, 5, 4)] * 298  # counted from 1
STORED = np.arange(np.prod(SIZE), dtype="<i2").reshape(SIZE[::-1])


def dirlab(folder, collection, cases=None):
    phases = ("T00", "T50") if collection == "dirlab_4dct" else ("iBH", "eBH")
    for (name, case), (image, points) in DIRLAB.items():
        if name == collection and (cases is None or case in cases):
            for shift, phase in enumerate(phases):
                path = folder / image.format(phase)
                path.parent.mkdir(parents=True, exist_ok=True)
                (STORED + shift).tofile(path)
                write_points(folder / points.format(phase), LANDMARKS, "\t")
    return folder


def build(collection, folder):
    if collection.startswith("l2r"):
        return learn2reg(folder, {"l2r_lungct": "LungCT", "l2r_nlst": "NLST"}[collection])
    return empire10(folder) if collection == "empire10" else dirlab(folder, collection)
