"""A machine that keeps the law exactly: what is timed there is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mixq.calibrate.case import EMPTY, Case
from mixq.calibrate.document import Chip
from mixq.calibrate.fitting import start_kernel
from mixq.calibrate.routine import Routine
from mixq.calibrate.sweep import Level, Memory
from mixq.calibrate.timing import Timed
from mixq.cost.law import parts
from mixq.cost.machine import Machine
from mixq.profiles import Kernel, load
from mixq.profiles.profile import Cache

EMPTY_S = 5e-6
MEMORY = Memory(
    (Level("L2", 1 << 20, True, 250e9), Level("L3", 32 << 20, False, 120e9)), 50e9, 60e9
)
CHIP = Chip("pretended processor", 4, 1, MEMORY, {}, "measured: a law")


def true_machine() -> Machine:
    """The machine behind the times: the law with rates that calibration is to find."""
    profile = replace(
        load("intel_cpu"),
        core_ops_per_s={"fp32": 300e9, "int8": 1100e9},
        dram_bytes_per_s=60e9,
        core_dram_bytes_per_s=50e9,
        caches=tuple(
            Cache(level.name, level.size_bytes, level.core_bytes_per_s, level.private)
            for level in MEMORY.caches
        ),
    )
    return Machine.of(profile, threads=1)


def true_kernel(routine: Routine) -> Kernel:
    unpack_s = 3e-10 if routine.unpacks and routine.compute != "int8" else 1e-12
    return replace(
        start_kernel(routine), compute_efficiency=0.8, memory_efficiency=0.7, overhead_s=1.5e-6,
        unpack_s_per_weight=unpack_s if routine.unpacks else 0.0, finish_s_per_output=2e-11,
    )  # fmt: skip


def timed_by_law(
    cases: list[Case], routines: Mapping[str, Routine], wobble: Callable[[int], float]
) -> list[Timed]:
    """What a clock would have said of every case in five rounds."""
    machine, found = true_machine(), []
    for case in cases:
        own_s = 0.0
        if case.routine != EMPTY:
            kernel = true_kernel(routines[case.routine])
            own_s = case.calls * parts(machine, kernel, case.work, case.load).latency_s
        rounds = tuple((EMPTY_S + own_s) * wobble(index) for index in range(5))
        found.append(Timed(case, rounds))
    return found


def steady(index: int) -> float:
    """Rounds that agree to two percent."""
    return 1 + 0.01 * (index - 2)
