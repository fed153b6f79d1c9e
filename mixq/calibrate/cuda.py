"""CUDA: torch's kernels on a GPU."""

from __future__ import annotations

from mixq.calibrate.calibrate import Calibrated
from mixq.errors import UsageError
from mixq.progress import Progress, silent


def calibrate_cuda(threads: int = 1, *, progress: Progress = silent) -> Calibrated:
    """Measure the first GPU.

    Raises:
        UsageError: without one.
    """
    raise UsageError("--device is cuda, but torch sees no CUDA device")
