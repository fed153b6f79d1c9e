"""Small problems whose plans can all be listed, and effects made by a formula."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

from hypothesis import strategies as st

from mixq.formats import Format
from mixq.search.choice import Choice
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.refine.effects import Effects
from mixq.sensitivity.around import Change

W32, W8, W4, W2 = Format(32), Format(8, 64), Format(4, 64), Format(2, 64)
FORMATS = (W32, W8, W4, W2)
Assignment = Mapping[str, Format]


@st.composite
def problems(draw: st.DrawFn, units: int = 4) -> Problem:
    choices = {}
    for index in range(draw(st.integers(2, units))):
        weights = draw(st.integers(1, 30))
        harm = draw(st.floats(0.1, 10))
        choices[f"u{index}"] = tuple(
            Choice(
                fmt,
                0.0 if fmt.bits == 32 else harm * 4.0**-fmt.bits * draw(st.floats(0.5, 2)),
                weights * fmt.bits,
                weights * 1e-6 * draw(st.integers(1, 5)),
            )
            for fmt in FORMATS
        )
    return Problem(choices, original_bytes=32 * 1_000)


@st.composite
def limited(draw: st.DrawFn) -> tuple[Problem, Limits]:
    """A problem and a number of bytes that some plan has."""
    problem = draw(problems())
    low = problem.extreme("weight_bytes").weight_bytes
    high = problem.extreme("weight_bytes", largest=True).weight_bytes
    return problem, Limits(weight_bytes=draw(st.integers(low, high)))


def plans(problem: Problem) -> Iterator[dict[str, Format]]:
    """All of them."""
    rows = [[choice.format for choice in row] for row in problem.choices.values()]
    for formats in itertools.product(*rows):
        yield dict(zip(problem.choices, formats, strict=True))


def effects_of(
    problem: Problem, assignment: Assignment, error: Callable[[Assignment], tuple[float, ...]]
) -> Effects:
    """Of every single change of a plan, by a formula for whole plans."""
    changes = [
        Change((unit,), choice.format)
        for unit, row in problem.choices.items()
        for choice in row
        if choice.format != assignment[unit]
    ]
    return Effects(
        assignment,
        error(assignment),
        {c: error({**assignment, c.units[0]: c.format}) for c in changes},
    )
