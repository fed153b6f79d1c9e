"""Fitting: from timed cases to kernels whose numbers explain them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

from mixq.calibrate.case import EMPTY
from mixq.calibrate.routine import Routine
from mixq.calibrate.sweep import Memory
from mixq.calibrate.timing import Timed
from mixq.cost.fit import Point, Prior, fit_kernel
from mixq.cost.machine import Machine
from mixq.profiles import Kernel
from mixq.progress import Progress, silent, track

LEAST_SHARE: Final = 0.1
"""Of a run that must be the kernel itself: below, the empty call is most of what was timed."""
SHORTEST_S: Final = 2e-7
PRIORS: Final[Mapping[str, Prior]] = {
    "overhead_s": Prior(1e-6, 0.7),
    "compute_efficiency": Prior(0.5, 1.0),
    "memory_efficiency": Prior(0.6, 0.7),
}
"""Wide: what is measured here is to speak for itself."""
UNPACK_S: Final = (2e-11, 1e-9, 1e-8)
"""Per weight: of what was packed for its kernel, and of what a kernel has to arrange first."""
FINISH: Final = Prior(1e-10, 3.0)
"""Of a hundred products or so."""
NOISE: Final = 0.05
"""Residual beyond which a point loses influence; the rounds agree to one or two percent."""
UNKNOWN: Final = 0.7
"""Spread of what was not timed: a factor of two."""
FAR_SHARE: Final = 0.5
"""Of a loop that must lie in its last level, for its time to say how quick that is."""
SPREAD: Final = 0.1
"""Expected of a kernel before any point was seen."""


@dataclass(frozen=True)
class Measured:
    """One case with the time of one of its kernel calls."""

    routine: str
    name: str
    point: Point


def points_of(machine: Machine, timed: Sequence[Timed]) -> list[Measured]:
    """Kernel calls: what a run takes beyond the empty call, shared among its calls.

    What is too short to be told from the empty call is left out.
    """
    idle_s = empty_s(timed)
    found = []
    for item in timed:
        case, taken_s = item.case, item.run_s - idle_s
        if case.routine == EMPTY or taken_s < max(LEAST_SHARE * idle_s, SHORTEST_S):
            continue
        point = Point(machine, case.work, case.load, taken_s / case.calls)
        found.append(Measured(case.routine, case.name, point))
    return found


def empty_s(timed: Sequence[Timed]) -> float:
    """What a call takes that computes nothing."""
    return median(item.run_s for item in timed if item.case.routine == EMPTY)


def peaks(measured: Sequence[Measured], routines: Mapping[str, Routine]) -> dict[str, float]:
    """Highest rate that was seen, in operations per second, by compute type.

    A twentieth above it, so that no kernel is at its limit exactly.
    """
    rates: dict[str, float] = {}
    for item in measured:
        if item.routine in routines:
            kind = routines[item.routine].compute
            rate = 1.05 * 2 * item.point.work.macs / item.point.measured_s
            rates[kind] = max(rates.get(kind, 0.0), rate)
    return rates


def reached(memory: Memory, measured: Sequence[Measured]) -> Memory:
    """The sweep's bandwidths, or what kernels drew of a level where that was more.

    A neighbour may have been busy during the sweep, and no kernel beats the memory.
    """
    levels = [(level.size_bytes, level.private) for level in memory.caches]
    rates = [*(level.core_bytes_per_s for level in memory.caches), memory.core_bytes_per_s]
    drawn = []
    for item in measured:
        load, threads = item.point.load, item.point.machine.threads
        held = load.working_set_bytes or math.inf
        rooms = [size * (threads if private else 1) for size, private in levels]
        level = next((place for place, room in enumerate(rooms) if held <= room), len(rooms))
        moved = load.weight_bytes * item.point.work.repeats or load.activation_bytes
        if level == len(rooms) and not load.weight_bytes:
            continue  # results that the next call reads may have stayed in a cache
        drawn.append((level, held, rooms, moved / item.point.measured_s / threads))
    for level, held, rooms, rate in sorted(drawn, key=lambda item: item[0]):
        rates[level] = max(rates[level], _own_rate(rate, held, rooms[:level], rates))
    for index in reversed(range(len(rates) - 1)):  # the nearer is never the slower
        rates[index] = max(rates[index], rates[index + 1])
    caches = [
        replace(c, core_bytes_per_s=r) for c, r in zip(memory.caches, rates[:-1], strict=True)
    ]
    together = max(memory.bytes_per_s, rates[-1])
    return Memory(tuple(caches), rates[-1], together)


def _own_rate(
    rate: float, held_bytes: float, rooms: Sequence[int], rates: Sequence[float]
) -> float:
    """Bandwidth of the last level of a loop that drew `rate`, nearer levels holding their part.

    The law of `mixq.cost.law` the other way round. A loop barely larger than a cache is as quick
    as that cache, which says nothing of what lies behind it.

    Args:
        rate: bytes per second of the whole loop.
        held_bytes: that it runs over; infinite where all comes from the last level.
        rooms: sizes of the nearer levels.
        rates: their bandwidths, in the same order.
    """
    if math.isinf(held_bytes):
        return rate
    left_s, inner = held_bytes / rate, 0
    for room, nearer in zip(rooms, rates, strict=False):
        left_s -= max(0, room - inner) / nearer
        inner = max(inner, room)
    beyond_bytes = held_bytes - inner
    # Mostly cached, what is left is the noise of both.
    if beyond_bytes < FAR_SHARE * held_bytes or left_s <= 0:
        return 0.0
    return beyond_bytes / left_s


def fit_all(
    machine: Machine,
    measured: Sequence[Measured],
    routines: Mapping[str, Routine],
    *,
    stage: str = "fitting kernels",
    progress: Progress = silent,
) -> dict[str, Kernel]:
    """A kernel for every routine, by its key; assumed where no call was long enough to time.

    Args:
        machine: with the peak rates that were measured.
        measured: kernel calls.
        routines: what to fit.
        stage: in words, for `progress`.
        progress: is told of the routines that are done.
    """
    found = {}
    for key in track(list(routines), stage, len(routines), progress):
        points = [replace(m.point, machine=machine) for m in measured if m.routine == key]
        found[key] = _fit(points, routines[key]) if points else _assumed(routines[key])
    return found


def start_kernel(routine: Routine) -> Kernel:
    """The kernel before any number is known."""
    settings: dict[str, Any] = {
        name: getattr(routine, name)
        for name in ("name", "ops", "bits", "compute", "grids", "group_sizes", "per_channel",
                     "activations", "weights_as", "per_image", "block")
    }  # fmt: skip
    return Kernel(
        **settings, activation_bits=8.0 if routine.compute == "int8" else 32.0,
        compute_efficiency=0.5, memory_efficiency=0.6, overhead_s=1e-6, unpack_s_per_weight=0.0,
        dequantized_slowdown=1.0, least_rows=1, most_rows=2**40, tile_m=1, tile_n=1,
        unpack_rows=0, full_columns=0, fill=0.0, sharpness=4.0, winograd=False, spread=SPREAD,
        points=0,
    )  # fmt: skip


def _assumed(routine: Routine) -> Kernel:
    return replace(start_kernel(routine), spread=UNKNOWN)


def _fit(points: Sequence[Point], routine: Routine) -> Kernel:
    """The tiles and numbers that leave the smallest spread."""
    start = start_kernel(routine)
    choices = itertools.product(
        _priors(points, routine), routine.tiles_m, routine.tiles_n, routine.unpack_rows
    )
    fits = [
        fit_kernel(
            points,
            replace(start, tile_m=tile_m, tile_n=tile_n, unpack_rows=unpack_rows),
            priors, noise=NOISE, spread=SPREAD,
        )
        for priors, tile_m, tile_n, unpack_rows in choices
    ]  # fmt: skip
    return min(fits, key=lambda fit: fit.spread).kernel


def _priors(points: Sequence[Point], routine: Routine) -> list[dict[str, Prior]]:
    """What to expect of a kernel; several where a fit may end in different valleys."""
    priors = dict(PRIORS)
    if len(points) >= 8:
        priors["sharpness"] = Prior(4.0, 0.7)
    if any(point.work.macs for point in points):
        priors["finish_s_per_output"] = FINISH
        starts = UNPACK_S if routine.weights_as == "dequantized" else UNPACK_S[:1]
        return [
            priors | {"unpack_s_per_weight": Prior(centre, 2.0)} if routine.unpacks else priors
            for centre in (starts if routine.unpacks else starts[:1])
        ]
    priors.pop("compute_efficiency")
    if routine.unpacks:
        # What computes nothing else takes about so long for each.
        each = [point.measured_s / max(point.load.weights, 1) for point in points]
        priors["unpack_s_per_weight"] = Prior(0.7 * median(each), 1.0)
    return [priors]
