"""Calibration finds the numbers of a machine that keeps the law, and refuses one that wavers."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median
from typing import get_args

import networkx as nx
import pytest

from mixq.calibrate.calibrate import (
    MOST_NOISE,
    Calibrated,
    Suite,
    calibrate,
    check_noise,
    described,
)
from mixq.calibrate.case import EMPTY, Case
from mixq.calibrate.fitting import points_of
from mixq.calibrate.routine import COARSE_PRODUCTS, FLOAT_ACTIVATIONS, ONNX
from mixq.calibrate.timing import Timed
from mixq.cost.build import build_cost_table
from mixq.cost.kernels import price, weight_matrix
from mixq.cost.machine import Machine
from mixq.errors import CalibrationError, UsageError
from mixq.export.onnx.kernel import kernels, usual_kernel
from mixq.formats import Format
from mixq.graph.model_graph import ModelGraph
from mixq.graph.units import WeightUnit
from mixq.graph.work import OpKind, Work
from mixq.profiles import Profile, load
from mixq.testing.profile import ProfileContract
from tests.calibrate.law import (
    CHIP,
    EMPTY_S,
    steady,
    timed_by_law,
    true_kernel,
    true_machine,
)

ROUTINES = {**ONNX, **FLOAT_ACTIVATIONS}


def test_every_routine_has_cases_and_every_case_a_routine(cases: list[Case]) -> None:
    assert {case.routine for case in cases} == {EMPTY, *ROUTINES}


def test_rows_from_one_to_two_thousand(cases: list[Case]) -> None:
    rows = {case.work.m for case in cases if case.routine == "MatMul"}
    assert (min(rows), max(rows)) == (1, 2000)


@pytest.mark.parametrize("key", ROUTINES)
def test_the_law_is_found_again(key: str, cases: list[Case], profile: Profile) -> None:
    timed = timed_by_law(cases, ROUTINES, steady)
    kernel = next(
        kernel
        for runtime in profile.runtimes.values()
        for kernel in runtime.kernels
        if kernel.name == ROUTINES[key].name and kernel.bits == ROUTINES[key].bits
    )
    own = [m.point for m in points_of(Machine.of(profile), timed) if m.routine == key]
    errors = [abs(point.error(kernel)) for point in own]
    # Fitted numbers are drawn to their priors, and few points leave some of them open.
    assert median(errors) < 0.05
    assert kernel.points == len(own) > 0


def test_the_bandwidths_are_found_again(profile: Profile) -> None:
    """A loop barely larger than a cache is quick; that is not the next level's doing."""
    found = [level.core_bytes_per_s for level in profile.caches]
    assert found == pytest.approx(
        [level.core_bytes_per_s for level in CHIP.memory.caches], rel=0.01
    )
    assert profile.core_dram_bytes_per_s == pytest.approx(CHIP.memory.core_bytes_per_s, rel=0.01)


def test_the_file_is_read_back(calibrated: Calibrated, tmp_path: object) -> None:
    profile = calibrated.profile
    assert profile.name == "host"
    assert profile.default_runtime == "onnxruntime"
    assert profile.default_threads == CHIP.threads
    assert profile.runtime().searchable
    assert not profile.runtime("onnxruntime-float").searchable
    assert profile.runtime().call_overhead_s == pytest.approx(EMPTY_S, rel=1e-3)
    assert profile.runtime().coarse_products == COARSE_PRODUCTS
    assert "measured: a law" in calibrated.text


def test_peak_rates_are_above_what_was_reached(profile: Profile) -> None:
    true = true_machine()
    for kind in ("fp32", "int8"):
        reached = 0.8 * true.ops_per_s(kind)
        assert 0.5 * reached < profile.core_ops_per_s[kind] < 1.06 * reached


class TestHost(ProfileContract):
    """The laws of every profile hold for a fitted one."""

    source = ""

    @pytest.fixture(autouse=True)
    def _fitted(self, profile: Profile) -> None:
        self.__dict__["profile"] = profile


@pytest.mark.parametrize("kind", get_args(OpKind))
@pytest.mark.parametrize("name", ["w32", "w16", "w8g64", "w4g64-zp", "w2g64-zp", "w8a8-dynamic"])
def test_every_operation_has_a_price(kind: OpKind, name: str, profile: Profile) -> None:
    work = Work(kind, 16, 64, 64, input_bytes=4096, output_bytes=4096)
    call = price(Machine.of(profile), work, Format.parse(name), weight_matrix(work))
    assert 0 < call.latency_s < math.inf
    assert call.name


def test_noise_is_refused_in_one_line(cases: list[Case]) -> None:
    timed = timed_by_law(cases, ROUTINES, lambda index: 1 + 0.2 * index)
    suite = Suite("onnxruntime", "", ONNX, timed, {})
    with pytest.raises(
        CalibrationError, match=r"too noisy.*\d+% more or less.*at most 10%"
    ) as found:
        described([suite], CHIP, seconds=lambda: 0.0)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("noise", "is_fitted"), [(0.0, True), (MOST_NOISE, True), (0.101, False)])
