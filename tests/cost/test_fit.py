"""Fits find what made the points, shrug off a bad one, and lean on the prior where told little."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.cost.fit import LIMITS, Point, Prior, fit_kernel, fit_parameters, spread_of
from mixq.cost.law import Load, parts
from mixq.cost.machine import Machine
from mixq.errors import UsageError
from mixq.graph.work import Work
from mixq.profiles import Kernel, load

MACHINE = Machine.of(load("nvidia_a100"))
START = next(kernel for kernel in MACHINE.runtime.kernels if kernel.name == "cuBLAS fp16")
TRUE: dict[str, Any] = {"overhead_s": 7e-6, "compute_efficiency": 0.6, "memory_efficiency": 0.7}
PRIORS = {
    "overhead_s": Prior(5e-6, 1.0),
    "compute_efficiency": Prior(0.75, 1.0),
    "memory_efficiency": Prior(0.8, 1.0),
}
SHAPES = [
    (m, n, k) for m in (1, 64, 512, 8192) for n, k in ((512, 512), (4096, 4096), (11008, 4096))
]


def call(m: int, n: int, k: int) -> tuple[Work, Load]:
    work = Work("gemm", m=m, n=n, k=k)
    return work, Load(weight_bytes=2 * n * k, weights=n * k, activation_bytes=2 * m * (n + k))


def measured(kernel: Kernel, m: int, n: int, k: int, factor: float = 1.0) -> Point:
    work, moved = call(m, n, k)
    return Point(MACHINE, work, moved, factor * parts(MACHINE, kernel, work, moved).latency_s)


TRUTH = replace(START, **TRUE)
POINTS = [measured(TRUTH, *shape) for shape in SHAPES]


def test_finds_the_parameters_that_made_the_points() -> None:
    fitted = fit_kernel(POINTS, START, PRIORS)
    for name, value in TRUE.items():
        # The prior pulls by at most its gradient over twelve points' weight at noise 8%.
        assert getattr(fitted.kernel, name) == pytest.approx(value, rel=0.01)
    assert max(map(abs, fitted.residuals)) < 0.01
    assert fitted.kernel.points == len(POINTS)
    assert fitted.kernel.spread == fitted.spread


def test_one_wild_point_moves_little() -> None:
    wild = [*POINTS[1:], replace(POINTS[0], measured_s=POINTS[0].measured_s * 20)]
    fitted = fit_kernel(wild, START, PRIORS)
    assert fitted.kernel.compute_efficiency == pytest.approx(0.6, rel=0.03)
    assert fitted.kernel.memory_efficiency == pytest.approx(0.7, rel=0.1)
    assert fitted.residuals[-1] < -2


def test_one_point_leaves_what_it_says_nothing_about_at_the_prior() -> None:
    fitted = fit_kernel([POINTS[-1]], START, PRIORS)
    assert fitted.kernel.compute_efficiency == pytest.approx(0.6, rel=0.02)
    assert fitted.kernel.overhead_s == pytest.approx(5e-6, rel=0.05)
    assert fitted.spread > 0.1


def test_a_narrow_prior_holds() -> None:
    narrow = {"compute_efficiency": Prior(0.75, 1e-4)}
    assert fit_kernel(POINTS, START, narrow).kernel.compute_efficiency == pytest.approx(
        0.75, rel=1e-3
    )


def test_what_has_no_prior_is_not_fitted() -> None:
    fitted = fit_kernel(POINTS, START, {"overhead_s": PRIORS["overhead_s"]})
    assert fitted.kernel.compute_efficiency == START.compute_efficiency
    assert fitted.kernel.overhead_s != START.overhead_s


def test_is_deterministic() -> None:
    assert fit_kernel(POINTS, START, PRIORS) == fit_kernel(POINTS, START, PRIORS)


def test_weights_count_points() -> None:
    first, second = measured(TRUTH, 8192, 4096, 4096), measured(TRUTH, 8192, 4096, 4096, 1.05)
    twice = fit_kernel([first, first, second], START, PRIORS).kernel.compute_efficiency
    weighted = fit_kernel([replace(first, weight=2.0), second], START, PRIORS)
    assert weighted.kernel.compute_efficiency == pytest.approx(twice, rel=1e-4)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    factors=st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=4),
    centre=st.floats(1e-3, 1e3),
)
def test_any_measurement_gives_legal_parameters(factors: list[float], centre: float) -> None:
    points = [
        replace(point, measured_s=point.measured_s * factor)
        for point, factor in zip(POINTS, factors, strict=False)
    ]
    priors = {name: Prior(prior.centre * centre, prior.spread) for name, prior in PRIORS.items()}
    kernel = fit_kernel(points, START, priors).kernel
    for name in PRIORS:
        low, high = LIMITS[name]
        assert low <= getattr(kernel, name) <= high
        assert getattr(kernel, name) <= 1
    assert 0 < kernel.spread < math.inf


def test_parameters_of_anything() -> None:
    found = fit_parameters(
        lambda values: [math.log(values["scale"] / 3)] * 9,
        {"scale": Prior(1.0, 2.0)},
        weights=[1] * 9,
    )
    assert found["scale"] == pytest.approx(3, rel=0.01)


def test_spread_is_that_of_the_many() -> None:
    many = [0.05, -0.05] * 20
    assert spread_of([*many, 3.0], [1.0] * 41, 0.1, 3) < 0.1
    assert spread_of([0.0], [1.0], 0.3, 3) > 0.2


def test_points_of_few_shapes_say_less() -> None:
    off = [0.05, -0.05] * 4
    wide, narrow = (spread_of(off, [1.0] * 8, 0.1, 3, shapes) for shapes in (1, 8))
    assert wide == pytest.approx(narrow * math.sqrt(3 / 1.25), rel=1e-12)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: fit_kernel([], START, PRIORS), "no points"),
        (lambda: fit_kernel(POINTS, START, {"tile_m": Prior(1, 1)}), "'tile_m'"),
        (lambda: Prior(0, 1), "centre 0"),
        (lambda: Prior(1, math.nan), "spread nan"),
        (lambda: replace(POINTS[0], measured_s=0.0), "measured_s is 0"),
        (lambda: replace(POINTS[0], measured_s=math.inf), "measured_s is inf"),
        (lambda: replace(POINTS[0], weight=-1.0), "is -1"),
    ],
)
def test_refusals_are_one_line(refused, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=message) as caught:
        refused()
    assert "\n" not in str(caught.value)
