"""Comparison of a quantized model with its original, on data and by metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from torch import nn

from mixq.calibration import Calibration, call
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.outputs import main_output, squared_error
from mixq.sensitivity.reference import evaluating


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
        return asdict(self)


def compare(
    original: nn.Module,
    quantized: nn.Module,
    calibration: Calibration,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
) -> Comparison:
    """Run both models on the same data.

    Raises:
        CalibrationError: if a batch does not fit the model.
        ModelError: if an output holds no floating-point tensor.
    """
    tuning, heldout = calibration.split()
    return Comparison(
        output_mse=_error(original, quantized, tuning),
        heldout_output_mse=None if heldout is None else _error(original, quantized, heldout),
        metric={} if evaluate is None else dict(evaluate(quantized)),
        original_metric={} if evaluate is None else dict(evaluate(original)),
    )


def _error(original: nn.Module, quantized: nn.Module, calibration: Calibration) -> Estimate:
    errors: list[float] = []
    for batch in calibration.batches:
        with evaluating(original):
            reference = main_output(call(original, batch)).tensor
        with evaluating(quantized):
            output = main_output(call(quantized, batch)).tensor
        errors += squared_error(output, reference, batch).tolist()
    return Estimate.of(errors)
