from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from mixq.errors import MixqError, ModelError, PlanError, UsageError
from mixq.formats import Format
from mixq.search.choice import Choice
from mixq.search.limits import Limits, Totals
from mixq.search.problem import Problem

W2, W4, W8, W32 = Format(2), Format(4), Format(8), Format(32)


def choice(
    fmt: Format, error: float = 0.5, weight_bytes: int = 10, latency_s: float = 0.25
) -> Choice:
    return Choice(fmt, error, weight_bytes, latency_s)


def three_units() -> Problem:
    return Problem(
        {
            "a": (choice(W2, 4.0, 2), choice(W4, 1.0, 4), choice(W8, 0.0, 8)),
            "b": (choice(W4, 2.0, 40), choice(W8, 0.5, 80)),
            "c": (choice(W8, 0.25, 6), choice(W4, 0.75, 3, 0.5)),
        },
        original_bytes=1000,
        other_bytes=100,
        other_latency_s=2.0,
        constant_memory_bytes=7,
    )


def test_totals_are_the_sums() -> None:
    totals = three_units().evaluate({"a": W2, "b": W8, "c": W4})
    assert totals == Totals(
        error=5.25,
        weight_bytes=185,
        latency_s=3.0,
        peak_memory_bytes=192,
        compression=1000 / 185,
    )


def test_error_is_correctly_rounded_whatever_the_order() -> None:
    errors = {"a": 1e16, "b": 1.0, "c": 1.0}
    for order in ("abc", "cba", "bac"):
        problem = Problem({u: (choice(W4, errors[u]),) for u in order}, original_bytes=100)
        assert problem.evaluate(dict.fromkeys("abc", W4)).error == 1e16 + 2


def test_extremes_enclose_every_assignment() -> None:
    problem = three_units()
    assert problem.extreme("weight_bytes").weight_bytes == 100 + 2 + 40 + 3
    assert problem.extreme("weight_bytes", largest=True).weight_bytes == 100 + 8 + 80 + 6
    assert problem.extreme("error").error == 0.75
    assert problem.extreme("latency_s", largest=True).latency_s == 3.0


def test_tied_units_are_one_item_of_their_common_formats() -> None:
    problem = three_units().tied([["a", "b"]])
    (tie,) = [item for item in problem.items if len(item.units) == 2]
    assert tie.formats == (W4, W8)
    assert tie.weight_bytes.tolist() == [44, 88]
    assert tie.errors.tolist() == [3.0, 0.5]


def test_overlapping_ties_become_one() -> None:
    problem = three_units().tied([["a", "b"]]).tied([["c", "b"], ["c"]])
    assert problem.ties == (("a", "b", "c"),)
    assert [item.formats for item in problem.items] == [(W4, W8)]


def test_pin_keeps_only_formats_of_that_width() -> None:
    pinned = three_units().pinned({"a": 4})
    assert [c.format for c in pinned.choices["a"]] == [W4]
    assert pinned.choices["b"] == three_units().choices["b"]


def test_pinning_one_unit_of_a_tie_pins_the_others() -> None:
    problem = three_units().tied([["a", "b"]]).pinned({"b": 8})
    assert {item.units: item.formats for item in problem.items}["a", "b"] == (W8,)


def test_items_do_not_depend_on_names_or_on_the_order_of_choices() -> None:
    problem = three_units()
    names = {"a": "z", "b": "y", "c": "x"}
    relabelled = Problem(
        {names[unit]: problem.choices[unit][::-1] for unit in ("c", "a", "b")},
        original_bytes=1000,
    )
    for ours, theirs in zip(problem.items, relabelled.items, strict=True):
        assert ours.formats == theirs.formats
        assert ours.weight_bytes.tolist() == theirs.weight_bytes.tolist()
        assert [names[unit] for unit in ours.units] == list(theirs.units)


