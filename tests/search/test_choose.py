"""choose(): the laws that the chosen plan keeps whatever was measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.formats import Format
from mixq.search.choose import beats, choose, keeps, rivals
from mixq.search.limits import Limits, Totals
from mixq.search.trials import PLAIN, Kind, Proposal, Trial

LAWS = settings(derandomize=True, deadline=None, max_examples=300)
KINDS: tuple[Kind, ...] = ("uniform", "single", "additive", "tilted", "bisected")


def trial(
    name: str,
    *,
    size: int,
    errors: tuple[float, ...],
    heldout: tuple[float, ...] | None = None,
    kind: Kind = "tilted",
    latency_s: float = 1.0,
) -> Trial:
    totals = Totals(sum(errors), size, latency_s, size, 1000 / size)
    return Trial(Proposal(name, kind, {"a": Format(8)}), totals, errors, heldout)


sizes = st.integers(1, 5)
numbers = st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0])


@st.composite
def trial_lists(draw: st.DrawFn) -> list[Trial]:
    held = draw(st.booleans())
    return [
        trial(
            f"trial {index}",
            size=draw(sizes),
            errors=draw(st.tuples(numbers, numbers)),
            heldout=draw(st.tuples(numbers)) if held else None,
            kind=draw(st.sampled_from(KINDS)),
            latency_s=draw(st.sampled_from([1.0, 2.0])),
        )
        for index in range(draw(st.integers(1, 7)))
    ]


limits = st.builds(
    Limits,
    weight_bytes=st.none() | sizes,
    latency_s=st.none() | st.sampled_from([1.0, 2.0]),
    error=st.none() | numbers,
)


@LAWS
@given(trials=trial_lists(), limits=limits, refused=st.sets(st.integers(0, 6)))
def test_never_worse_than_a_plain_plan_of_no_more_bytes(
    trials: list[Trial], limits: Limits, refused: set[int]
) -> None:
    names = {f"trial {index}" for index in refused}
    accept: Callable[[Trial], bool] = lambda t: t.proposal.name not in names  # noqa: E731
    allowed = [t for t in trials if keeps(t, limits) and accept(t)]
    chosen = choose(trials, limits, accept)
    if chosen is None:
        assert not allowed
        return
    assert chosen in allowed
    for rival in rivals(chosen, [t for t in allowed if t.proposal.kind in PLAIN]):
        assert chosen.judged_error <= rival.judged_error
    if limits.error is not None:
        assert chosen.measured.error <= limits.error


@LAWS
@given(trials=trial_lists(), limits=limits)
def test_the_order_of_the_trials_does_not_matter(trials: list[Trial], limits: Limits) -> None:
    assert choose(trials, limits) == choose(trials[::-1], limits)


@LAWS
@given(trials=trial_lists())
def test_without_a_limit_on_size_nothing_acceptable_is_smaller(trials: list[Trial]) -> None:
    only = Limits(error=2.0)
    chosen = choose(trials, only)
    plain = [t for t in trials if keeps(t, only) and t.proposal.kind in PLAIN]
    for other in trials:
        beaten = any(r.judged_error < other.judged_error for r in rivals(other, plain))
        if keeps(other, only) and not beaten:
            assert chosen is not None
            assert chosen.totals.weight_bytes <= other.totals.weight_bytes


OPTIMUM = trial("optimum", size=4, errors=(1.0, 1.0, 1.0), kind="additive")


@pytest.mark.parametrize(
    ("errors", "wins"),
    [((0.5, 0.5, 0.5), True), ((0.0, 0.9, 1.2), False), ((1.0, 1.0, 0.9), False)],
    ids=["beyond-noise", "within-noise", "one-sample"],
)
def test_the_optimum_goes_first_unless_beaten_beyond_noise(
    errors: tuple[float, ...], wins: bool
) -> None:
    other = trial("lucky", size=4, errors=errors)
    assert beats(other, OPTIMUM) is wins
    assert choose([OPTIMUM, other], Limits(weight_bytes=4)) is (other if wins else OPTIMUM)


@pytest.mark.parametrize("kind", PLAIN)
def test_heldout_data_decide_against_a_plain_plan(kind: Kind) -> None:
    mixed = trial("mixed", size=4, errors=(1.0, 1.0), heldout=(3.0,), kind="additive")
    plain = trial("uniform 4", size=3, errors=(2.0, 2.0), heldout=(2.0,), kind=kind)
    assert choose([mixed, plain], Limits(weight_bytes=4)) is plain
    larger = trial("uniform 8", size=5, errors=(0.0, 0.0), heldout=(0.0,), kind=kind)
    assert choose([mixed, larger], Limits(weight_bytes=4)) is mixed


def test_accept_is_asked_only_as_often_as_needed() -> None:
    asked: list[str] = []

    def accept(candidate: Trial) -> bool:
        asked.append(candidate.proposal.name)
        return candidate.proposal.name != "best"

    trials = [trial(name, size=3, errors=(e,)) for name, e in [("good", 2.0), ("best", 1.0)]]
    worse = [trial("worst", size=3, errors=(9.0,), kind="uniform")]
    assert choose([*trials, *worse], Limits(weight_bytes=4), accept) is trials[0]
    assert asked == ["best", "good"]
