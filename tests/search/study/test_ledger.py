"""The ledger: each plan is measured by one of all processes, whatever becomes of them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from mixq.errors import MixqError, ModelError, NonFiniteError
from mixq.formats import Format
from mixq.progress import silent
from mixq.search.choice import Choice
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.study import storage as storages
from mixq.search.study.ledger import Ledger, open_ledger
from mixq.search.study.rounds import Measure, run_trials
from mixq.search.study.storage import open_storage
from mixq.search.study.study import GIVEN_UP, LOST_CLAIM, NOT_FINITE, OUTCOME, Errors
from mixq.search.trials import Proposal

W8, W4, W2 = Format(8, 64), Format(4, 64), Format(2, 64)
CHOICES = (Choice(W8, 0.1, 80, 1.0), Choice(W4, 0.2, 40, 2.0), Choice(W2, 0.4, 20, 3.0))
PROBLEM = Problem({"a": CHOICES, "b": CHOICES}, original_bytes=640)
PLANS = [
    Proposal(f"{a.name} {b.name}", "tilted", {"a": a, "b": b})
    for a in (W8, W4, W2)
    for b in (W8, W4, W2)
]
ERRORS: Errors = ([1.0, 3.0], [2.0])


def ledger(storage: BaseStorage, limits: Limits | None = None) -> Ledger:
    return open_ledger(storage, "s", PROBLEM, limits or Limits())


def trials(storage: BaseStorage, name: str = "s") -> list[FrozenTrial]:
    return optuna.load_study(study_name=name, storage=storage).trials


def states(storage: BaseStorage) -> list[tuple[str, str | None]]:
    return [(trial.state.name, trial.user_attrs.get(OUTCOME)) for trial in trials(storage)]


def measuring(
    names: list[str], errors: Callable[[Proposal], Errors | MixqError] = lambda _: ERRORS
) -> Measure:
    """Gives every plan some errors, and remembers its name."""

    def measure(proposals: Sequence[Proposal]) -> Generator[tuple[int, Errors | MixqError]]:
        for index, proposal in enumerate(proposals):
            names.append(proposal.name)
            yield index, errors(proposal)

    return measure


def test_a_plan_that_another_measures_is_not_claimed() -> None:
    storage = InMemoryStorage()
    ours, theirs = ledger(storage), ledger(storage)
    (first,) = ours.claim(PLANS, 1)
    (second,) = theirs.claim(PLANS, 1)
    assert [first.proposal, second.proposal] == PLANS[:2]
    ours.tell(first, ERRORS)
    assert [claim.proposal for claim in ours.claim(PLANS, 2)] == PLANS[2:4]
    assert theirs.claim(PLANS[:2], 9) == []


def test_of_two_that_claim_at_once_the_lower_number_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = InMemoryStorage()
    ours, theirs = ledger(storage), ledger(storage)
    looked = Ledger._is_taken

    def blind(self: Ledger, plan: Any, below: float = float("inf")) -> bool:
        return below < float("inf") and looked(self, plan, below)

    monkeypatch.setattr(Ledger, "_is_taken", blind)
    assert len(ours.claim(PLANS[:1], 1)) == 1
    assert theirs.claim(PLANS[:1], 1) == []
    assert states(storage) == [("RUNNING", None), ("FAIL", LOST_CLAIM)]


def test_who_was_taken_for_dead_does_not_overwrite(tmp_path: Path) -> None:
    storage = InMemoryStorage()
    ours = ledger(storage)
    (claim,) = ours.claim(PLANS, 1)
    optuna.load_study(study_name="s", storage=storage).tell(0, state=TrialState.FAIL)
    ours.tell(claim, ERRORS)
    assert states(storage) == [("FAIL", None)]
    names: list[str] = []
    run_trials(ours, PLANS[:1], measuring(names), silent)
    assert states(storage) == [("FAIL", None), ("COMPLETE", None)]
    assert names == []  # what was measured before is told now


def test_a_plan_that_cannot_be_measured_is_so_for_all() -> None:
    storage, names = InMemoryStorage(), list[str]()
    measure = measuring(names, lambda p: NonFiniteError("x") if p is PLANS[1] else ERRORS)
    for _ in range(2):
        found = run_trials(ledger(storage), PLANS[:3], measure, silent)
        assert [trial.proposal for trial in found] == [PLANS[0], PLANS[2]]
    assert names == [plan.name for plan in PLANS[:3]]
    assert states(storage)[1] == ("FAIL", NOT_FINITE)


@pytest.mark.parametrize(
    "error", [ModelError("x"), KeyboardInterrupt()], ids=["refused", "Ctrl-C"]
)
def test_what_is_given_up_is_nobodys(error: BaseException) -> None:
    def broken(proposals: Sequence[Proposal]) -> Generator[tuple[int, Errors | MixqError]]:
        yield 1, ERRORS
        raise error

    storage = InMemoryStorage()
    with pytest.raises(type(error)):
        run_trials(ledger(storage), PLANS, broken, silent, at_once=3)
    assert states(storage) == [("FAIL", GIVEN_UP), ("COMPLETE", None), ("FAIL", GIVEN_UP)]


def test_progress_counts_all_trials() -> None:
    storage, seen = InMemoryStorage(), list[tuple[str, int, int]]()
    run_trials(ledger(storage), PLANS[:2], measuring([]), silent)

    def note(stage: str, done: int, total: int) -> None:
        seen.append((stage, done, total))

    run_trials(ledger(storage), PLANS[:5], measuring([]), note, at_once=2)
    assert seen == [("measuring plans", done, 5) for done in (2, 4, 5)]


LIMITS = Limits(weight_bytes=100, error=2.5)


def test_optuna_knows_which_trials_keep_the_limits() -> None:
    storage = InMemoryStorage()
    ours = ledger(storage, LIMITS)
    run_trials(ours, PLANS, measuring([]), silent)
    for trial in ours.study.trials:
        excess = {"weight_bytes": trial.values[1] - 100, "error": -0.5}
        assert trial.constraints == excess | {"0": excess["weight_bytes"], "1": -0.5}
        assert trial.system_attrs["constraints"] == list(excess.values())
    best = {trial.user_attrs["name"] for trial in ours.study.best_trials}
    assert best == {"w4g64 w4g64", "w4g64 w2g64", "w2g64 w4g64", "w2g64 w2g64"}
    assert ours.study.metric_names == ["error", "weight_bytes", "latency_s"]


def test_what_one_budget_measured_serves_the_next() -> None:
    storage, names = InMemoryStorage(), list[str]()
    run_trials(ledger(storage, LIMITS), PLANS[:4], measuring(names), silent)
    other = ledger(storage, Limits(weight_bytes=120))
    assert other.study.trials == []
    found = run_trials(other, PLANS[2:6], measuring(names), silent)
    assert names == [plan.name for plan in PLANS[:6]]
    assert [trial.errors for trial in found] == [(1.0, 3.0)] * 4
    assert [t.constraints["weight_bytes"] for t in other.study.trials] == [-20, 0, -40, -60]
    assert other.study.study_name == "s weight_bytes<=120"


def test_another_problems_study_is_left_alone() -> None:
    storage, names = InMemoryStorage(), list[str]()
    run_trials(open_ledger(storage, "sx", PROBLEM, LIMITS), PLANS, measuring([]), silent)
    run_trials(ledger(storage, LIMITS), PLANS, measuring(names), silent)
    assert len(names) == len(PLANS)


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["go", "go", "go", "blind", "die", "stale"])),
        max_size=60,
    )
)
def test_in_any_order_of_steps_each_plan_is_measured_once(steps: list[tuple[int, str]]) -> None:
    """Four processes; one may not see who claims at the same time, die, or be taken for dead."""
    storage, plans = InMemoryStorage(), PLANS[:4]
    ledgers = [ledger(storage) for _ in range(4)]
    held: dict[int, Any] = {}
    looked = Ledger._is_taken
    for process, step in [*steps, *((index, "go") for index in range(4) for _ in range(20))]:
        ours = ledgers[process]
        if process not in held:
            with pytest.MonkeyPatch.context() as patch:
                if step == "blind":
                    patch.setattr(
                        Ledger,
                        "_is_taken",
                        lambda self, plan, below=None: below and looked(self, plan, below),
                    )
                claims = ours.claim([p for p in plans if _key(p) not in ours.done()], 1)
            for claim in claims:
                held[process] = claim
        elif step in ("die", "stale"):
            ours.study.tell(held[process].number, state=TrialState.FAIL, skip_if_finished=True)
            if step == "die":
                del held[process]
        else:
            claim = held.pop(process)
            ours.tell(claim, ours.known(claim) or ERRORS)
    complete = [trial for trial in trials(storage) if trial.state == TrialState.COMPLETE]
    assert Counter(tuple(trial.params.values()) for trial in complete) == Counter(
        (plan.assignment["a"].name, plan.assignment["b"].name) for plan in plans
    )
    assert all(trial.state.is_finished() for trial in trials(storage))


def _key(proposal: Proposal) -> tuple[tuple[str, str], ...]:
    return tuple((unit, fmt.name) for unit, fmt in proposal.assignment.items())


def test_threads_on_one_database_measure_each_plan_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    ledger(open_storage(None, url))
    names: list[str] = []
    found: list[list[tuple[float, ...]]] = []

    def work(start: int) -> None:
        proposals = PLANS[start:] + PLANS[:start]
        ours = ledger(open_storage(None, url))
        run_trials(ours, proposals, measuring(names), silent, at_once=1 + start % 2)
        found.append([trial.errors for trial in run_trials(ours, PLANS, measuring(names), silent)])

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 0, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == sorted(plan.name for plan in PLANS)
    assert found == [[(1.0, 3.0)] * len(PLANS)] * 3


def test_a_process_that_died_before_its_first_heartbeat_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storages, "HEARTBEAT_S", 1)
    monkeypatch.setattr(storages, "GRACE_S", 1)
    storage = open_storage(None, f"sqlite:///{tmp_path / 'a.db'}")
    ledger(storage).claim(PLANS, 1)
    names: list[str] = []
    run_trials(ledger(storage), PLANS[:2], measuring(names), silent)
    assert names == [PLANS[1].name, PLANS[0].name]
    assert [state for state, _ in states(storage)] == ["FAIL", "COMPLETE", "COMPLETE"]
