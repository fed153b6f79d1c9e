"""Audit: whether errors of layers add up, on the plans that were measured, and where they do not.

The search adds the errors of single layers. To second order in the changes that rounding makes,
what a whole plan errs beside that is a sum over pairs of layers, E(u, v) - E(u) - E(v); so the
pairs of the heaviest layers are measured alone, in the otherwise original model.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from mixq.errors import PlanError
from mixq.files import one_line, parse_json, read_bounded, write_json_atomic
from mixq.validation import first_problem

WELL: Final = 0.25
"""Share by which a plan may be off what its layers add up to and still be said to add up."""
LARGEST_FILE: Final = 64 << 20

Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Amount: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class AuditedPlan:
    """A measured plan beside what its layers add up to, on calibration data.

    Attributes:
        name, kind: of its proposal.
        predicted: added errors of its layers.
        measured: with all layers in place.
        measured_se: standard error of that.
    """

    name: str
    kind: str
    weight_bytes: int
    predicted: Amount
    measured: Amount
    measured_se: Amount

    @property
    def ratio(self) -> float | None:
        """Measured over predicted; None where one of them is zero."""
        if self.predicted <= 0 or self.measured <= 0:
            return None
        return self.measured / self.predicted


@dataclass(frozen=True)
class Interaction:
    """Two layers of the chosen plan, measured alone and together on the same samples.

    Attributes:
        first, second: names of the units, in the order of the model.
        apart: sum of the errors of each alone.
        together: error of both.
        excess: together - apart.
        excess_se: standard error of the excess, from paired samples.
    """

    first: str
    second: str
    apart: Number
    together: Number
    excess: Number
    excess_se: Amount


@dataclass(frozen=True)
class Audit:
    """Whether errors add up; `audit.json` is exactly this.

    Attributes:
        metric: that errors are in.
        chosen: name of the chosen plan.
        plans: all that were measured.
        samples: that interactions were measured on.
        layers: whose pairs were measured, the heaviest first.
        interactions: the largest excess first.
    """

    metric: str
    chosen: str
    plans: tuple[AuditedPlan, ...]
    samples: Annotated[int, Field(ge=0)]
    layers: tuple[str, ...]
    interactions: tuple[Interaction, ...]
    schema_version: Literal[1] = 1

    def __post_init__(self) -> None:
        if all(plan.name != self.chosen for plan in self.plans):
            raise ValueError(f"the chosen plan {self.chosen!r:.60} is none of the plans")
        for pair in self.interactions:
            if not {pair.first, pair.second} <= set(self.layers):
                raise ValueError(f"{pair.first!r:.60} x {pair.second!r:.60} is of other layers")

    @property
    def plan(self) -> AuditedPlan:
        """The chosen one."""
        return next(plan for plan in self.plans if plan.name == self.chosen)

    @property
    def largest(self) -> Interaction | None:
        """The largest interaction that is more than two standard errors from none."""
        told = (pair for pair in self.interactions if abs(pair.excess) > 2 * pair.excess_se)
        return next(told, None)

    @property
    def sentence(self) -> str:
        """What was found, in one line."""
        plan, ratio = self.plan, self.plan.ratio
        if ratio is None:
            return "nothing to say of how errors add up: the plan or its layers err by nothing"
        off = max(ratio, 1 / ratio) - 1
        figures = f"({plan.measured:.3g} measured, {plan.predicted:.3g} added)"
        if off <= WELL:
            said = f"errors add up within {math.ceil(off * 100)}% {figures}"
        else:
            said = f"the plan errs {ratio:.2g} times what its layers add up to {figures}"
        pair = self.largest
        if pair is None:
            told = "no interaction of two layers that the samples tell" if self.layers else ""
            return f"{said}; {told}" if told else said
        share = f"{pair.excess / plan.predicted:+.1%}"
        names = f"{one_line(pair.first, 80)} x {one_line(pair.second, 80)}"
        return f"{said}; largest interaction {names}, {share} of the added error"

    def to_json(self) -> dict[str, Any]:
        """The audit as JSON values."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json_atomic(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Audit:
        """Read `audit.json`.

        Raises:
            PlanError: if the file is missing, truncated or breaks a rule.
        """
        text = read_bounded(path, LARGEST_FILE, PlanError, "audit")
        parse_json(text, PlanError, f"audit {path}")
        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            raise PlanError(f"audit {path}: {first_problem(error)}") from error
