"""What whole models measured elsewhere taught: numbers of groups, and how models differ."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Final, Self

from mixq.predict.efficiency import Group
from mixq.predict.terms import PARAMETERS, Efficiency

UNSEEN: Final = (0.6, 0.5, 0.3, 0.15, 0.0)
"""Added to the spread where nothing, other runtimes, the family, the chip or the kernel was
measured."""
UNKNOWN_SPREAD: Final = 0.25
"""Of a group whose left-out models were too few to say."""


@dataclass(frozen=True, slots=True)
class Known:
    """Numbers for one row.

    Attributes:
        efficiency: of its group.
        spread: standard deviation of log(measured / predicted) of a model that was not measured.
        points: rows behind the numbers.
        depth: circles of the group that were measured: 0 is none, 4 is the row's own kernel.
        offset: log of how much longer this model took elsewhere than its operations say.
    """

    efficiency: Efficiency
    spread: float
    points: int
    depth: int
    offset: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """All groups.

    Attributes:
        circles: name to numbers in the order of `PARAMETERS`, then spread and points.
        offsets: `circle | model` to the log of a factor.
    """

    circles: Mapping[str, tuple[float, ...]]
    offsets: Mapping[str, float]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """What a file holds."""
        circles = {name: tuple(values) for name, values in document["circles"].items()}
        return cls(circles, dict(document["offsets"]))

    def known(self, group: Group, model: str, expected: Efficiency) -> Known:
        """The numbers of the narrowest circle that was measured."""
        depth = sum(name in self.circles for name in group.circles)
        if depth == 0:
            return Known(expected, math.hypot(UNKNOWN_SPREAD, UNSEEN[0]), 0, 0, 0.0)
        values = self.circles[group.circles[depth - 1]]
        count = len(PARAMETERS)
        offset = sum(self.offsets.get(f"{name} | {model}", 0.0) for name in group.shelves)
        return Known(
            efficiency=Efficiency(*values[:count]),
            spread=math.hypot(values[count], UNSEEN[depth]),
            points=int(values[count + 1]),
            depth=depth,
            offset=offset,
        )


@lru_cache(maxsize=1)
def fitted() -> Fitted:
    """The groups that the project measured nothing of but read in public tables."""
    text = resources.files("mixq.predict").joinpath("fitted.json").read_text(encoding="utf-8")
    return Fitted.of(json.loads(text))
