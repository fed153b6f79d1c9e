"""Observers: read activations batch by batch, and name the range that a static quantizer takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, Protocol, final, get_args

import torch
from torch import Tensor

from mixq.activations.clipping import (
    Range,
    divergence_range,
    percentile_range,
    squared_error_range,
)
from mixq.activations.histogram import Histogram, finite_ends
from mixq.activations.input_range import InputRange
from mixq.errors import CalibrationError, UsageError

ObserverName = Literal["minmax", "percentile", "mse", "entropy"]


class Observer(Protocol):
    """Sees activations and proposes a range.

    Duties: memory does not grow with what was seen, and the range depends on the numbers seen,
    not on their order or on how they were cut into batches. It lies within the least and largest
    number seen, stretched to zero.
    """

    def see(self, values: Tensor) -> None:
        """Take floating-point activations of any shape into account; empty ones change nothing.

        Raises:
            CalibrationError: if one is NaN or infinite.
        """
        ...

    def range(self) -> InputRange:
        """The range for what was seen so far.

        Raises:
            CalibrationError: if nothing was.
        """
        ...


@final
class MinMaxObserver:
    """The least and the largest number."""

    def __init__(self) -> None:
        self._ends: tuple[float, float] | None = None

    def see(self, values: Tensor) -> None:
        """See `Observer`."""
        if values.numel() == 0:
            return
        low, high = finite_ends(values.detach().to(torch.float32))
        known = self._ends or (low, high)
        self._ends = (min(low, known[0]), max(high, known[1]))

    def range(self) -> InputRange:
        """See `Observer`."""
        if self._ends is None:
            raise _nothing_seen()
        return InputRange.covering(*self._ends)


@final
class HistogramObserver:
    """A histogram, and a rule that clips it (`mixq.activations.clipping`)."""

    def __init__(self, clip: Callable[[Histogram], Range]) -> None:
        self._clip = clip
        self._histogram = Histogram()

    def see(self, values: Tensor) -> None:
        """See `Observer`."""
        self._histogram.add(values)

    def range(self) -> InputRange:
        """See `Observer`."""
        if self._histogram.total == 0:
            raise _nothing_seen()
        return InputRange.covering(*self._clip(self._histogram))


_CLIPS: Final[dict[str, Callable[[Histogram], Range]]] = {
    "percentile": percentile_range,
    "mse": squared_error_range,
    "entropy": divergence_range,
}


def make_observer(name: ObserverName) -> Observer:
    """A new observer that has seen nothing.

    Raises:
        UsageError: if `name` is none of an observer.
    """
    if name == "minmax":
        return MinMaxObserver()
    if name not in _CLIPS:
        raise UsageError(
            f"observer is {name!r:.40}, but it must be one of {', '.join(get_args(ObserverName))}"
        )
    return HistogramObserver(_CLIPS[name])


def _nothing_seen() -> CalibrationError:
    return CalibrationError(
        "no activations were seen, so there is no range; pass calibration data that reach the "
        "layer"
    )
