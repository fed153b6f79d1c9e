from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import InfeasibleError
from mixq.formats import Format
from mixq.search.choice import Choice
from mixq.search.exact import fill, program
from mixq.search.exact.stage import undominated
from mixq.search.frontier import Frontier, build_frontier
from mixq.search.problem import Problem

FORMATS = (Format(2), Format(4), Format(8), Format(16), Format(32))
LAWS = settings(derandomize=True, deadline=None, max_examples=200)

DYADIC = st.integers(0, 64).map(lambda n: n / 16)
"""Sums of these are exact in floating point."""
ANY_SIZE = st.floats(-12, 12).map(lambda exponent: 10.0**exponent)


@st.composite
def problems(draw: st.DrawFn, errors: st.SearchStrategy[float], max_bytes: int = 40) -> Problem:
    choices = {
        f"u{unit}": tuple(
            Choice(fmt, draw(errors), draw(st.integers(1, max_bytes)), 0.0)
            for fmt in FORMATS[: draw(st.integers(1, 4))]
        )
        for unit in range(draw(st.integers(1, 6)))
    }
    return Problem(choices, original_bytes=1000, other_bytes=draw(st.integers(0, 9)))


def every_total(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and errors of all assignments that keep the ties."""
    totals = []
    for chosen in itertools.product(*problem.choices.values()):
        formats = {u: c.format for u, c in zip(problem.choices, chosen, strict=True)}
        if all(len({formats[unit] for unit in tie}) == 1 for tie in problem.ties):
            size = problem.other_bytes + sum(c.weight_bytes for c in chosen)
            totals.append((size, math.fsum(c.error for c in chosen)))
    sizes, errors = zip(*totals, strict=True)
    return np.array(sizes), np.array(errors)


def units_of(sizes: list[list[int]], seed: int) -> Problem:
    """Units of the given bytes at 2, 4, 8 and 32 bits whose errors fall fourfold per bit."""
    rng = np.random.default_rng(seed)
    formats = (Format(2), Format(4), Format(8), Format(32))
    choices = {}
    for unit, row in enumerate(sizes):
        scale = math.exp(rng.normal(0, 1.5))
        errors = [scale * 4.0**-f.bits * math.exp(rng.normal(0, 0.5)) for f in formats[:3]]
        choices[f"u{unit}"] = tuple(
            Choice(fmt, error, size, 0.0)
            for fmt, error, size in zip(formats, [*errors, 0.0], row, strict=True)
        )
    return Problem(choices, original_bytes=sum(row[-1] for row in sizes) + 10, other_bytes=10)


def check_laws(frontier: Frontier, every: int = 1) -> None:
    assert (np.diff(frontier.weight_bytes) > 0).all()
    assert (np.diff(frontier.errors) < 0).all()
    for index in range(0, len(frontier), every):
        totals = frontier.problem.evaluate(frontier.assignment(index))
        point = frontier.point(index)
        assert (totals.weight_bytes, totals.error) == (point.weight_bytes, point.error)


@LAWS
@given(problems(DYADIC))
def test_equals_brute_force_at_every_budget(problem: Problem) -> None:
    frontier = build_frontier(problem)
    sizes, errors = every_total(problem)
    assert frontier.exact
    check_laws(frontier)
    for budget in range(sizes.min(), sizes.max() + 2):
        least = errors[sizes <= budget].min()
        fewest = sizes[(sizes <= budget) & (errors == least)].min()
        point = frontier.best_under(budget)
        assert (point.error, point.weight_bytes) == (least, fewest)
        assert frontier.gap_under(budget) == 0
    with pytest.raises(InfeasibleError):
        frontier.best_under(int(sizes.min()) - 1)


@LAWS
@given(problems(DYADIC))
def test_equals_brute_force_at_every_error(problem: Problem) -> None:
    frontier = build_frontier(problem)
    sizes, errors = every_total(problem)
    for limit in np.unique(errors):
        fewest = sizes[errors <= limit].min()
        least = errors[(errors <= limit) & (sizes == fewest)].min()
        point = frontier.smallest_with(limit)
        assert (point.weight_bytes, point.error) == (fewest, least)
    with pytest.raises(InfeasibleError):
        frontier.smallest_with(math.nextafter(errors.min(), -math.inf))


@LAWS
@given(problems(ANY_SIZE, max_bytes=10**12))
def test_errors_of_any_magnitude_and_huge_bytes(problem: Problem) -> None:
    frontier = build_frontier(problem)
    sizes, errors = every_total(problem)
    check_laws(frontier)
    # Partial sums are rounded once per unit, on either side of a comparison.
    rounding = 2 * len(problem.choices) * 2.0**-53
    for budget in np.unique(sizes):
        least = errors[sizes <= budget].min()
        assert least <= frontier.best_under(budget).error <= least * (1 + rounding)


@LAWS
@given(problems(DYADIC), st.data())
def test_ties_equal_brute_force_and_are_kept(problem: Problem, data: st.DataObject) -> None:
    # Format(2) comes first everywhere, so every tie has a common format.
    tie = data.draw(st.lists(st.sampled_from(sorted(problem.choices)), max_size=3))
    tied = problem.tied([tie])
    frontier = build_frontier(tied)
    sizes, errors = every_total(tied)
    check_laws(frontier)
    for budget in np.unique(sizes):
        assert frontier.best_under(budget).error == errors[sizes <= budget].min()
        index = frontier.best_under(budget).index
        assert len({frontier.assignment(index)[unit] for unit in tie}) <= 1


@LAWS
@given(problems(DYADIC), st.data())
def test_pinning_never_improves(problem: Problem, data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from(sorted(problem.choices)))
    bits = data.draw(st.sampled_from([c.format.bits for c in problem.choices[unit]]))
    free, pinned = build_frontier(problem), build_frontier(problem.pinned({unit: bits}))
    for size, error in zip(pinned.weight_bytes, pinned.errors, strict=True):
        assert free.best_under(size).error <= error


@LAWS
@given(problems(ANY_SIZE), st.randoms(use_true_random=False))
def test_names_and_order_of_units_change_nothing(problem: Problem, random: object) -> None:
    units = list(problem.choices)
    random.shuffle(units)  # type: ignore[attr-defined]
    relabelled: Mapping[str, tuple[Choice, ...]] = {
        f"v{index}": problem.choices[unit][::-1] for index, unit in enumerate(units)
    }
    ours, theirs = build_frontier(problem), build_frontier(replace(problem, choices=relabelled))
    assert ours.weight_bytes.tolist() == theirs.weight_bytes.tolist()
    assert ours.errors.tolist() == theirs.errors.tolist()


@LAWS
@given(problems(DYADIC), st.integers(1, 300))
def test_hull_bounds_the_truth(problem: Problem, extra: int) -> None:
    hull, truth = build_frontier(problem, max_states=0), build_frontier(problem)
    assert not hull.exact
    check_laws(hull)
    assert hull.point(0) == truth.point(0)
    assert hull.point(-1).error == truth.point(-1).error
    budget = hull.point(0).weight_bytes + extra
    best = truth.best_under(budget).error
    # One rounding each of share, difference, product and sum.
    assert hull.lower_bound(budget) <= best + 4 * 2.0**-52 * hull.point(0).error
    assert best <= hull.best_under(budget).error
    for index in range(len(hull)):
        point = hull.point(index)
        assert truth.best_under(point.weight_bytes).error == point.error


def sized(*pairs: tuple[int, float]) -> tuple[Choice, ...]:
    """Choices of the given (bytes, error)."""
    formats = FORMATS[: len(pairs)]
    return tuple(Choice(f, e, b, 0.0) for f, (b, e) in zip(formats, pairs, strict=True))


ONE_CHOICE = (Choice(Format(4), 0.5, 10, 0.0),)


@pytest.mark.parametrize(
    ("choices", "points"),
    [
        ({"a": ONE_CHOICE}, [(10, 0.5)]),
        ({"a": ONE_CHOICE, "b": ONE_CHOICE}, [(20, 1.0)]),
        (
            {"a": sized((1, 2.0), (2, 1.0), (3, 0.0))},
            [(1, 2.0), (2, 1.0), (3, 0.0)],
        ),
        ({"a": sized((9, 0.0), (5, 0.0), (7, 0.0))}, [(5, 0.0)]),
        ({"a": sized((5, 0.25), (5, 0.25), (5, 0.25))}, [(5, 0.25)]),
        (
            dict.fromkeys("abc", sized((1, 1.0), (2, 0.0))),
            [(3, 3.0), (4, 2.0), (5, 1.0), (6, 0.0)],
        ),
        (
            {"a": sized((2**50, 1e-300), (2**50 + 1, 0.0))},
            [(2**50, 1e-300), (2**50 + 1, 0.0)],
        ),
    ],
    ids=["one-of-one", "single-choices", "one-unit", "zero-errors", "identical", "twins", "huge"],
)  # fmt: skip
def test_small_frontiers(
    choices: dict[str, tuple[Choice, ...]], points: list[tuple[int, float]]
) -> None:
    frontier = build_frontier(Problem(choices, original_bytes=100))
    found = list(zip(frontier.weight_bytes.tolist(), frontier.errors.tolist(), strict=True))
    assert found == points


def test_of_identical_choices_the_first_name_is_taken() -> None:
    choices = tuple(Choice(fmt, 0.25, 5, 0.0) for fmt in (Format(8), Format(4), Format(2)))
    frontier = build_frontier(Problem({"a": choices}, original_bytes=100))
    assert frontier.assignment(0) == {"a": Format(2)}


def test_of_equal_choices_the_faster_is_taken() -> None:
    choices = (Choice(Format(2), 0.25, 5, 2.0), Choice(Format(4), 0.25, 5, 1.0))
    frontier = build_frontier(Problem({"a": choices}, original_bytes=100))
    assert frontier.assignment(0) == {"a": Format(4)}


def test_fifty_units_of_distinct_sizes() -> None:
    rng = np.random.default_rng(0)
    weights = (np.exp(rng.uniform(6, 14, 50))).astype(int).tolist()
    problem = units_of([[w // 4 + 64, w // 2 + 64, w + 64, 4 * w + 64] for w in weights], seed=0)
    frontier = build_frontier(problem)
    assert frontier.exact
    assert len(frontier) > 1000
    check_laws(frontier, every=97)


def test_two_hundred_transformer_units() -> None:
    shapes = [(384, 384)] * 4 + [(1536, 384), (384, 1536)]
    sizes = [[n * m // d + n * m // 32 for d in (4, 2, 1)] + [4 * n * m] for n, m in shapes]
    frontier = build_frontier(units_of(sizes * 35, seed=1))
    assert frontier.exact
    check_laws(frontier, every=499)


@LAWS
@given(problems(st.sampled_from([0.1, 0.2, 0.3, 0.6, 0.7])))
def test_sums_that_differ_by_rounding_alone_are_one_point(problem: Problem) -> None:
    # 0.1 + 0.2 + 0.3 depends on the order; the frontier must agree with `evaluate`.
    check_laws(build_frontier(problem))


@pytest.mark.parametrize("max_states", [0, 10**6], ids=["curve", "exact"])
@LAWS
@given(problems(st.sampled_from([0.1, 0.2, 0.3, 0.6, 0.7, 1e-17])), st.data())
def test_rounded_sums_of_tied_units_are_summed_afresh(
    max_states: int, problem: Problem, data: st.DataObject
) -> None:
    tie = data.draw(st.lists(st.sampled_from(sorted(problem.choices)), max_size=4))
    check_laws(build_frontier(problem.tied([tie]), max_states=max_states))


def test_lower_bound_of_a_hull_is_the_line_between_its_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fill, "MOST_GAP", 1.0)
    hull = build_frontier(
        Problem({"a": sized((1, 2.0), (5, 0.0))}, original_bytes=9), max_states=0
    )
    bounds = [hull.lower_bound(budget) for budget in range(1, 7)]
    assert bounds == [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]
    assert [hull.gap_under(budget) for budget in (1, 3, 5)] == [0.0, 0.5, 0.0]
    assert hull.gaps.tolist() == [0.75, 0.0]


def test_sums_that_would_not_fit_in_memory_are_known_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = units_of([[n, 2 * n, 4 * n, 16 * n] for n in range(1_000, 1_060)], seed=2)
    items = []

    def counted(sizes: np.ndarray, errors: np.ndarray) -> np.ndarray:
        items.append(len(sizes))
        return undominated(sizes, errors)

    monkeypatch.setattr(program, "undominated", counted)
    assert build_frontier(problem).exact
    assert len(items) == 60
    items.clear()
    monkeypatch.setattr(program, "MAX_STORED", 10_000)
    assert not build_frontier(problem).exact
    assert len(items) < 30


def test_what_is_known_of_the_work() -> None:
    # Two units of two formats: 1 x 2 sums, then 2 x 2.
    frontier = build_frontier(
        Problem(dict.fromkeys("ab", sized((1, 2.0), (5, 0.0))), original_bytes=9)
    )
    assert frontier.states == 6
    assert frontier.solve_s >= 0
