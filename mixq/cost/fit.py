"""Fitting a kernel's parameters to measured seconds: robust, with priors, deterministic.

Minimised over the logarithms of the free parameters:

    sum over points of weight * soft_l1(log(predicted / measured) / noise)
    + sum over free parameters of (log(parameter / centre) / spread)^2

soft_l1 grows linearly, so one wild point cannot drag a kernel; the second sum is a Gaussian prior,
so a parameter that the points say nothing about stays where chips of its kind have it. Any
parameters that this returns are legal in a profile: positive, efficiencies and `fill` at most 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from scipy.optimize import least_squares

from mixq.cost.law import Load, parts
from mixq.cost.machine import Machine
from mixq.errors import UsageError
from mixq.graph.work import Work
from mixq.profiles import Kernel

LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "overhead_s": (1e-12, 1.0),
    "compute_efficiency": (1e-4, 1.0),
    "memory_efficiency": (1e-4, 1.0),
    "unpack_s_per_weight": (1e-18, 1e-6),
    "finish_s_per_output": (1e-18, 1e-6),
    "fill": (1e-3, 1.0),
    "scaling": (0.1, 1.0),
    "scale_weights": (1e-3, 1000.0),
    "sharpness": (1.0, 16.0),
}
"""What may be fitted, and between what; an efficiency above 1 would beat the silicon."""
NOISE: Final = 0.08
"""Residual from which a point counts as an outlier: published figures repeat to a few percent."""
SPREAD_POINTS: Final = 2.0
"""Points that the spread assumed beforehand counts for, against those measured."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What a parameter is expected to be: around `centre`, give or take a factor e^`spread`."""

    centre: float
    spread: float

    def __post_init__(self) -> None:
        """Refuse numbers that have no logarithm.

        Raises:
            UsageError: if one is not positive and finite.
        """
        if not (0 < self.centre < math.inf and 0 < self.spread < math.inf):
            raise UsageError(
                f"prior has centre {self.centre:g} and spread {self.spread:g}; "
                "both must be positive and finite"
            )


GPU_PRIORS: Final[Mapping[str, Prior]] = {
    "overhead_s": Prior(5e-6, 0.5),
    "compute_efficiency": Prior(0.75, 0.3),
    "memory_efficiency": Prior(0.8, 0.25),
}
CPU_PRIORS: Final[Mapping[str, Prior]] = {
    "overhead_s": Prior(4e-6, 0.8),
    "compute_efficiency": Prior(0.75, 0.4),
    "memory_efficiency": Prior(0.8, 0.4),
}


@dataclass(frozen=True, slots=True)
class Point:
    """One measured call.

    Attributes:
        machine: where it ran, with how many threads.
        work: what it computed.
        load: what it moved.
        measured_s: how long it took.
        weight: how much it counts; 1 is one measurement.
    """

    machine: Machine
    work: Work
    load: Load
    measured_s: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse times that have no logarithm.

        Raises:
            UsageError: if the time is not positive and finite, or the weight is negative.
        """
        if not 0 < self.measured_s < math.inf:
            raise UsageError(
                f"measured_s is {self.measured_s:g}; a measured time must be positive and finite"
            )
        if not 0 <= self.weight < math.inf:
            raise UsageError(f"weight of a point is {self.weight:g}; it must be 0 or more")

    def error(self, kernel: Kernel) -> float:
        """log(predicted / measured) with that kernel."""
        predicted_s = parts(self.machine, kernel, self.work, self.load).latency_s
        return math.log(predicted_s / self.measured_s)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A kernel with its numbers, and how well they explain its points.

    Attributes:
        kernel: with the fitted parameters, their spread and the number of points.
        spread: standard deviation of log(measured / predicted), assumed and seen together.
        residuals: log(predicted / measured) of every point, in order.
    """

    kernel: Kernel
    spread: float
    residuals: tuple[float, ...]


