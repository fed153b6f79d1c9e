"""PlanPoint: one plan as a point of the Pareto plot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from mixq.errors import PlanError

PointKind: TypeAlias = Literal["frontier", "trial", "uniform", "chosen"]
"""What the plan is: on the solved frontier, tried by the study, one width for all, the result."""


@dataclass(frozen=True, slots=True)
class PlanPoint:
    """A plan reduced to what it costs and what it loses.

    Attributes:
        name: what the reader knows the plan by, `trial 12` or `w4g64`.
        weight_bytes: everything stored, as in Plan.
        compression: original bytes over `weight_bytes`.
        error: of the model's outputs, in the search's metric; 0 for the original itself.
        latency_s: one forward pass of the workload.
        measured: whether `error` was measured, rather than added up from the sensitivities.
        detail: one more line for the reader, such as a task metric.

    Raises:
        PlanError: if a number cannot be plotted or the kind is unknown.
    """

    name: str
    kind: PointKind
    weight_bytes: int
    compression: float
    error: float
    latency_s: float
    measured: bool
    detail: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(PointKind):
            raise PlanError(
                f"plan {self.name!r} has kind {self.kind!r}, but it must be one of "
                f"{', '.join(get_args(PointKind))}"
            )
        for field, value, least in (
            ("weight_bytes", self.weight_bytes, "positive"),
            ("compression", self.compression, "positive"),
            ("latency_s", self.latency_s, "positive"),
            ("error", self.error, "zero or positive"),
        ):
            if not math.isfinite(value) or value < 0 or (value == 0 and least == "positive"):
                raise PlanError(
                    f"plan {self.name!r} has {field} {value}, but it must be finite and {least} "
                    "to be plotted; leave out plans that failed"
                )

    @property
    def size_mb(self) -> float:
        """Size in megabytes of 10^6 bytes."""
        return self.weight_bytes / 1e6
