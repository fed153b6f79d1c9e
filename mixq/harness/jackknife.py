"""Standard errors of any average over documents, and of the difference of two of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

GROUPS: Final = 200
"""Parts that documents are left out in; with fewer documents, each is a part."""

Aggregate: TypeAlias = Callable[[list[Any]], float]


def standard_error(values: Sequence[Any], aggregate: Aggregate) -> float | None:
    """Of `aggregate(values)`; None of fewer than two documents, or where it is no number.

    For a mean it is the usual s / sqrt(n).

    Source: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, section 11.2; in parts
    (delete-d) as in section 11.7.
    """
    return _spread(lambda kept: aggregate([values[i] for i in kept]), len(values))


def difference_error(
    before: Sequence[Any], after: Sequence[Any], aggregate: Aggregate
) -> float | None:
    """Of `aggregate(after) - aggregate(before)`, document by document.

    Both models answer the same documents, so what is hard for one is hard for the other, and the
    difference is known much better than either.

    Args:
        before: values of the documents under one model.
        after: of the same documents, in the same order, under the other.
        aggregate: makes one number of values.
    """
    if len(before) != len(after):
        raise AssertionError("both are of the same documents")

    def changed(kept: Sequence[int]) -> float:
        return aggregate([after[i] for i in kept]) - aggregate([before[i] for i in kept])

    return _spread(changed, len(before))


def _spread(statistic: Callable[[Sequence[int]], float], count: int) -> float | None:
    """The jackknife's standard error of a statistic of chosen documents."""
    parts = min(count, GROUPS)
    if parts < 2:
        return None
    values = []
    for part in range(parts):
        kept = [index for index in range(count) if index % parts != part]
        try:
            values.append(float(statistic(kept)))
        except (ArithmeticError, ValueError):  # an average that these documents do not have
            return None
    mean = math.fsum(values) / parts
    variance = math.fsum((value - mean) ** 2 for value in values) * (parts - 1) / parts
    return math.sqrt(variance) if math.isfinite(variance) else None