def fit_kernel(
    points: Sequence[Point],
    start: Kernel,
    priors: Mapping[str, Prior],
    *,
    noise: float = NOISE,
    spread: float = 0.2,
) -> Fitted:
    """The kernel whose predictions come nearest to the points and stay near the priors.

    Args:
        points: measured calls of this kernel, on one chip or several.
        start: everything about the kernel that is not fitted.
        priors: the free parameters, each a field of `Kernel` named in `LIMITS`, with what is
            expected of it; every other parameter stays as in `start`.
        noise: residual beyond which a point loses influence.
        spread: expected before any point was seen; two points' worth.

    Raises:
        UsageError: if there are no points, or a parameter cannot be fitted.
    """
    if not points:
        raise UsageError(f"kernel {start.name!r} has no points to be fitted to; give at least one")
    for name in priors:
        if name not in LIMITS:
            raise UsageError(
                f"parameter {name[:40]!r} of kernel {start.name!r} cannot be fitted; "
                f"choose from {', '.join(LIMITS)}"
            )

    def kernel_of(parameters: Mapping[str, float]) -> Kernel:
        changes: dict[str, Any] = dict(parameters)
        return replace(start, **changes)

    def errors(parameters: Mapping[str, float]) -> list[float]:
        kernel = kernel_of(parameters)
        return [point.error(kernel) for point in points]

    weights = [point.weight for point in points]
    found = fit_parameters(errors, priors, weights=weights, noise=noise)
    residuals = errors(found)
    shapes = len({(point.work.n, point.work.k) for point in points})
    seen = spread_of(residuals, weights, spread, len(priors), shapes)
    kernel = replace(kernel_of(found), spread=seen, points=len(points))
    return Fitted(kernel=kernel, spread=seen, residuals=tuple(residuals))


def fit_parameters(
    errors: Callable[[Mapping[str, float]], Sequence[float]],
    priors: Mapping[str, Prior],
    *,
    weights: Sequence[float],
    noise: float = NOISE,
    limits: Mapping[str, tuple[float, float]] = LIMITS,
) -> dict[str, float]:
    """Parameters that make `errors`, logarithms of predicted over measured, small.

    For fits that are not of one kernel: several at once, or whole models.

    Args:
        errors: the error of every point for given parameters.
        priors: the parameters and what is expected of them.
        weights: how much every point counts.
        noise: error beyond which a point loses influence.
        limits: between what each parameter lies; without an entry it only is positive.
    """
    names = list(priors)
    if not names:
        return {}
    scale = np.sqrt(np.asarray(weights, dtype=float))
    centres = np.log([priors[name].centre for name in names])
    spreads = np.array([priors[name].spread for name in names])
    bounds = np.log([limits.get(name, (1e-30, 1e30)) for name in names]).T

    def parameters(logarithms: np.ndarray) -> dict[str, float]:
        return {
            name: min(max(math.exp(value), low), high)
            for name, value in zip(names, logarithms, strict=True)
            for low, high in [limits.get(name, (1e-30, 1e30))]
        }

    def residuals(logarithms: np.ndarray) -> np.ndarray:
        off = np.asarray(errors(parameters(logarithms)), dtype=float) / noise
        # soft_l1 as the square of something, so that the priors beside it stay Gaussian.
        robust = np.sign(off) * np.sqrt(2 * (np.sqrt(1 + off**2) - 1))
        return np.concatenate([scale * robust, (logarithms - centres) / spreads])

    margin = 1e-9
    inside = np.clip(centres, bounds[0] + margin, bounds[1] - margin)
    # The law has kinks (whole tiles, cache levels), so steps are wide enough to see over them.
    fit = least_squares(
        residuals,
        inside,
        bounds=(bounds[0], bounds[1]),
        diff_step=np.full(len(names), 1e-4),
        x_scale=0.3,
        max_nfev=60,
    )
    return parameters(fit.x)


def spread_of(
    residuals: Sequence[float],
    weights: Sequence[float],
    expected: float,
    fitted: int,
    shapes: int = 0,
) -> float:
    """Root mean square of what a new point would be off, drawn towards what was expected.

    A residual beyond three times the median's size counts as much as that: the spread is that of
    the many, not of one mistake in a table. Fitted parameters take away as many points. Points of
    one shape err alike, so that few shapes have shown less than their points say: with S of them
    the variance counts 1 + 2/S times. With that, 79% to 92% of the published products of a family
    fell inside their 80% intervals when their shape was left out.

    Args:
        residuals: logarithms of predicted over measured.
        weights: of the points.
        expected: spread before any point was seen; two points' worth.
        fitted: parameters.
        shapes: different matrices among the points; 0 is as many as points.
    """
    sizes = sorted(abs(value) for value in residuals)
    cap = max(4.5 * sizes[len(sizes) // 2], expected)
    total = sum(
        weight * min(abs(value), cap) ** 2
        for weight, value in zip(weights, residuals, strict=True)
    )
    count = sum(weights)
    free = min(fitted, count / 2)
    seen = 1 + 2 / (shapes or len(sizes))
    return math.sqrt((SPREAD_POINTS * expected**2 + total) * seen / (SPREAD_POINTS + count - free))
