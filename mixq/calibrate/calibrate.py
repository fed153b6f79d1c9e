"""Calibrate: time this machine's kernels, fit them, and describe the machine as a profile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from mixq.calibrate.case import Case
from mixq.calibrate.document import NAME, RUNTIME, Chip, RuntimePart, as_16_bits, written
from mixq.calibrate.fitting import empty_s, fit_all, peaks, points_of, reached, start_kernel
from mixq.calibrate.routine import COARSE_PRODUCTS, FLOAT_ACTIVATIONS, ONNX, Routine
from mixq.calibrate.sweep import Memory, sweep
from mixq.calibrate.timing import Timed, noise_of, time_cases
from mixq.cost.machine import Machine
from mixq.errors import CalibrationError, UsageError
from mixq.profiles import Kernel, Profile
from mixq.profiles.loader import parse
from mixq.progress import Progress, silent, track

MOST_NOISE: Final = 0.10
"""Spread of rounds beyond which nothing is fitted: predictions are to be right to 12 percent."""
BUDGET_S: Final = 100.0
ROUNDS: Final = 15
RUNTIME_BYTES: Final = 13_000_000
"""As in the shipped profiles: what ONNX Runtime takes whatever the model is."""


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
        budget_s: time for timing kernels.
        rounds: of timing, at most.
        progress: is told how far it is.

    Raises:
        UsageError: if there are not that many cores.
        MissingExtraError: without onnx or onnxruntime.
        CalibrationError: if the rounds disagree too much to fit anything.
    """
    from mixq.calibrate.onnx_cases import onnx_cases

    cores = os.cpu_count() or 1
    if not 1 <= threads <= cores:
        raise UsageError(
            f"--threads is {threads}, but this machine has {cores} cores; choose 1 to {cores}"
        )
    started = time.perf_counter()
    memory = [sweep(threads) for _ in track(range(1), "sweeping the memory", 1, progress)][0]
    cases = _loaded(onnx_cases(threads), progress)
    clock = time.process_time if threads == 1 else time.perf_counter
    timed = time_cases(cases, budget_s=budget_s, rounds=rounds, clock=clock, progress=progress)
    return described(timed, memory, cores=cores, threads=threads, source=_source(),
                     model=_processor(), started=started, progress=progress)  # fmt: skip


def described(
    timed: Sequence[Timed],
    memory: Memory,
    *,
    cores: int,
    threads: int,
    source: str,
    model: str,
    started: float,
    clock: Callable[[], float] = time.perf_counter,
    progress: Progress = silent,
) -> Calibrated:
    """The profile that these times give.

    Raises:
        CalibrationError: if the rounds disagree too much to fit anything.
    """
    noise = noise_of(timed)
    check_noise(noise)
    routines = {**ONNX, **FLOAT_ACTIVATIONS}
    chip = Chip(model, cores, threads, memory, {"fp32": 1e9, "int8": 1e9}, source)
    machine = Machine.of(_profile(chip, {}, ONNX, 0.0))
    measured = points_of(machine, timed)
    seen = peaks(measured, routines)
    rates = {kind: rate / threads for kind, rate in seen.items()}
    memory = reached(memory, measured)
    chip = Chip(model, cores, threads, memory, {"int8": rates["fp32"], **rates}, source)
    machine = Machine.of(_profile(chip, {}, ONNX, 0.0))
    kernels = fit_all(machine, measured, routines, progress=progress)
    text = _text(chip, kernels, empty_s(timed))
    return Calibrated(
        text, parse(text.encode(), origin=NAME), noise, len(timed), len(timed[0].rounds_s),
        clock() - started,
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


def _profile(chip: Chip, kernels: Mapping[str, Kernel], routines: Mapping[str, Routine],
             call_s: float) -> Profile:  # fmt: skip
    """A profile with peak rates and kernels that are not fitted yet."""
    assumed = {key: kernels.get(key, start_kernel(routine)) for key, routine in routines.items()}
    return parse(_text(chip, assumed, call_s).encode(), origin=NAME)


def _text(chip: Chip, kernels: Mapping[str, Kernel], call_s: float) -> str:
    own = [kernels[key] for key in ONNX if key in kernels]
    own += [as_16_bits(kernels[key]) for key in ONNX if ONNX[key].also_16 and key in kernels]
    # The table stands for widths without a DequantizeLinear of their own; none is left.
    plain = kernels.get("dequantize 4")
    dequantize = (1e-9, 1e-6) if plain is None else (
        max(plain.unpack_s_per_weight, 1e-15), plain.overhead_s)  # fmt: skip
    description = "ONNX Runtime, CPU execution provider, as mixq exports to it"
    runtimes = [
        RuntimePart(RUNTIME, description, own, call_s, RUNTIME_BYTES, dequantize, COARSE_PRODUCTS)
    ]
    floats = [kernels[key] for key in FLOAT_ACTIVATIONS if key in kernels]
    if floats:
        description = "products that keep float activations (--activations float)"
        runtimes.append(
            RuntimePart(f"{RUNTIME}-float", description, floats, call_s, RUNTIME_BYTES, None)
        )
    return written(chip, runtimes)


def _source() -> str:
    import onnxruntime

    return (
        f"measured: mixq hardware calibrate, {date.today().isoformat()}, {_processor()}, "
        f"onnxruntime {onnxruntime.__version__}"
    )


def _processor() -> str:
    from mixq.bench.result import Machine as Here

    return Here.here().processor
