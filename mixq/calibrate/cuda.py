"""CUDA: torch's kernels on a GPU, timed by its own events."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from typing import Any, Final

import torch

from mixq.calibrate.calibrate import BUDGET_S, ROUNDS, Calibrated, Suite, described
from mixq.calibrate.document import Chip
from mixq.calibrate.routine import TORCH_CUDA
from mixq.calibrate.sweep import Level, Memory
from mixq.calibrate.timing import time_cases
from mixq.calibrate.torch_cases import ON_CUDA, Sizes, torch_cases
from mixq.errors import UsageError
from mixq.progress import Progress, silent, track

COPIES: Final = 20


class EventClock:
    """Seconds of the device's own clock: everything that was asked for before is done.

    Args:
        event: makes an event that notes its time; those of torch.cuda.
    """

    def __init__(self, event: Callable[[], Any] | None = None) -> None:
        self._event = event or (lambda: torch.cuda.Event(enable_timing=True))
        self._last = self._noted()
        self._seconds = 0.0

    def __call__(self) -> float:
        """Seconds since the clock was made."""
        now = self._noted()
        # From one event to the next: a long time would lose the microseconds of a short one.
        self._seconds += self._last.elapsed_time(now) / 1e3
        self._last = now
        return self._seconds

    def _noted(self) -> Any:
        event = self._event()
        event.record()
        event.synchronize()
        return event


def calibrate_cuda(
    threads: int = 1,
    *,
    device: str = "cuda",
    sizes: Sizes = ON_CUDA,
    clock: Callable[[], float] | None = None,
    budget_s: float = BUDGET_S,
    rounds: int = ROUNDS,
    progress: Progress = silent,
) -> Calibrated:
    """Measure a GPU: cuBLAS in fp32, fp16 and bf16, tinygemm, and what moves.

    Args:
        threads: 1; a GPU's multiprocessors work together.
        device: as torch names it.
        sizes: what is timed.
        clock: of the device, by default its events.
        budget_s: time for timing kernels.
        rounds: of timing, at most.
        progress: is told how far it is.

    Raises:
        UsageError: if torch finds no such device, or `threads` is not 1.
        CalibrationError: if the rounds disagree too much to fit anything.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"--device is {device}, but torch {torch.__version__} finds no CUDA device here; "
            "leave it out to measure the processor, or install torch for CUDA"
        )
    if threads != 1:
        raise UsageError(f"--threads is {threads}, but a GPU is measured as one; leave it out")
    started = time.perf_counter()
    tick = clock or EventClock()
    memory = next(
        _memory(device, tick) for _ in track(range(1), "sweeping the memory", 1, progress)
    )
    cases = list(torch_cases(device, sizes))
    timed = time_cases(cases, budget_s=budget_s, rounds=rounds, clock=tick, progress=progress)
    keys = {case.routine for case in cases}
    routines = {key: routine for key, routine in TORCH_CUDA.items() if key in keys}
    model = _model(device)
    source = (
        f"measured: mixq hardware calibrate --device {device}, {date.today().isoformat()}, "
        f"{model}, torch {torch.__version__}"
    )
    suites = [Suite("torch", "torch on a GPU", routines, timed, {})]
    chip = Chip(model, 1, 1, memory, {}, source)
    return described(
        suites, chip, seconds=lambda: time.perf_counter() - started, progress=progress
    )


def _memory(device: str, clock: Callable[[], float]) -> Memory:
    """Bandwidth of the second-level cache and of the memory, by copies."""
    cache_bytes = 1 << 20
    if torch.device(device).type == "cuda":
        cache_bytes = int(torch.cuda.get_device_properties(device).L2_cache_size)
    far = _copied_per_s(device, max(8 * cache_bytes, 64 << 20), clock)
    near = max(_copied_per_s(device, cache_bytes // 2, clock), far)
    return Memory((Level("L2", cache_bytes, False, near),), far, far)


def _copied_per_s(device: str, total: int, clock: Callable[[], float]) -> float:
    source = torch.ones(max(total // 8, 1), device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    times = []
    for _ in range(COPIES):
        start = clock()
        target.copy_(source)
        times.append(clock() - start)
    return 8 * source.numel() / max(min(times), 1e-9)


def _model(device: str) -> str:
    is_cuda = torch.device(device).type == "cuda"
    return torch.cuda.get_device_name(device) if is_cuda else device
