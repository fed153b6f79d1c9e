"""Comparison of a quantized model with its original, on data and by metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

from torch import nn

from mixq.batch import call
from mixq.calibration import Calibration
from mixq.errors import MixqError, ModelError
from mixq.files import one_line
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.outputs import main_output, squared_error
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
    """

    output_mse: Estimate
    heldout_output_mse: Estimate | None
    metric: Mapping[str, float] = field(default_factory=dict)
    original_metric: Mapping[str, float] = field(default_factory=dict)

    def errors(self) -> dict[str, float]:
        """The output errors by name."""
        named = {"output error": self.output_mse.error}
        if self.heldout_output_mse is not None:
            named["held-out output error"] = self.heldout_output_mse.error
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
) -> Comparison:
    """Run both models on the same data.

    Raises:
        CalibrationError: if a batch does not fit the model.
        ModelError: if an output holds no floating-point tensor or is not finite, or `evaluate`
            fails or returns anything but finite numbers by name.
    """
    tuning, heldout = calibration.split()
    return Comparison(
        output_mse=_error(original, quantized, tuning),
        heldout_output_mse=None if heldout is None else _error(original, quantized, heldout),
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


def _error(original: nn.Module, quantized: nn.Module, calibration: Calibration) -> Estimate:
    errors: list[float] = []
    for batch in calibration.batches:
        with evaluating(original):
            reference = main_output(call(original, batch)).tensor
        with evaluating(quantized):
            output = main_output(call(quantized, batch)).tensor
        errors += squared_error(output, reference, batch).tolist()
    if not all(map(math.isfinite, errors)):
        raise ModelError(
            "an output of the original or of the quantized model is NaN or infinite, so their "
            "difference says nothing; repair the model or choose wider formats"
        )
    return Estimate.of(errors)
