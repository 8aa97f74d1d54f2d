"""What a process can have set before it registers a pair, how to see whether it is still so, and what is asked of it:
for test_process_state, and for the processes that it starts."""

import json
import locale
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

SIZE, SPACING, STEPS = (48, 48, 48), 7.0, 2
COMMAS = ("de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "it_IT.UTF-8", "es_ES.UTF-8", "nl_NL.UTF-8")


def prepare(folder: Path) -> None:
    """A phantom pair with masks and points, and random networks whose answer depends on what they see."""
    from mine_reg.images.geometry import to_image
    from mine_reg.models import AffineNet, DeformNet, StatisticNet
    from mine_reg.synthetic.phantom import grid_origin, make_pair
    from mine_reg.training.weights import save_network, save_weights_file

    pair = make_pair(SIZE, SPACING, 3)
    for name in ("fixed", "moving", "fixed_mask", "moving_mask"):
        kind = "uint8" if "mask" in name else "int16"
        spacing = SPACING, SPACING + 0.25, SPACING
        image = to_image(getattr(pair, name), spacing, grid_origin(SIZE, SPACING), dtype=kind)
        sitk.WriteImage(image, str(folder / f"{name}.nrrd"))
    rows = (",".join(f"{value:.3f}" for value in row) for row in pair.fixed_points_xyz[:50].tolist())
    (folder / "points.csv").write_text("\n".join(["x,y,z", *rows]) + "\n")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        affinenet, deformnet, statistic = AffineNet((4, 8)), DeformNet((4, 8), smoothing=2.0), StatisticNet(8, 1)
        torch.nn.init.normal_(affinenet.parameters_head.weight, std=0.03)
        torch.nn.init.normal_(deformnet.field.weight, std=0.2)
    given = {"channels": [4, 8], "largest_size": 96, "passes": 1, "pooling": "moments", "last_norm": True}
    save_network(affinenet, None, given | {"coordinates": False}, folder / "affinenet")
    given = {"channels": [4, 8], "first_stride": 2, "passes": 1, "smoothing": 2.0, "local_contrast": False}
    save_network(deformnet, statistic, given, folder / "deformnet")
    save_weights_file(folder / "affinenet", folder / "deformnet", folder / "test.safetensors", {"data": "none"})


def answer(folder: Path, refine: int = STEPS) -> dict[str, np.ndarray]:
    """What registration and evaluation say about the pair, as arrays in the units of each."""
    import mine_reg
    from mine_reg.pair_tool.report import evaluate

    images = folder / "fixed.nrrd", folder / "moving.nrrd"
    masks = {f"{role}_mask": folder / f"{role}_mask.nrrd" for role in ("fixed", "moving")}
    result = mine_reg.register(*images, folder / "test.safetensors", refine, "cpu", **masks)
    measured = evaluate(*images, result.transform, **masks)
    numbers = [value for value in result.report.values() if isinstance(value, float)]
    return {
        "field_mm": sitk.GetArrayFromImage(result.dvf)[::9, ::9, ::9],
        "moved_hu": sitk.GetArrayFromImage(result.moved),
        "report": np.array([*numbers, *measured.values()]),
        "refinement": np.array([v for v in result.report["refinement"].values() if not isinstance(v, list)], float),
    }


def files_answer(folder: Path, out: Path) -> dict[str, np.ndarray]:
    """The same of what reads and writes files, with numbers as text in as many of them as there are kinds."""
    from mine_reg.images.transforms import read_transform
    from mine_reg.images.writing import write_transform_file
    from mine_reg.pair_tool.files import apply_to_image, apply_to_points, register_files

    register_files(
        folder / "fixed.nrrd", folder / "moving.nrrd", out, inverse=True, weights=folder / "test.safetensors",
        device="cpu", fixed_points=folder / "points.csv", moving_points=folder / "points.csv",
    )  # fmt: skip
    affine = sitk.AffineTransform([1.01, 0.02, 0, 0, 0.99, 0.03, 0, 0, 1.02], [1.5, -2.25, 3.75])
    found = {}
    for name in ("affine.tfm", "affine.mat", "affine.h5", "affine.xfm"):
        write_transform_file(affine, out / name)
        found[name] = np.array(read_transform(out / name).TransformPoint((10.5, -20.25, 30.75)))
    apply_to_points(out / "transform.h5", folder / "points.csv", out / "mapped.csv")
    found["points_mm"] = np.loadtxt(out / "mapped.csv", delimiter=",", skiprows=1)
    for kind in ("nii.gz", "nrrd", "mha", "nii"):
        apply_to_image(out / "affine.tfm", folder / "moving.nrrd", folder / "fixed.nrrd", out / f"moved.{kind}", False)
        with plain_locale():  # what others will read
            moved = sitk.ReadImage(str(out / f"moved.{kind}"))
        found[f"{kind}_hu"] = sitk.GetArrayFromImage(moved)
        found[f"{kind}_mm"] = np.array([*moved.GetSpacing(), *moved.GetOrigin()])
    return found


@contextmanager
def plain_locale():
    before = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "C")
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def snapshot() -> dict:
    """All that a call could change for those who come after it."""
    precisions = (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.cuda.matmul)
    return {
        "locale": locale.setlocale(locale.LC_ALL),
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "precisions": [of.fp32_precision for of in (*precisions, torch.backends.cudnn.conv)],
        "tf32": torch.backends.cudnn.allow_tf32,
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.mkldnn.enabled),
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch random": torch.random.get_rng_state().numpy().tobytes(),
        "numpy random": str(np.random.get_state()),  # noqa: NPY002 - whether it is touched
        "random": random.getstate(),
        "numpy errors": np.geterr(),
        "numpy print": np.get_printoptions(),
        "itk": (sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(), sitk.ProcessObject.GetGlobalWarningDisplay()),
        "itk tolerance": sitk.ProcessObject.GetGlobalDefaultCoordinateTolerance(),
        "environment": dict(os.environ),
        "warnings": [str(rule) for rule in warnings.filters],
        "logging": (logging.getLogger().level, len(logging.getLogger().handlers)),
        "folder": os.getcwd(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr),
        "umask": _umask(),
    }


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def comma_locale(folder: Path) -> str | None:
    """A locale with a decimal comma, made by ``localedef`` where the machine has none; None where there is no such
    program."""
    if shutil.which("localedef"):
        place = folder / "de_DE.UTF-8"
        done = subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", str(place)], capture_output=True, check=False)
        if done.returncode == 0:
            os.environ["LOCPATH"] = str(folder)
    before = locale.setlocale(locale.LC_ALL)
    for name in COMMAS:
        try:
            locale.setlocale(locale.LC_ALL, name)
        except locale.Error:
            continue
        if locale.localeconv()["decimal_point"] == ",":
            locale.setlocale(locale.LC_ALL, before)
            return name
    locale.setlocale(locale.LC_ALL, before)
    return None


