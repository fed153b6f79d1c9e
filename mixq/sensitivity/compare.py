"""Comparison of a quantized model with its original, on data and by metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

import torch
from torch import nn

from mixq.batch import call
from mixq.calibration import Calibration
from mixq.errors import MixqError, ModelError
from mixq.files import one_line
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.metrics.metric import Metric
from mixq.sensitivity.metrics.weighted import Weighted
from mixq.sensitivity.reference import evaluating

Evaluate: TypeAlias = Callable[[nn.Module], Mapping[str, float]]
"""Metrics of a model on labelled data, by name."""


@dataclass(frozen=True)
class Comparison:
    """How far a quantized model is from its original.

    Attributes:
        output_mse: on the calibration samples that a search measures on.
        heldout_output_mse: on those that it holds out; None if there are none.
        metric, original_metric: of the model's own evaluation, empty if it has none.
        error_metric: another metric of output error that was asked for; `mse` if none was.
        error, heldout_error: in it; None if it is `mse`.
        output_power: mean square of the original's outputs on the former samples.
    """

    output_mse: Estimate
    heldout_output_mse: Estimate | None
    metric: Mapping[str, float] = field(default_factory=dict)
    original_metric: Mapping[str, float] = field(default_factory=dict)
    error_metric: str = "mse"
    error: Estimate | None = None
    heldout_error: Estimate | None = None
    output_power: float = 1.0

    def errors(self) -> dict[str, float]:
        """The output errors by name."""
        named = {"output error": self.output_mse.error}
        if self.heldout_output_mse is not None:
            named["held-out output error"] = self.heldout_output_mse.error
        if self.error is not None:
            named[self.error_metric] = self.error.error
        if self.heldout_error is not None:
            named[f"held-out {self.error_metric}"] = self.heldout_error.error
        return named

    def to_json(self) -> dict[str, object]:
        """The comparison as JSON values."""
        heldout = self.heldout_output_mse
        return {
            **asdict(self),
            "output_mse": self.output_mse.to_json(),
            "heldout_output_mse": None if heldout is None else heldout.to_json(),
        }


def compare(
    original: nn.Module,
    quantized: nn.Module,
    calibration: Calibration,
    evaluate: Evaluate | None = None,
    metric: Metric | None = None,
) -> Comparison:
    """Run both models on the same data.

    Args:
        original: as it was.
        quantized: to be compared with it.
        calibration: what both are run on.
        evaluate: metrics of a model on labelled data.
        metric: of output error, beside the mean squared one of the same outputs.

    Raises:
        CalibrationError: if a batch does not fit the model.
        ModelError: if an output holds no floating-point tensor or is not finite, or `evaluate`
            fails or returns anything but finite numbers by name.
    """
    tuning, heldout = calibration.split()
    metric = metric or Weighted()
    error, squares, power = _errors(original, quantized, tuning, metric)
    heldout_error, heldout_squares = None, None
    if heldout is not None:
        heldout_error, heldout_squares, _ = _errors(original, quantized, heldout, metric)
    beside = metric.name != "mse"
    return Comparison(
        output_mse=squares,
        heldout_output_mse=heldout_squares,
        error_metric=metric.name,
        error=error if beside else None,
        heldout_error=heldout_error if beside else None,
        output_power=power,
        metric={} if evaluate is None else judged(evaluate, quantized),
        original_metric={} if evaluate is None else judged(evaluate, original),
    )


def judged(evaluate: Evaluate, model: nn.Module) -> dict[str, float]:
    """The metrics that a user's `evaluate` gives a model in eval mode, without gradients.

    Raises:
        ModelError: if `evaluate` fails or returns anything but finite numbers by name.
    """
    try:
        with evaluating(model):
            metrics: object = evaluate(model)
    except MixqError:
        raise
    except Exception as error:  # a user's code may raise anything; it is reported, not swallowed
        reason = one_line(error) or "no message"
        raise ModelError(
            f"evaluate failed with {type(error).__name__}: {reason}; call it on the model by "
            "itself to debug"
        ) from error
    if not isinstance(metrics, Mapping) or not metrics:
        raise ModelError(
            f"evaluate returns {one_line(repr(metrics), 60)}, but it must return a dict of "
            "numbers by name"
        )
    return {str(name): _finite(str(name), value) for name, value in metrics.items()}


def _finite(name: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]  # numpy and torch scalars are numbers too
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"evaluate gives {one_line(name)} = {one_line(repr(value), 60)}, but metrics must be "
            "numbers"
        ) from error
    if not math.isfinite(number):
        raise ModelError(f"evaluate gives {one_line(name)} = {number}, but metrics must be finite")
    return number


def _errors(
    original: nn.Module, quantized: nn.Module, calibration: Calibration, metric: Metric
) -> tuple[Estimate, Estimate, float]:
    """Errors in the metric, mean squared errors, and the mean square of the original."""
    squares = metric.squares()
    errors: list[float] = []
    squared: list[float] = []
    powers: list[float] = []
    for batch in calibration.batches:
        with evaluating(original):
            reference = metric.pick(call(original, batch))
        with evaluating(quantized):
            outputs = metric.pick(call(quantized, batch))
        squared += squares.errors(outputs, reference, batch).tolist()
        zeros = {name: torch.zeros_like(tensor) for name, tensor in reference.items()}
        powers += squares.errors(reference, zeros, batch).tolist()
        if all(map(math.isfinite, squared)):  # else it is refused, and in the right words
            metric.check(reference, batch)
            errors += metric.errors(outputs, reference, batch).tolist()
    if not all(map(math.isfinite, (*errors, *squared))):
        raise ModelError(
            "an output of the original or of the quantized model is NaN or infinite, so their "
            "difference says nothing; repair the model or choose wider formats"
        )
    return Estimate.of_errors(errors), Estimate.of(squared), Estimate.of(powers).error
