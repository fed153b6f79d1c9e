"""Peak memory as a limit of its own: units add to it what they take, not what is stored."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import InfeasibleError
from mixq.formats import Format
from mixq.search.budget import Budget, check_feasible
from mixq.search.choice import Choice
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.solve import solve

W8, W4, W2 = (Format.parse(name) for name in ("w8", "w4", "w2"))


def problem(memory: tuple[int | None, int | None]) -> Problem:
    """Four bits are smaller in the file, and take as much memory as is said."""
    choices = (Choice(W8, 1.0, 80, 1e-3, memory[0]), Choice(W4, 2.0, 40, 1e-3, memory[1]))
    return Problem(
        {"a": choices, "b": choices}, original_bytes=1000, other_bytes=10, constant_memory_bytes=5
    )


def test_memory_that_is_bytes_and_a_constant_is_a_limit_on_bytes() -> None:
    plain = problem((None, None))
    assert plain.memory_is_bytes
    assert Budget(max_memory_bytes=100).limits(plain) == Limits(weight_bytes=95)


def test_other_memory_is_a_limit_of_its_own() -> None:
    own = problem((90, 200))
    assert not own.memory_is_bytes
    limits = Budget(max_memory_bytes=195).limits(own)
    assert limits == Limits(peak_memory_bytes=195)
    assert limits.objective == "error"
    totals = own.evaluate({"a": W8, "b": W4})
    assert (totals.weight_bytes, totals.peak_memory_bytes) == (130, 10 + 5 + 90 + 200)


def test_a_smaller_file_may_need_more_memory() -> None:
    # A format without kernel is dequantized on every pass: smaller, and more memory.
    own = problem((90, 200))
    found = solve(own, Budget(compression=1000 / 140, max_memory_bytes=305).limits(own))
    assert sorted(fmt.bits for fmt in found.assignment.values()) == [4, 8]
    with pytest.raises(
        InfeasibleError, match="cannot be met; the feasible ranges are --max-memory-mb"
    ):
        check_feasible(own, Budget(max_memory_bytes=194))
    with pytest.raises(InfeasibleError, match="peak memory is at least"):
        check_feasible(own, Budget(max_memory_bytes=200, compression=1000 / 100))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    def choices() -> tuple[Choice, ...]:
        return tuple(
            Choice(
                fmt,
                draw(st.integers(0, 16)) / 4,
                draw(st.integers(1, 50)),
                1e-3,
                draw(st.integers(1, 99)),
            )
            for fmt in (W8, W4, W2)[: draw(st.integers(1, 3))]
        )

    units = {f"u{i}": choices() for i in range(draw(st.integers(1, 4)))}
    return Problem(units, original_bytes=1000, other_bytes=3, constant_memory_bytes=7)


@settings(max_examples=60)
@given(problems(), st.integers(1, 400))
def test_the_optimum_is_that_of_brute_force(own: Problem, most: int) -> None:
    limits = Limits(peak_memory_bytes=most)
    best = math.inf
    for chosen in itertools.product(*own.choices.values()):
        totals = own.evaluate(dict(zip(own.choices, (c.format for c in chosen), strict=True)))
        if limits.allow(totals):
            best = min(best, totals.error)
    if best == math.inf:
        with pytest.raises(InfeasibleError):
            solve(own, limits)
        return
    found = solve(own, limits)
    assert found.totals.error == best
    assert found.totals.peak_memory_bytes <= most