def differences(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest of each array; 0 where all is the same."""
    return {name: float(np.abs(found[name].astype(float) - expected[name].astype(float)).max()) for name in expected}


def in_child(folder: str, queue) -> None:
    """The answer of a process that another one has started, and what the call has changed in it."""
    before = snapshot()
    found = answer(Path(folder))
    queue.put(({name: value.tolist() for name, value in found.items()}, changed_since(before)))


def changed_since(before: dict) -> list[str]:
    after = snapshot()
    return [name for name in before if before[name] != after[name]]


def started(folder: Path, method: str, seconds: float = 200) -> tuple[dict, list[str]]:
    """What `in_child` says in a process that is started by ``method``; raises queue.Empty for one that hangs."""
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=in_child, args=(str(folder), queue))
    process.start()
    try:
        found, changed = queue.get(timeout=seconds)
    finally:
        process.kill()
        process.join()
    return {name: np.array(value) for name, value in found.items()}, changed


def first_call(folder: Path, _method: str) -> dict:
    """What the first call in a process changes, with all that is imported for it."""
    before = snapshot()
    answer(folder)
    after = snapshot()
    return {
        "changed": [name for name in before if before[name] != after[name]],
        "environment": sorted(dict(after["environment"].items() - before["environment"].items())),
        "lost rules": [rule for rule in before["warnings"] if rule not in after["warnings"]],
    }


def child_after_parent(folder: Path, method: str) -> dict:
    """What differs in a process that is started after this one has used torch's and ITK's threads."""
    torch.set_num_threads(2)
    expected = answer(folder)
    found, changed = started(folder, method)
    return {"differences": differences(found, expected), "changed": changed}


def child_alone(folder: Path, method: str) -> dict:
    """The same where this one has used torch, and has never heard of mine_reg."""
    torch.set_num_threads(2)
    torch.rand(2000, 2000).clamp(0.1, 0.9).sum()
    assert not any(name.startswith("mine_reg.") for name in sys.modules)
    found, changed = started(folder, method)
    return {"differences": differences(found, answer(folder)), "changed": changed}


if __name__ == "__main__":  # python process_states.py FUNCTION FOLDER METHOD
    print(json.dumps(globals()[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])))
