"""MetricChoice: which metric of which outputs is asked for, refused early if it makes no sense."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from mixq.errors import UsageError
from mixq.files import one_line

AUTO: Final = "auto"
BUILT_IN: Final = ("mse", "relative", "kl", "cosine")
ALL: Final = "all"

Loss: TypeAlias = Callable[[Any, Any], Any]
"""A user's `loss(outputs, batch)`; see `mixq.sensitivity.metrics.loss`."""
Outputs: TypeAlias = str | Sequence[str] | Mapping[str, float] | None
"""None for the main output, `all`, names, or names with weights."""


@dataclass(frozen=True)
class MetricChoice:
    """What is asked for, before a model says what it returns.

    Attributes:
        metric: `auto`, a built-in metric, a user's loss, or where to find one:
            `package.module:function`.
        outputs: that are compared: None for the main one (for a loss, all), `all`, their names,
            or their weights by name.

    Raises:
        UsageError: if the metric is unknown, or a weight is no share of anything.
    """

    metric: str | Loss = AUTO
    outputs: Outputs = None

    def __post_init__(self) -> None:
        if isinstance(self.metric, str):
            if self.metric not in (AUTO, *BUILT_IN) and ":" not in self.metric:
                raise UsageError(
                    f"--metric is {one_line(repr(self.metric), 60)}, but it must be one of "
                    f"{', '.join((AUTO, *BUILT_IN))}, or package.module:function for a loss"
                )
        elif not callable(self.metric):
            raise UsageError(
                f"metric is a {type(self.metric).__name__}, but it must be a name or a function "
                "loss(outputs, batch)"
            )
        self.weights()

    @property
    def is_loss(self) -> bool:
        """Whether a user's loss is asked for."""
        return not isinstance(self.metric, str) or ":" in self.metric

    def weights(self) -> dict[str, float] | None:
        """Weights by name that add up to 1; None where the outputs are not named.

        Raises:
            UsageError: if there are no names, or a weight is negative, not finite or no number,
                or all are zero.
        """
        if self.outputs is None or self.outputs == ALL:
            return None
        given = self.outputs
        if isinstance(given, str):
            given = [given]
        named = given if isinstance(given, Mapping) else dict.fromkeys(given, 1.0)
        for name, weight in named.items():
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            text = isinstance(name, str) and name != ""
            if not text or not number or not math.isfinite(weight) or weight < 0:
                raise UsageError(
                    f"--outputs weighs {one_line(repr(name), 60)} with "
                    f"{one_line(repr(weight), 40)}, but an output has a name in text and a weight "
                    "that is finite and not negative; leave the weights out for equal ones"
                )
        total = sum(named.values())
        if not 0 < total < math.inf:
            raise UsageError(
                f"--outputs has weights that add up to {total:g}, but their sum must be positive "
                "and finite; leave the weights out for equal ones"
            )
        return {name: weight / total for name, weight in named.items() if weight > 0}
