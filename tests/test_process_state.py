"""Whatever a process has set before it registers a pair, the answer is the same, and what it has set stays.

Each situation is set, a pair is registered, refined and evaluated, and the answer is held against that of a process
that has set nothing: to the last bit, but for the number of threads, with which sums are rounded otherwise.
"""

import json
import locale
import os
import random
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import process_states
import pytest
import SimpleITK as sitk
import torch
from process_states import answer, changed_since, comma_locale, differences, files_answer, prepare, snapshot

import mine_reg
from mine_reg.evaluation.paper import before_registration
from mine_reg.images.itk_state import decimal_point
from mine_reg.images.reading import read_image
from mine_reg.pairs.check import check_manifest
from mine_reg.pairs.manifest import read_manifest
from mine_reg.pairs.preprocess import preprocess
from mine_reg.storage.borrowing import Borrowed, one_openmp_thread, one_torch_thread
from mine_reg.storage.parallel import in_parallel
from mine_reg.synthetic.pair_sets import make_phantom_pairs

# of other numbers of threads; measured after 30 steps of refinement: 1e-5 mm
ROUNDING = {"field_mm": 1e-4, "moved_hu": 1, "report": 1e-5, "refinement": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The pair and the networks, in files."""
    folder = tmp_path_factory.mktemp("pair")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """The answer of a process that has set nothing."""
    return answer(folder)


@contextmanager
def put(setting, value, before):
    setting(value)
    try:
        yield
    finally:
        setting(before)


def precision(of, value):
    return put(lambda new: setattr(of, "fp32_precision", new), value, of.fp32_precision)


@contextmanager
def errors_from_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextmanager
def other_random_numbers():
    states = torch.random.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    torch.manual_seed(77), np.random.seed(77), random.seed(77)  # noqa: NPY002
    try:
        yield
    finally:
        torch.random.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


ITK = sitk.ProcessObject
STATES = {  # what goes together, so that a few registrations do
    "another type, another device": (
        lambda: put(torch.set_default_dtype, torch.float64, torch.float32),
        lambda: put(torch.set_default_device, "meta", None),
        lambda: np.errstate(all="raise"),
        other_random_numbers,
    ),
    "inference in half precision": (
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        errors_from_warnings,
        lambda: put(ITK.SetGlobalDefaultNumberOfThreads, 3, ITK.GetGlobalDefaultNumberOfThreads()),
    ),
    "no gradients, products in half precision": (
        torch.no_grad,
        lambda: torch.device("meta"),
        lambda: put(torch.set_float32_matmul_precision, "medium", "highest"),
        lambda: put(torch.use_deterministic_algorithms, True, False),
    ),
    "convolutions and all new tensors in half precision": (
        lambda: put(torch.set_default_dtype, torch.bfloat16, torch.float32),
        lambda: precision(torch.backends.mkldnn.conv, "bf16"),
        lambda: put(ITK.SetGlobalWarningDisplay, False, True),
    ),
    "all of torch in lower precision": (lambda: precision(torch.backends, "tf32"),),
}


@pytest.mark.parametrize("state", STATES)
def test_the_answer_is_the_same_and_the_state_stays(folder, alone, state):
    with ExitStack() as stack:
        for setting in STATES[state]:
            stack.enter_context(setting())
        before = snapshot()
        found = answer(folder)
        assert changed_since(before) == []
    assert differences(found, alone) == dict.fromkeys(alone, 0)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_the_answer_by_rounding_alone(folder, alone, threads):
    with put(torch.set_num_threads, threads, torch.get_num_threads()):
        before = snapshot()
        found = answer(folder)
        assert changed_since(before) == []
    assert all(value <= ROUNDING[name] for name, value in differences(found, alone).items())


def test_lower_precision_would_be_seen(folder):
    """Else the states above would show nothing: unprotected, images become bfloat16 on the way, which NumPy lacks."""
    unprotected = mine_reg.register.__wrapped__
    images = folder / "fixed.nrrd", folder / "moving.nrrd"
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match="BFloat16"):
        unprotected(*images, folder / "test.safetensors", device="cpu")


def test_two_at_once_give_the_answers_of_lone_ones_and_so_does_another_thread(folder, alone):
    before = snapshot()
    with ThreadPoolExecutor(2) as both:
        at_once = list(both.map(answer, [folder] * 3))
    assert changed_since(before) == []
    for found in at_once:
        assert differences(found, alone) == dict.fromkeys(alone, 0)


@pytest.fixture
def with_comma(tmp_path):
    """A process whose numbers have a decimal comma."""
    before, path = locale.setlocale(locale.LC_ALL), os.environ.get("LOCPATH")
    name = comma_locale(tmp_path)
    if name is None:
        pytest.skip("this machine has no locale with a decimal comma, nor localedef to make one")
    locale.setlocale(locale.LC_ALL, name)
    assert locale.localeconv()["decimal_point"] == ","
    yield
    locale.setlocale(locale.LC_ALL, before)
    if path is None:
        os.environ.pop("LOCPATH", None)


def test_a_decimal_comma_changes_nothing_that_is_read_or_written(folder, tmp_path, with_comma):
    comma = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "C")
    expected = files_answer(folder, tmp_path / "point")
    locale.setlocale(locale.LC_ALL, comma)
    before = snapshot()
    found = files_answer(folder, tmp_path / "comma")
    assert changed_since(before) == []
    assert differences(found, expected) == dict.fromkeys(expected, 0)
    report = (tmp_path / "comma/report.json").read_text(encoding="utf-8")
    assert json.loads(report)["working_spacing_mm"] == pytest.approx(2.5, abs=1)


def test_itk_alone_would_misread_numbers_under_a_decimal_comma(folder, with_comma):
    assert sitk.ReadImage(str(folder / "fixed.nrrd")).GetSpacing()[1] == 7  # silently
    assert read_image(folder / "fixed.nrrd").GetSpacing()[1] == 7.25
    with decimal_point():
        assert sitk.ReadImage(str(folder / "fixed.nrrd")).GetSpacing()[1] == 7.25
    assert locale.localeconv()["decimal_point"] == ","


def test_relative_paths_are_those_of_the_folder_of_the_moment(folder, tmp_path, monkeypatch):
    points = []
    for name, weights in (("one", "midiceregnet"), ("two", "test"), ("one", "midiceregnet")):
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        source = folder / "test.safetensors"
        if weights == "midiceregnet":
            source = Path(mine_reg.__file__).parent / "shipped_weights/midiceregnet.safetensors"
        (place / "weights.safetensors").write_bytes(source.read_bytes())
        for image in ("fixed", "moving"):
            (place / f"{image}.nrrd").write_bytes((folder / f"{image}.nrrd").read_bytes())
        monkeypatch.chdir(place)
        result = mine_reg.register("fixed.nrrd", "moving.nrrd", "weights.safetensors", device="cpu")
        assert os.getcwd() == str(place)
        points.append(result.transform.TransformPoint((10.0, -20.0, 30.0)))
    assert points[0] == points[2] != points[1]


def in_a_process(function: str, folder: Path, method: str = "") -> dict:
    done = subprocess.run(
        [sys.executable, process_states.__file__, function, str(folder), method],
        env=os.environ | {"OMP_WAIT_POLICY": "passive"}, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_first_call_changes_nothing_either(folder):
    found = in_a_process("first_call", folder)
    # rules about warnings, and where torch's compiler keeps its files, come with the packages that are imported
    assert set(found["changed"]) <= {"environment", "warnings"}
    assert found["environment"] in ([], ["TORCHINDUCTOR_CACHE_DIR"]) and found["lost rules"] == []


@pytest.mark.parametrize(
    ("function", "method"),
    [("child_after_parent", "fork"), ("child_alone", "fork"), ("child_after_parent", "spawn")]
    + [("child_after_parent", "forkserver")],
)
def test_a_process_started_in_any_way_answers_like_its_parent(folder, function, method):
    found = in_a_process(function, folder, method)
    assert all(value <= ROUNDING[name] for name, value in found["differences"].items())
    assert set(found["changed"]) <= {"environment", "warnings"}


def test_one_worker_in_the_calling_process_gives_threads_and_environment_back(tmp_path):
    split = {"train": 1, "validation": 1, "test": 1}
    how = {"size": [24] * 3, "spacing_mm": 13.0, "window_hu": [-1000, 500], "start": "scanner", "seed": 0}
    with ExitStack() as stack:
        stack.enter_context(put(torch.set_num_threads, 2, torch.get_num_threads()))
        stack.enter_context(
            put(ITK.SetGlobalDefaultNumberOfThreads, 2, ITK.GetGlobalDefaultNumberOfThreads()),
        )
        make_phantom_pairs(tmp_path / "raw", 3, (24, 24, 24), 13.0, 3, workers=1)  # imports what it needs
        before = snapshot()
        make_phantom_pairs(tmp_path / "raw", 3, (24, 24, 24), 13.0, 3, workers=1)
        assert check_manifest(tmp_path / "raw/manifest.csv", workers=1)[1] == []
        preprocess(read_manifest(tmp_path / "raw/manifest.csv"), tmp_path / "pairs", split=split, workers=1, **how)
        assert len(before_registration(tmp_path / "pairs", workers=1)) == 6
        threads = lambda: (os.environ["OMP_NUM_THREADS"], torch.get_num_threads())  # noqa: E731
        assert [*in_parallel({"name": (threads,)}, workers=1)] == [("name", ("1", 1))]
        assert changed_since(before) == []


def test_what_is_borrowed_is_given_back_once_by_the_last(monkeypatch):
    setting = {"value": "theirs"}
    borrowed = Borrowed(lambda: setting["value"], lambda value: setting.update(value=value), "ours")
    with borrowed:
        with borrowed:
            assert setting["value"] == "ours"
        assert setting["value"] == "ours"
    assert setting["value"] == "theirs"
    with borrowed:
        setting["value"] = "new"  # somebody else's wish, meanwhile
    assert setting["value"] == "new"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with one_openmp_thread, one_torch_thread():
        assert os.environ["OMP_NUM_THREADS"] == "1" and torch.get_num_threads() == 1
    assert "OMP_NUM_THREADS" not in os.environ
