"""Relaxation: the allocation problem with fractions of formats, solved for many errors in turn.

The linear program of the multiple-choice knapsack (Sinha, Zoltners, "The multiple-choice knapsack
problem", Operations Research 27(3), 1979): all units but as many as there are limits take one
format whole. Plans under the same limits are then compared without what the sizes of single units
add by chance, and without a search tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from mixq.formats import Format
from mixq.search.exact.silence import silent_stdout
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.race.draws import Vector

FEW_ITEMS: Final = 24
"""Up to here, items are not divided."""


class Relaxation:
    """The choices of a problem as columns of a linear program.

    Attributes:
        columns: units and the format that they take together, of each column.
    """

    def __init__(self, problem: Problem) -> None:
        self.columns: list[tuple[tuple[str, ...], Format]] = [
            (item.units, fmt) for item in problem.items for fmt in item.formats
        ]
        self._problem = problem
        rows = np.repeat(np.arange(len(problem.items)), [len(i.formats) for i in problem.items])
        places = (rows, np.arange(len(self.columns)))
        self._one_each = csr_array((np.ones(len(self.columns)), places))

    def errors(self, errors: Mapping[tuple[str, Format], float]) -> Vector:
        """Error of each column, shape (columns,), from those of single units."""
        return np.array([sum(errors[unit, fmt] for unit in units) for units, fmt in self.columns])

    def solve(
        self,
        errors: Vector,
        limits: Limits,
        *,
        whole: bool | None = None,
        counted: Vector | None = None,
        most: float = 0.0,
    ) -> Vector | None:
        """The share of each column, shape (columns,), that makes the error least.

        None if HiGHS finds no solution within the limits on bytes and latency.

        Args:
            errors: of each column, of any sign.
            limits: on bytes and latency.
            whole: whether shares are 0 or 1; by default with few items, where fractions of one
                would be much of the whole.
            counted: what each column adds to a count.
            most: limit of the count.
        """
        constraints = [LinearConstraint(self._one_each, 1, 1)]
        for quantity in limits.given():
            if quantity != "error":
                values = np.concatenate([item.values(quantity) for item in self._problem.items])
                room = (limits.of(quantity) or 0.0) - self._problem.other(quantity)
                scale = max(float(values.max()), 1e-300)  # HiGHS' tolerances are absolute
                constraints.append(LinearConstraint(values / scale, -np.inf, room / scale))
        if counted is not None:
            constraints.append(LinearConstraint(counted, -np.inf, most))
        # HiGHS stops at absolute differences of 1e-7.
        scale = float(np.abs(errors).max()) / 1e6 or 1.0
        if whole is None:
            whole = len(self._problem.items) <= FEW_ITEMS
        with silent_stdout():
            result = milp(
                errors / scale,
                integrality=np.full(len(errors), int(whole)),
                constraints=constraints,
                bounds=Bounds(0, 1),
            )
        return None if result.x is None else np.asarray(result.x)
