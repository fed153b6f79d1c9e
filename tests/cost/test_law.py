"""Laws of the time of one call, for kernels that profiles may hold and those that are shipped."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.cost.law import LOOKUP_BITS, Load, parts
from mixq.cost.machine import Machine
from mixq.graph.work import Work
from mixq.profiles import Kernel, Profile, available, load

ROUNDING = 1e-9
"""Roundings of a dozen sums, products and powers."""
law = settings(derandomize=True, deadline=None, max_examples=150)
sizes = st.integers(1, 20000)


@cache
def machines() -> list[tuple[Profile, Machine, Kernel]]:
    """Every measured kernel of every shipped chip."""
    return [
        (profile, Machine(profile, runtime, 1), kernel)
        for profile in map(load, available(published=True))
        for runtime in profile.runtimes.values()
        for kernel in runtime.kernels
        if kernel.points and kernel.origin == profile.name
    ]


measured = st.deferred(lambda: st.sampled_from(machines()))
changes = st.fixed_dictionaries(
    {},
    optional={
        "tile_m": st.sampled_from([1, 16, 64, 128]),
        "tile_n": st.sampled_from([1, 64, 256]),
        "unpack_s_per_weight": st.floats(1e-15, 1e-9),
        "unpack_rows": st.sampled_from([0, 1, 8]),
        "full_columns": st.sampled_from([0, 4096]),
        "fill": st.floats(0, 1),
        "scaling": st.floats(0, 1),
        "scale_weights": st.floats(0, 50),
        "lookup": st.booleans(),
        "sharpness": st.floats(1, 16),
    },
)


def latency_s(
    machine: Machine, kernel: Kernel, m: int, n: int, k: int, bits: float, group: int, loops: bool
) -> float:
    weight_bytes = n * k * (bits / 8 + (2 / group if group else 0))
    activation_bytes = m * k * 2 + m * n * 2
    held = weight_bytes + activation_bytes if loops else None
    load_ = Load(weight_bytes, n * k, activation_bytes, held, group)
    return parts(machine, kernel, Work("gemm", m=m, n=n, k=k), load_).latency_s


shapes = st.fixed_dictionaries(
    {
        "m": sizes,
        "n": sizes,
        "k": sizes,
        "bits": st.sampled_from([1.0, 2.0, 4.0, 8.0, 16.0]),
        "group": st.sampled_from([0, 16, 32, 128]),
        "loops": st.booleans(),
    }
)


def test_there_are_measured_kernels() -> None:
    assert len(machines()) > 100


@law
@given(
    which=measured,
    change=changes,
    shape=shapes,
    grown=st.sampled_from(["m", "n", "k"]),
    more=st.integers(1, 20000),
)
def test_more_work_never_takes_less(
    which: tuple[Profile, Machine, Kernel],
    change: dict[str, Any],
    shape: dict[str, Any],
    grown: str,
    more: int,
) -> None:
    _, machine, kernel = which
    changed = replace(kernel, **change)
    before = latency_s(machine, changed, **shape)
    after = latency_s(machine, changed, **{**shape, grown: shape[grown] + more})
    assert 0 < before <= after * (1 + ROUNDING)


@law
@given(which=measured, change=changes, shape=shapes, more=st.floats(1, 8))
def test_faster_memory_never_takes_longer(
    which: tuple[Profile, Machine, Kernel],
    change: dict[str, Any],
    shape: dict[str, Any],
    more: float,
) -> None:
    profile, machine, kernel = which
    changed = replace(kernel, **change)
    faster = replace(
        profile,
        dram_bytes_per_s=profile.dram_bytes_per_s * more,
        core_dram_bytes_per_s=profile.core_dram_bytes_per_s * more,
        caches=tuple(
            replace(level, core_bytes_per_s=level.core_bytes_per_s * more)
            for level in profile.caches
        ),
    )
    after = latency_s(replace(machine, profile=faster), changed, **shape)
    assert after <= latency_s(machine, changed, **shape) * (1 + ROUNDING)


@law
@given(which=measured, change=changes, shape=shapes, data=st.data())
def test_more_threads_never_take_longer(
    which: tuple[Profile, Machine, Kernel],
    change: dict[str, Any],
    shape: dict[str, Any],
    data: st.DataObject,
) -> None:
    profile, machine, kernel = which
    fewer = data.draw(st.integers(1, profile.cores))
    more = data.draw(st.integers(fewer, profile.cores))
    # Whole waves over one more unit may take longer; whole tiles are a law of one thread count.
    changed = replace(kernel, **{**change, "tile_m": 1, "tile_n": 1})
    before, after = (
        latency_s(replace(machine, threads=threads), changed, **shape) for threads in (fewer, more)
    )
    assert after <= before * (1 + ROUNDING)


@law
@given(which=measured, shape=shapes)
def test_nothing_beats_the_silicon(
    which: tuple[Profile, Machine, Kernel], shape: dict[str, Any]
) -> None:
    profile, machine, kernel = which
    found = latency_s(machine, kernel, **shape)
    saving = LOOKUP_BITS / kernel.bits if kernel.lookup else 1.0
    macs = shape["m"] * shape["n"] * shape["k"]
    assert found >= 2 * macs / machine.ops_per_s(kernel.compute) / saving * (1 - ROUNDING)
    weight_bytes = shape["n"] * shape["k"] * shape["bits"] / 8
    nearest = (
        max(profile.bytes_per_s_holding(0, 1), profile.memory_bytes_per_s(1))
        if shape["loops"]
        else profile.memory_bytes_per_s(1)
    )
    assert found >= weight_bytes / nearest * (1 - ROUNDING)


@law
@given(which=measured, shape=shapes)
def test_fewer_bits_never_take_longer_to_read(
    which: tuple[Profile, Machine, Kernel], shape: dict[str, Any]
) -> None:
    _, machine, kernel = which
    wide = latency_s(machine, kernel, **shape)
    narrow = latency_s(machine, kernel, **{**shape, "bits": shape["bits"] / 2})
    assert narrow <= wide * (1 + ROUNDING)


def terms(load_: Load, work: Work, **changed: Any) -> tuple[float, float]:
    """Seconds of computing and of moving, with the first measured kernel changed."""
    _, machine, kernel = machines()[0]
    found = parts(machine, replace(kernel, unpack_s_per_weight=0.0, **changed), work, load_)
    return found.compute_s, found.memory_s


@pytest.mark.parametrize(
    ("changed", "group", "columns", "compute", "memory"),
    [
        ({"scale_weights": 16.0}, 32, 4096, 1.5, 1.0),
        ({"scale_weights": 16.0}, 0, 4096, 1.0, 1.0),
        ({"full_columns": 4096, "fill": 0.5}, 0, 4096, 1.0, 1.0),
        ({"full_columns": 4096, "fill": 0.5}, 0, 1024, 1.0, 2.0),
        ({"lookup": True, "bits": 2.0}, 0, 4096, 0.5, 1.0),
    ],
    ids=["scales", "no scales", "full columns", "few columns", "look-up"],
)
def test_what_a_parameter_does(
    changed: dict[str, Any], group: int, columns: int, compute: float, memory: float
) -> None:
    work = Work("gemm", m=8, n=columns, k=4096)
    load_ = Load(columns * 4096.0, columns * 4096, 0.0, None, group)
    plain: dict[str, Any] = {"scale_weights": 0.0, "full_columns": 0, "fill": 0.0, "lookup": False}
    was, now = terms(load_, work, **plain), terms(load_, work, **{**plain, **changed})
    assert now[0] == pytest.approx(was[0] * compute, rel=1e-12)
    assert now[1] == pytest.approx(was[1] * memory, rel=1e-12)


def test_what_exceeds_a_cache_comes_from_behind_it() -> None:
    """Three loops over MLAS's packed weights, as the pull request in `law` has them."""
    profile = load("x86_avx512_vnni")
    level = replace(
        profile.caches[-1], size_bytes=33 * 10**6, core_bytes_per_s=490e9, private=False
    )
    chip = replace(
        profile, cores=1, caches=(level,), dram_bytes_per_s=34e9, core_dram_bytes_per_s=34e9
    )
    runtime = next(iter(profile.runtimes.values()))
    kernel = replace(
        runtime.kernels[0], memory_efficiency=1.0, overhead_s=1e-9, compute_efficiency=1.0,
        compute="int8", scaling=1.0, fill=0.0, unpack_s_per_weight=0.0, sharpness=16.0,
    )  # fmt: skip
    chip = replace(chip, core_ops_per_s={"int8": 1e15})
    for weight_bytes, measured_s in ((16.8e6, 34.1e-6), (45.1e6, 415e-6), (121.2e6, 2.67e-3)):
        found = parts(
            Machine(chip, runtime, 1),
            kernel,
            Work("gemm", n=4096, k=4096),
            Load(weight_bytes, 0, 0.0, weight_bytes),
        )
        # Digits of the comment that the numbers come from.
        assert found.memory_s == pytest.approx(measured_s, rel=0.05)
