"""The same plan, bit for bit, whatever the circumstances; docs/determinism.md is this in words."""

from __future__ import annotations

import json
import locale
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import mixq
from mixq import SearchResult
from mixq.export.torch_threads import torch_threads
from tests import determinism_case
from tests.determinism_case import case, files, found

Files = dict[str, bytes]
CASE = Path(determinism_case.__file__)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


@pytest.fixture(scope="module")
def calm() -> SearchResult:
    """The search that nothing disturbs."""
    return found()


@pytest.fixture(scope="module")
def expected(calm: SearchResult, tmp_path_factory: pytest.TempPathFactory) -> Files:
    written = files(tmp_path_factory.mktemp("calm") / "run", calm)
    assert list(written) == ["plan.json", "plan.weights.safetensors"]
    return written


def in_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return {"folder": "run"}


def in_another_time_zone(monkeypatch: pytest.MonkeyPatch, _: Path) -> dict[str, Any]:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    return {}


def with_other_seeds_around(_: pytest.MonkeyPatch, __: Path) -> dict[str, Any]:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    return {}


def watched(_: pytest.MonkeyPatch, __: Path) -> dict[str, Any]:
    told: list[tuple[str, int, int]] = []
    return {"progress": lambda *step: told.append(step)}


def with_bars(monkeypatch: pytest.MonkeyPatch, _: Path) -> dict[str, Any]:
    monkeypatch.setenv("FORCE_COLOR", "1")
    return {"progress": True}


def in_two_workers(_: pytest.MonkeyPatch, __: Path) -> dict[str, Any]:
    return {"workers": 2}


def asked_in_another_order(_: pytest.MonkeyPatch, __: Path) -> dict[str, Any]:
    return {"bits": (2, 4, 8, 32)}


CIRCUMSTANCES: dict[str, Callable[[pytest.MonkeyPatch, Path], dict[str, Any]]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        in_another_folder,
        in_another_time_zone,
        with_other_seeds_around,
        watched,
        with_bars,
        in_two_workers,
        asked_in_another_order,
    )
}


@pytest.mark.parametrize("circumstance", CIRCUMSTANCES.values(), ids=CIRCUMSTANCES)
def test_the_same_bits_in_this_process(
    expected: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    circumstance: Callable[[pytest.MonkeyPatch, Path], dict[str, Any]],
) -> None:
    arguments = circumstance(monkeypatch, tmp_path)
    try:
        assert files(tmp_path / "written", found(**arguments)) == expected
    finally:
        monkeypatch.undo()
        time.tzset()


ENVIRONMENTS = {
    "another-hash-seed": {"PYTHONHASHSEED": "4242"},
    "ascii-alone": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_the_same_bits_in_another_process(
    expected: Files, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Started elsewhere, with sets in another order, or where text is not UTF-8."""
    root = CASE.parents[1]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [sys.executable, CASE, tmp_path / "run"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment},
        check=True,
        timeout=120,
    )
    assert files(tmp_path / "run") == expected


def test_another_seed_may_find_another_plan_but_not_another_problem(calm: SearchResult) -> None:
    other = found(seed=7, trials=1)
    assert other.plan.seed == 7
    assert other.plan.predicted.weight_bytes <= other.plan.model.original_bytes / 5.5
    assert other.sensitivity.entries.keys() == calm.sensitivity.entries.keys()


# What comes from a profile and from shapes, and from no measurement.
PREDICTED = (
    *("compression", "weight_bytes", "latency_s", "latency_low_s", "latency_high_s", "speedup"),
    *("speedup_low", "speedup_high", "file_bytes", "baseline_latency_s", "peak_memory_bytes"),
)
LAYER = ("kernel", "weight_bytes", "latency_s", "shape", "matrix", "aliases")


@pytest.fixture(scope="module")
def on_two_threads() -> SearchResult:
    with torch_threads(2):
        return found()


def test_threads_of_torch_change_no_prediction(
    calm: SearchResult, on_two_threads: SearchResult
) -> None:
    """The workload's threads are an argument; those that happen to measure are none of it."""
    one, two = calm.plan, on_two_threads.plan
    assert one.hardware == two.hardware
    assert one.workload == two.workload
    assert one.assignment == two.assignment
    for name in PREDICTED:
        assert getattr(one.predicted, name) == getattr(two.predicted, name), name
    for unit, layer in one.layers.items():
        for name in LAYER:
            assert getattr(layer, name) == getattr(two.layers[unit], name), (unit, name)
    assert calm.layout.costs == on_two_threads.layout.costs


def test_threads_of_torch_change_errors_by_rounding_alone(
    calm: SearchResult, on_two_threads: SearchResult
) -> None:
    """Sums in another order are rounded elsewhere.

    An output of size 1 computed in float32 through sums of n terms is off by at most n * 2**-24
    (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1), here of 288 terms at
    the most in five products; and by the triangle inequality the root of a mean squared
    difference moves by no more than both outputs do.
    """
    power = calm.sensitivity.output_power
    most = 2 * 5 * 288 * 2**-24 * math.sqrt(power)
    for unit, row in calm.sensitivity.entries.items():
        for fmt, entry in row.items():
            other = on_two_threads.sensitivity.entries[unit][fmt]
            assert abs(math.sqrt(entry.error) - math.sqrt(other.error)) <= most, (unit, fmt)


@pytest.fixture
def decimal_comma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A German locale, made here, since few machines that run tests have one installed."""
    made = tmp_path / "locales" / "de_DE.UTF-8"
    made.parent.mkdir()
    try:
        subprocess.run(
            ["localedef", "-i", "de_DE", "-f", "UTF-8", made], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("localedef cannot make a German locale here")
    monkeypatch.setenv("LOCPATH", str(made.parent))
    before = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
    assert locale.localeconv()["decimal_point"] == ","
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.mark.usefixtures("decimal_comma")
def test_the_same_bits_where_numbers_have_a_decimal_comma(expected: Files, tmp_path: Path) -> None:
    assert files(tmp_path / "run", found()) == expected


def test_a_run_neither_takes_from_nor_seeds_the_generators_of_the_program() -> None:
    model, inputs = case()
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().clone()  # type: ignore[index]  # noqa: NPY002
    mixq.search(model, inputs, hardware="intel_cpu", target_compression=5.5, trials=1)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_numbers_survive_json_bit_for_bit(calm: SearchResult, expected: Files) -> None:
    """Equal files are equal plans: the shortest decimal of a double is read as that double."""
    read = cast("dict[str, Any]", json.loads(expected["plan.json"]))
    assert read["predicted"]["latency_s"] == calm.plan.predicted.latency_s
    assert [layer["error"] for layer in read["layers"].values()] == [
        layer.error for layer in calm.plan.layers.values()
    ]
