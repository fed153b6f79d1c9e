"""Stability: what another draw of the samples would change, and what a plan says about that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.formats import Format
from mixq.search import stability as module
from mixq.search.choice import Choice
from mixq.search.limits import Limits, Totals
from mixq.search.notes import DOUBT, REGRET, doubt_notes, stability_notes
from mixq.search.problem import Problem
from mixq.search.stability import RESAMPLINGS, Stability, stability
from mixq.search.trials import Kind, Proposal, Tilt, Trial
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.table import SensitivityTable

WIDE, NARROW = Format(8, 64), Format(4, 64)
BYTES = {WIDE: 200, NARROW: 100}
LAWS = settings(derandomize=True, deadline=None, max_examples=15)

Errors = Mapping[str, Sequence[float]]
"""Errors by sample of each unit at 4 bits; at 8 bits there are none."""


def table_of(errors: Errors) -> SensitivityTable:
    entries = {
        unit: {WIDE: Estimate.of([0.0] * len(row)), NARROW: Estimate.of(row)}
        for unit, row in errors.items()
    }
    return SensitivityTable(entries, 1.0, "", 1, "", "")


def problem_of(table: SensitivityTable) -> Problem:
    choices = {
        unit: tuple(Choice(fmt, e.error, BYTES[fmt], BYTES[fmt] / 100) for fmt, e in row.items())
        for unit, row in table.entries.items()
    }
    return Problem(choices, original_bytes=1000)


def trial(assignment: Mapping[str, Format], **more: Any) -> Trial:
    proposal = Proposal("optimum", "additive", assignment, more.pop("tilt", None))
    return Trial(proposal, Totals(1.0, more.pop("weight_bytes", 0), 1.0, 1, 1.0), (1.0,), None)


def found(errors: Errors, assignment: Mapping[str, Format], **more: Any) -> Stability:
    table = table_of(errors)
    limits = more.pop("limits", Limits(weight_bytes=300))
    seed = more.pop("seed", 0)
    outcome = stability(problem_of(table), table, trial(assignment, **more), limits, seed=seed)
    assert outcome is not None
    return outcome


TWO = {"a": [3.0, 1.0], "b": [0.0, 2.0]}
"""One of the two may be wide: `a` is by the mean and by the first sample, `b` by the second."""
A_WIDE = {"a": WIDE, "b": NARROW}


@pytest.fixture
def two_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """What two samples say can be told by hand."""
    monkeypatch.setattr(module, "MIN_SAMPLES", 2)


@pytest.mark.parametrize(
    ("limits", "draws"),
    [(Limits(weight_bytes=300), RESAMPLINGS), (Limits(latency_s=3.0), module.FEWEST)],
    ids=["bytes", "latency"],
)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.usefixtures("two_are_enough")
def test_two_samples_by_hand(limits: Limits, draws: int, seed: int) -> None:
    """One of two samples is drawn each time; the plan of the second adds 2 where 1 is least."""
    chance = np.random.default_rng(seed)
    first = sum(int(chance.integers(0, 2, 1)[0]) == 0 for _ in range(draws)) / draws
    outcome = found(TWO, A_WIDE, limits=limits, seed=seed)
    assert 0.2 < first < 0.8
    assert (outcome.samples, outcome.resamplings) == (2, draws)
    assert outcome.widths == outcome.formats == {"a": first, "b": first}
    assert outcome.kept == first
    assert outcome.regret == pytest.approx(1 - first, rel=1e-12)  # (2 - 1) / 1, that often


@LAWS
@given(
    st.lists(st.floats(0.1, 10), min_size=4, max_size=4, unique=True),
    st.lists(st.integers(1, 1000), min_size=4, max_size=8),
)
def test_what_errors_have_in_common_changes_no_plan(
    errors: list[float], factors: list[int]
) -> None:
    """Errors that rise and fall together; drawn one by one they would not."""
    rows = {f"u{i}": [error * factor for factor in factors] for i, error in enumerate(errors)}
    ordered = sorted(rows, key=lambda unit: -sum(rows[unit]))
    plan = {unit: WIDE if unit in ordered[:2] else NARROW for unit in rows}
    outcome = found(rows, plan, limits=Limits(weight_bytes=600))
    assert set(outcome.widths.values()) == {1.0}
    assert outcome.regret == 0


@pytest.mark.usefixtures("two_are_enough")
def test_a_width_may_stay_where_a_format_does_not() -> None:
    formats = [Format(4, 64), Format(4, 32)]
    rows = {formats[0]: [1.0, 3.0], formats[1]: [2.0, 1.0]}
    table = SensitivityTable(
        {"a": {fmt: Estimate.of(row) for fmt, row in rows.items()}}, 1.0, "", 2, "", ""
    )
    choices = tuple(Choice(fmt, table.entries["a"][fmt].error, 100, 1.0) for fmt in formats)
    outcome = stability(
        Problem({"a": choices}, original_bytes=1000),
        table,
        trial({"a": formats[1]}),
        Limits(weight_bytes=100),
    )
    assert outcome is not None
    assert outcome.widths == {"a": 1.0}
    assert 0.3 < outcome.formats["a"] < 0.7


def test_the_optimum_of_tilted_errors_is_compared_with_such() -> None:
    steady = {"a": [3.0] * 4, "b": [2.0] * 4}
    tilt = Tilt("b counts twice", factors=(1.0, 2.0))
    b_wide = {"a": NARROW, "b": WIDE}
    assert found(steady, b_wide, tilt=tilt).kept == 1
    assert found(steady, b_wide).kept == 0


@pytest.mark.usefixtures("two_are_enough")
def test_where_a_size_was_sought_it_is_the_limit() -> None:
    outcome = found(TWO, A_WIDE, limits=Limits(error=0.1), weight_bytes=300)
    assert 0.3 < outcome.widths["a"] < 0.7
    assert found(TWO, A_WIDE, limits=Limits(error=0.1), weight_bytes=400).widths["a"] == 1


@pytest.mark.parametrize(("choices", "draws"), [(4 * 50, 50), (1, module.FEWEST)])
@pytest.mark.usefixtures("two_are_enough")
def test_many_choices_are_drawn_less_often(
    monkeypatch: pytest.MonkeyPatch, choices: int, draws: int
) -> None:
    monkeypatch.setattr(module, "MOST_CHOICES", choices)
    assert found(TWO, A_WIDE).resamplings == draws


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_samples_say_nothing(count: int) -> None:
    own = believed(0.3, count)
    for outcome in (
        found({"a": [3.0] * count, "b": [2.0] * count}, A_WIDE),
        stability(problem_of(own), own, trial(A_WIDE), Limits(weight_bytes=300)),
    ):
        assert outcome is not None
        if count < 4:
            assert outcome == Stability(count, 0, {}, {}, 0.0)
            assert outcome.kept == 0
        else:
            assert outcome.resamplings == RESAMPLINGS


@pytest.mark.usefixtures("two_are_enough")
def test_samples_that_not_all_have_are_left_out() -> None:
    assert found({"a": [3.0, 1.0, 9.0], "b": [0.0, 2.0]}, A_WIDE) == found(TWO, A_WIDE)


def test_without_errors_by_sample_there_is_nothing_to_draw() -> None:
    entries = {"a": {WIDE: Estimate(0.0, 0.0, 4), NARROW: Estimate(1.0, 0.5, 4)}}
    table = SensitivityTable(entries, 1.0, "", 4, "", "")
    chosen = trial({"a": WIDE})
    assert stability(problem_of(table), table, chosen, Limits(weight_bytes=200)) is None


@pytest.mark.parametrize(
    ("outcome", "available", "said"),
    [
        (None, 8, []),
        (Stability(8, 100, {}, {}, REGRET), 8, []),
        (Stability(1, 0, {}, {}, 0.0), 1, ["one calibration sample,", "give more"]),
        (Stability(3, 0, {}, {}, 0.0), 3, ["from 3 calibration samples,", "give more"]),
        (Stability(1, 0, {}, {}, 0.0), 9, ["--sensitivity measured takes all"]),
        # The loss falls as 1/samples: 5.5% at 8 is 2% at 22.
        (Stability(8, 100, {}, {}, 0.055), 8, ["another 8", "5.5%", "about 22", "2.8 times"]),
        (Stability(8, 100, {}, {}, 0.055), 50, ["about 22", "measured takes all 50"]),
        (Stability(8, 100, {}, {}, 5.0), 8, ["about 2000"]),
        (Stability(8, 100, {}, {}, 5.01), 8, ["about 2100"]),
    ],
    ids=[
        "unknown",
        "enough",
        "one",
        "three",
        "one-of-many",
        "few",
        "few-of-many",
        "many",
        "rounded-up",
    ],
)
def test_stability_notes(outcome: Stability | None, available: int, said: list[str]) -> None:
    notes = stability_notes(outcome, available)
    assert len(notes) == bool(said)
    assert all(part in notes[0] for part in said)


def rival(name: str, errors: Sequence[float], kind: Kind = "tilted", size: int = 1) -> Trial:
    totals = Totals(1.0, size, 1.0, 1, 1.0)
    proposal = Proposal(name, kind, {"a": Format(8 if name == "ours" else 4)})
    return Trial(proposal, totals, tuple(errors), None)


OURS = rival("ours", [10.0, 10.0, 10.0, 10.0])
NOISY = [8.0, 13.0, 8.0, 13.0]
"""0.5 more, with a standard error of sqrt(25 / 3) / 2 = 1.443: 2 of those are 28.9% of 10."""


@pytest.mark.parametrize(
    ("others", "limits", "said"),
    [
        ([rival("theirs", NOISY)], Limits(weight_bytes=1), True),
        ([rival("theirs", NOISY)], Limits(error=100.0), False),
        ([rival("theirs", NOISY, size=2)], Limits(weight_bytes=1), False),
        ([rival("theirs", NOISY, "uniform")], Limits(weight_bytes=1), False),
        ([rival("ours", NOISY)], Limits(weight_bytes=1), False),
        ([rival("best", [10.1, 10.1, 10.1, 10.1]), rival("theirs", NOISY)],
         Limits(weight_bytes=1), False),
        ([rival("theirs", [10.0, 10.2, 9.8, 10.0])], Limits(weight_bytes=1), False),
        ([rival("theirs", [18.0, 20.0, 18.0, 20.0])], Limits(weight_bytes=1), False),
        ([], Limits(weight_bytes=1), False),
    ],
    ids=[
        "noisy", "size-sought", "too-large", "uniform", "same-plan", "next-best-is-another",
        "differs-little", "told-apart", "alone",
    ],
)  # fmt: skip
def test_doubt_notes(others: list[Trial], limits: Limits, said: bool) -> None:
    notes = doubt_notes(OURS, [OURS, *others], limits)
    assert len(notes) == said
    if said:
        # 4 samples x (28.9% / 5%)^2 = 133.3, which is 140 in two digits.
        assert DOUBT == 0.05
        for part in ("4 samples", "theirs", "+5.0% ± 28.9%", "about 140"):
            assert part in notes[0]


def believed(spread: float, samples: int = 4) -> SensitivityTable:
    """Without errors by sample: what is known is how far each error may be off beside the rest."""
    errors = {"a": 2.0, "b": 1.0}
    entries = {
        unit: {
            WIDE: Estimate(0.0, 0.0, samples, own_se=0.0),
            NARROW: Estimate(error, 9.0, samples, own_se=spread * error),
        }
        for unit, error in errors.items()
    }
    return SensitivityTable(entries, 1.0, "", samples, "", "", mode="auto")


def test_errors_are_drawn_where_those_by_sample_are_not_known() -> None:
    limits = Limits(weight_bytes=300)

    def outcome(spread: float, seed: int = 0) -> Stability:
        table = believed(spread)
        found = stability(problem_of(table), table, trial(A_WIDE), limits, seed=seed)
        assert found is not None
        return found

    certain = outcome(0.0)
    assert (certain.kept, certain.regret, certain.samples) == (1.0, 0.0, 4)
    little, much = outcome(0.3), outcome(2.0)
    # `b` exceeds `a` where a normal number of standard deviation s sqrt(2) exceeds log 2, with
    # s^2 = log(1 + spread^2): in 5% and in 35% of all draws; three standard errors of 100 draws.
    assert 1 - little.kept == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / 100) ** 0.5)
    assert 1 - much.kept == pytest.approx(0.35, abs=3 * (0.35 * 0.65 / 100) ** 0.5)
    assert little.regret == pytest.approx(1 - little.kept)  # twice the least error, when it errs
    assert outcome(2.0) == much
    assert outcome(2.0, seed=1) != much


def test_nothing_is_said_where_nothing_is_known() -> None:
    entries = {u: {f: Estimate(1.0, 0.1, 2) for f in (WIDE, NARROW)} for u in ("a", "b")}
    table = SensitivityTable(entries, 1.0, "", 2, "", "")
    assert stability(problem_of(table), table, trial(A_WIDE), Limits(weight_bytes=300)) is None