def test_where_noise_is_refused(noise: float, is_fitted: bool) -> None:
    if is_fitted:
        check_noise(noise)
    else:
        with pytest.raises(CalibrationError):
            check_noise(noise)


def test_noise_of_a_case_is_a_standard_deviation(cases: list[Case]) -> None:
    # The quartiles of a normal distribution lie 0.6745 deviations from its middle.
    quartile = 0.6745 * 0.1
    timed = Timed(cases[0], (0.5, 1 - quartile, 1.0, 1 + quartile, 9.0))
    assert timed.noise == pytest.approx(0.1, rel=2e-3)


def test_too_many_threads_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--threads is 100000, but this machine has \d+ cores"):
        calibrate(100_000)


def test_no_profile_names_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("empty")))
    with pytest.raises(Exception, match="run mixq hardware calibrate") as found:
        load("host")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("group", [16, 32, 48, 64, 96, 128, 160, 200, 256, None])
@pytest.mark.parametrize("fine", [False, True], ids=["coarse", "fine"])
def test_the_exporters_kernel_is_priced(
    bits: int, group: int | None, fine: bool, profile: Profile
) -> None:
    fmt = Format(bits, group, "zero-point")
    work = Work("gemm", 64, 512, 4096, input_bytes=4096, output_bytes=4096)
    call = price(Machine.of(profile), work, fmt, (512, 4096), fine=fine)
    usual = usual_kernel(fmt, 4096)
    if usual is None or not usual.rounds:
        assert call.kernel is None
        return
    blocks = [kernel.block for kernel in kernels(fmt, 4096) if kernel.rounds]
    assert call.kernel is not None
    # A block of 256 is timed as one of 128.
    assert call.kernel.block == min(min(blocks) if fine else usual.block, 128)


def test_the_empty_call_is_taken_off(cases: list[Case]) -> None:
    machine = true_machine()
    measured = points_of(machine, timed_by_law(cases, ROUTINES, steady))
    assert len(measured) > 300
    for item in measured:
        kernel = true_kernel(ROUTINES[item.routine])
        assert item.point.error(kernel) == pytest.approx(0, abs=1e-9)


def convolution_price(profile: Profile, batch: int, m: int, images: int) -> float:
    work = Work("conv", m, 1, 25, 96, input_bytes=384 * batch * m, output_bytes=384 * batch * m,
                window=(5, 5))  # fmt: skip
    own = replace(work, m=m * batch)
    fmt = Format.parse("w4g64-zp")
    return price(Machine.of(profile), own, fmt, (96, 25), images=images).latency_s


def test_samples_of_a_convolution_are_taken_one_by_one(profile: Profile) -> None:
    """What is arranged anew for every sample is paid for every sample."""
    one_by_one = convolution_price(profile, 16, 49, images=16)
    at_once = convolution_price(profile, 16, 49, images=1)
    assert one_by_one > 1.05 * at_once
    assert convolution_price(profile, 1, 49, images=1) < at_once


def graph_of(products: int) -> ModelGraph:
    work = Work("gemm", 64, 512, 512, input_bytes=4 * 64 * 512, output_bytes=4 * 64 * 512)
    units = [
        WeightUnit(f"{index}", (512, 512), 512, 512, 4, "Linear", work=(work,))
        for index in range(products)
    ]
    digraph: nx.DiGraph[str] = nx.DiGraph()
    for unit in units:
        digraph.add_node(unit.name, work=work, units=(unit.name,), op="aten.mm.default")
    weights = 512 * 512 * products
    return ModelGraph(digraph, {unit.name: unit for unit in units}, weights, 4 * weights, 0, 4096,
                      1, "dispatch")  # fmt: skip


@pytest.mark.parametrize(("products", "block"), [(COARSE_PRODUCTS, 64), (COARSE_PRODUCTS + 1, 16)])
def test_many_products_are_rounded_finely(products: int, block: int, profile: Profile) -> None:
    fmt = Format.parse("w4g64-zp")
    graph = graph_of(products)
    table = build_cost_table(graph, dict.fromkeys(graph.units, (fmt,)), profile)
    assert table.cost("0", fmt).kernel == f"MatMulNBits 4-bit, blocks of {block}"


@pytest.mark.parametrize("parallel", [False, True])
def test_branches_overlap_where_the_runtime_says_so(parallel: bool, profile: Profile) -> None:
    graph, fmt = graph_of(3), Format.parse("w4g64-zp")
    graph.digraph.add_edge("0", "2")  # 1 runs beside both
    runtime = replace(profile.runtime(), parallel=parallel)
    own = replace(profile, runtimes={**profile.runtimes, runtime.name: runtime})
    table = build_cost_table(graph, dict.fromkeys(graph.units, (fmt,)), own)
    hidden = table.cost("1", fmt).latency_s
    assert (hidden == 0) is parallel
    assert table.cost("0", fmt).latency_s > 0
