"""Neighbours: the single changes of a plan that another plan within the limits might make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array

from mixq.formats import Format
from mixq.search.exact.silence import silent_stdout
from mixq.search.limits import Limits, Quantity
from mixq.search.problem import Problem
from mixq.sensitivity.around import Change

_linprog: Final[Any] = linprog
"""Its type stubs know no sparse matrices."""
_SCALE: Final = 1e6
"""HiGHS stops at absolute differences of 1e-7."""


def neighbours(
    problem: Problem, assignment: Mapping[str, Format], limits: Limits, most: int
) -> list[Change]:
    """The changes of least reduced cost, at most so many, the most promising first.

    A format's reduced cost is what it adds to error plus price times bytes (and time) above the
    best of its unit; prices are the multipliers of the linear relaxation. What has a high one is
    in no plan that is nearly optimal.

    Args:
        problem: with the errors that are believed.
        assignment: the plan; its own formats are no changes.
        limits: on bytes, latency or both.
        most: how many.
    """
    prices = _prices(problem, limits)
    ranked = []
    for index, item in enumerate(problem.items):
        costs = item.errors.copy()
        for quantity, price in prices.items():
            costs += price * item.values(quantity)
        for fmt, cost in zip(item.formats, (costs - costs.min()).tolist(), strict=True):
            if fmt != assignment[item.units[0]]:
                ranked.append((cost, index, fmt.name, Change(item.units, fmt)))
    ranked.sort(key=lambda row: row[:3])
    return [change for *_, change in ranked[:most]]


def _prices(problem: Problem, limits: Limits) -> dict[Quantity, float]:
    """Error per byte and per second: the duals of the relaxation (Sinha, Zoltners, 1979)."""
    quantities: list[Quantity] = [q for q in limits.given() if q != "error"]
    items = problem.items
    errors = np.concatenate([item.errors for item in items])
    scale = float(errors.max())
    if scale == 0 or not quantities:
        return {}
    owner = np.repeat(np.arange(len(items)), [len(item.formats) for item in items])
    one_each = csr_array((np.ones(len(errors)), (owner, np.arange(len(errors)))))
    rows: list[NDArray[np.float64]] = []
    rooms: list[float] = []
    sizes: list[float] = []
    for quantity in quantities:
        values = np.concatenate([item.values(quantity) for item in items]).astype(float)
        size = float(values.max()) or 1.0
        rows.append(values / size)
        rooms.append(((limits.of(quantity) or 0.0) - problem.other(quantity)) / size)
        sizes.append(size)
    with silent_stdout():
        found = _linprog(
            errors / scale * _SCALE, A_ub=np.array(rows), b_ub=np.array(rooms), A_eq=one_each,
            b_eq=np.ones(len(items)), bounds=(0, None), method="highs",
        )  # fmt: skip
    if found.x is None:  # the limits leave nothing to choose from
        return {}
    return {
        quantity: max(-float(dual), 0.0) * scale / _SCALE / size
        for quantity, dual, size in zip(quantities, found.ineqlin.marginals, sizes, strict=True)
    }