@pytest.mark.parametrize(
    ("limits", "objective"),
    [
        (Limits(), "weight_bytes"),
        (Limits(error=1.0), "weight_bytes"),
        (Limits(weight_bytes=1), "error"),
        (Limits(latency_s=1.0), "error"),
        (Limits(weight_bytes=1, error=1.0), "error"),
    ],
    ids=["none", "error", "bytes", "latency", "bytes-and-error"],
)
def test_the_rule_of_what_is_made_small(limits: Limits, objective: str) -> None:
    assert limits.objective == objective


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        (Limits(), True),
        (Limits(weight_bytes=185, latency_s=3.0, error=5.25), True),
        (Limits(weight_bytes=184), False),
        (Limits(latency_s=math.nextafter(3.0, 0.0)), False),
        (Limits(error=math.nextafter(5.25, 0.0)), False),
    ],
    ids=["none", "all-met-exactly", "a-byte-over", "latency-over", "error-over"],
)
def test_limits_are_compared_exactly(limits: Limits, allowed: bool) -> None:
    assert limits.allow(three_units().evaluate({"a": W2, "b": W8, "c": W4})) is allowed


ONE = {"a": (choice(W4),)}


@pytest.mark.parametrize(
    ("kind", "make", "named"),
    [
        (ModelError, lambda: Problem({}, original_bytes=1), "no units"),
        (ModelError, lambda: Problem({"a": ()}, original_bytes=1), "'a' has no format"),
        (ModelError, lambda: Problem({"a": (choice(W4), choice(W4))}, original_bytes=1), "twice"),
        (ModelError, lambda: Problem({"a": (choice(W4, -1.0),)}, original_bytes=1), "error -1.0"),
        (ModelError, lambda: Problem({"a": (choice(W4, math.nan),)}, original_bytes=1), "nan"),
        (ModelError, lambda: Problem({"a": (choice(W4, math.inf),)}, original_bytes=1), "inf"),
        (ModelError, lambda: Problem({"a": (choice(W4, 1.0, 0),)}, original_bytes=1), "0 bytes"),
        (
            ModelError,
            lambda: Problem({"a": (choice(W4, 1.0, 1, math.nan),)}, original_bytes=1),
            "latency_s nan",
        ),
        (ModelError, lambda: Problem(ONE, original_bytes=0), "original_bytes"),
        (ModelError, lambda: Problem(ONE, original_bytes=1, other_bytes=-1), "other_bytes"),
        (
            ModelError,
            lambda: Problem({u: (choice(W4, 1e308),) for u in "ab"}, original_bytes=1),
            "sums to inf",
        ),
        (
            ModelError,
            lambda: Problem({u: (choice(W4, 1.0, 2**52),) for u in "ab"}, original_bytes=1),
            str(2**53),
        ),
        (UsageError, lambda: three_units().tied([["a", "nose"]]), "'nose'"),
        (UsageError, lambda: three_units().pinned({"nose": 4}), "'nose'"),
        (UsageError, lambda: three_units().pinned({"b": 2}), "8, 4"),
        (UsageError, lambda: three_units().pinned({"a": 4, "b": 8}).tied([["a", "b"]]), "a, b"),
        (UsageError, lambda: three_units().tied([["a", "b"]]).pinned({"a": 2}), "a, b"),
        (PlanError, lambda: three_units().evaluate({"a": W2, "b": W8}), "'c' has no format"),
        (
            PlanError,
            lambda: three_units().evaluate({"a": W2, "b": W8, "c": W4, "d": W4}),
            "'d' is not in this problem",
        ),
        (PlanError, lambda: three_units().evaluate({"a": W32, "b": W8, "c": W4}), "w32"),
        (
            PlanError,
            lambda: three_units().tied([["a", "b"]]).evaluate({"a": W4, "b": W8, "c": W4}),
            "a, b",
        ),
    ],
    ids=[
        "no-units", "no-choices", "format-twice", "negative-error", "nan-error", "inf-error",
        "no-bytes", "nan-latency", "no-original", "negative-other", "error-overflow",
        "bytes-overflow", "tie-unknown", "pin-unknown", "pin-impossible", "tie-without-common",
        "pin-against-tie", "unit-missing", "unit-unknown", "format-unknown", "tie-broken",
    ],
)  # fmt: skip
def test_refuses_in_one_line(
    kind: type[MixqError], make: Callable[[], object], named: str
) -> None:
    with pytest.raises(kind) as refusal:
        make()
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
