"""Stage: the formats of one item that no other beats, and the convex hull of these."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixq.search.choice import Item

Bytes = NDArray[np.int64]
Errors = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stage:
    """Undominated formats: `kept` positions in `item.formats`, growing bytes, falling errors."""

    kept: Indices
    weight_bytes: Bytes
    errors: Errors

    @classmethod
    def of(cls, item: Item) -> Stage:
        """The stage of an item."""
        kept = undominated(item.weight_bytes, item.errors)
        return cls(kept, item.weight_bytes[kept], item.errors[kept])

    def convex(self) -> list[int]:
        """Positions on the lower convex hull, by growing bytes."""
        corner: list[int] = []
        for new in range(len(self.kept)):
            while len(corner) > 1 and self.rate(corner[-2], corner[-1]) < self.rate(
                corner[-1], new
            ):
                corner.pop()
            corner.append(new)
        return corner

    def rate(self, here: int, there: int) -> float:
        """Error saved per byte added."""
        saved = float(self.errors[here] - self.errors[there])
        return saved / int(self.weight_bytes[there] - self.weight_bytes[here])


def undominated(weight_bytes: Bytes, errors: Errors) -> Indices:
    """Positions of the pairs that no other beats, by growing bytes; the first of equal pairs."""
    order = np.argsort(weight_bytes, kind="stable")
    ordered = errors[order]
    keep = np.ones(len(order), bool)
    keep[1:] = ordered[1:] < np.minimum.accumulate(ordered)[:-1]
    order = order[keep]
    # Of equal bytes, each pair kept so far beats the one before it: only the last stays.
    smallest = weight_bytes[order]
    last = np.ones(len(order), bool)
    last[:-1] = smallest[1:] != smallest[:-1]
    kept: Indices = order[last]
    return kept
