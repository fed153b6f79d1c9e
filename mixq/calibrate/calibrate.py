"""Calibrate: time this machine's kernels, fit them, and describe the machine as a profile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Final

from mixq.bench.result import Machine as Here
from mixq.calibrate.case import Case
from mixq.calibrate.document import NAME, RUNTIME, Chip, RuntimePart, as_16_bits, written
from mixq.calibrate.fitting import empty_s, fit_all, peaks, points_of, reached, start_kernel
from mixq.calibrate.routine import COARSE_PRODUCTS, FLOAT_ACTIVATIONS, ONNX, TORCH, Routine
from mixq.calibrate.sweep import sweep
from mixq.calibrate.timing import Timed, noise_of, time_cases
from mixq.cost.machine import Machine
from mixq.errors import CalibrationError, UsageError
from mixq.profiles import Kernel, Profile
from mixq.profiles.loader import parse
from mixq.progress import Progress, silent, track

MOST_NOISE: Final = 0.10
"""Spread of rounds beyond which nothing is fitted: predictions are to be right to 12 percent."""
BUDGET_S: Final = 80.0
ROUNDS: Final = 15
RUNTIME_BYTES: Final = 13_000_000
"""As in the shipped profiles: what ONNX Runtime takes whatever the model is."""


@dataclass(frozen=True)
class Suite:
    """What was timed of one runtime.

    Attributes:
        runtime, description: of the profile.
        routines: what to fit, by the keys of the cases.
        timed: its cases, with its own empty call.
        exact: routines of a second runtime, which is predicted and not searched.
        coarse_products: as of `Runtime`.
    """

    runtime: str
    description: str
    routines: Mapping[str, Routine]
    timed: Sequence[Timed]
    exact: Mapping[str, Routine]
    coarse_products: int | None = None


@dataclass(frozen=True)
class Calibrated:
    """A calibrated machine.

    Attributes:
        text: the profile file.
        profile: the same, read back.
        noise: spread of the rounds, relative.
        cases, rounds: what was timed.
        seconds: that it took.
    """

    text: str
    profile: Profile
    noise: float
    cases: int
    rounds: int
    seconds: float


def calibrate(
    threads: int = 1,
    *,
    budget_s: float = BUDGET_S,
    rounds: int = ROUNDS,
    progress: Progress = silent,
) -> Calibrated:
    """Measure this machine with so many threads.

    Args:
        threads: of one call.
        budget_s: time for timing the kernels of ONNX Runtime; those of torch take a fifth of it.
        rounds: of timing, at most.
        progress: is told how far it is.

    Raises:
        UsageError: if there are not that many cores.
        MissingExtraError: without onnx or onnxruntime.
        CalibrationError: if the rounds disagree too much to fit anything.
    """
    from mixq.calibrate.onnx_cases import onnx_cases
    from mixq.calibrate.torch_cases import ON_CPU, torch_cases
    from mixq.export.torch_threads import torch_threads

    cores = os.cpu_count() or 1
    if not 1 <= threads <= cores:
        raise UsageError(
            f"--threads is {threads}, but this machine has {cores} cores; choose 1 to {cores}"
        )
    started = time.perf_counter()
    memory = next(sweep(threads) for _ in track(range(1), "sweeping the memory", 1, progress))
    cases = _loaded(onnx_cases(threads), progress)
    clock = time.process_time if threads == 1 else time.perf_counter
    timed = time_cases(cases, budget_s=budget_s, rounds=rounds, clock=clock, progress=progress)
    description = "ONNX Runtime, CPU execution provider, as mixq exports to it"
    suites = [Suite(RUNTIME, description, ONNX, timed, FLOAT_ACTIVATIONS, COARSE_PRODUCTS)]
    with torch_threads(threads):
        others = time_cases(
            list(torch_cases("cpu", ON_CPU)), budget_s=budget_s / 5, rounds=rounds, clock=clock,
            stage="timing torch", progress=progress,
        )  # fmt: skip
    suites.append(Suite("torch", "torch on the CPU, weights dequantized", TORCH, others, {}))
    model = Here.here().processor
    chip = Chip(model, cores, threads, memory, {}, _source(model))
    return described(
        suites, chip, seconds=lambda: time.perf_counter() - started, progress=progress
    )


def described(
    suites: Sequence[Suite],
    chip: Chip,
    *,
    seconds: Callable[[], float],
    progress: Progress = silent,
) -> Calibrated:
    """The profile that these times give.

    Args:
        suites: by runtime; the first is the profile's default.
        chip: without its rates, which are those that were reached.
        seconds: that have passed.
        progress: is told of the kernels that are fitted.

    Raises:
        CalibrationError: if the rounds disagree too much to fit anything.
    """
    timed = [item for suite in suites for item in suite.timed]
    noise = noise_of(timed)
    check_noise(noise)
    kinds = {r.compute for s in suites for r in (*s.routines.values(), *s.exact.values())}
    blank = replace(chip, core_ops_per_s=dict.fromkeys(kinds, 1e9))
    machine = Machine.of(parse(_text(blank, suites, {}).encode(), origin=NAME))
    memory, rates = chip.memory, dict.fromkeys(kinds, 1e9)
    measured = []
    for suite in suites:
        found = points_of(machine, suite.timed)
        memory = reached(memory, found)
        for kind, rate in peaks(found, {**suite.routines, **suite.exact}).items():
            rates[kind] = max(rates[kind], rate / chip.threads)
        measured.append(found)
    full = replace(chip, memory=memory, core_ops_per_s=rates)
    machine = Machine.of(parse(_text(full, suites, {}).encode(), origin=NAME))
    kernels = {
        suite.runtime: fit_all(
            machine, found, {**suite.routines, **suite.exact}, progress=progress,
            stage=f"fitting kernels of {suite.runtime}",
        )
        for suite, found in zip(suites, measured, strict=True)
    }  # fmt: skip
    text = _text(full, suites, kernels)
    return Calibrated(
        text, parse(text.encode(), origin=NAME), noise, len(timed),
        min(len(item.rounds_s) for item in timed), seconds(),
    )  # fmt: skip


def check_noise(noise: float, limit: float = MOST_NOISE) -> None:
    """Refuse rounds that disagree.

    Raises:
        CalibrationError: with how high the noise is, and what to do.
    """
    if noise > limit:
        raise CalibrationError(
            f"the machine is too noisy to calibrate: the same kernel takes {noise:.0%} more or "
            f"less from round to round, and at most {limit:.0%} is fitted; stop what else runs, "
            "fix the clock rate if you can, and calibrate again"
        )


def _loaded(cases: Iterable[Case], progress: Progress) -> list[Case]:
    found = []
    for case in cases:
        found.append(case)
        progress("loading kernels", len(found), len(found) + 1)
    progress("loading kernels", len(found), len(found))
    return found


def _text(chip: Chip, suites: Sequence[Suite], fitted: Mapping[str, Mapping[str, Kernel]]) -> str:
    """The file; kernels that are not fitted yet stand there with what is assumed."""
    parts = []
    for suite in suites:
        known = fitted.get(suite.runtime)
        if known is None:
            known = {key: start_kernel(routine) for key, routine in suite.routines.items()}
        own = [known[key] for key in suite.routines if key in known]
        own += [
            as_16_bits(known[key])
            for key, routine in suite.routines.items() if routine.also_16 and key in known
        ]  # fmt: skip
        # The table stands for widths without a kernel that dequantizes; none is left.
        usual = known["dequantize 4"]
        dequantize = (max(usual.unpack_s_per_weight, 1e-15), usual.overhead_s)
        call_s = empty_s(suite.timed)
        parts.append(
            RuntimePart(suite.runtime, suite.description, own, call_s, RUNTIME_BYTES, dequantize,
                        suite.coarse_products)
        )  # fmt: skip
        exact = [known[key] for key in suite.exact if key in known]
        if exact:
            parts.append(
                RuntimePart(f"{suite.runtime}-float", "products that keep float activations",
                            exact, call_s, RUNTIME_BYTES, None)
            )  # fmt: skip
    return written(chip, parts)


def _source(model: str) -> str:
    import onnxruntime

    return (
        f"measured: mixq hardware calibrate, {date.today().isoformat()}, {model}, "
        f"onnxruntime {onnxruntime.__version__}"
    )
