"""PlanSampler keeps Optuna's contract for samplers, and gives each trial one plan."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import Trial, TrialState

from mixq.search.study.sampler import PlanSampler

CHOICES = {"a": ("w8", "w4", "w2"), "b": ("w8", "w4"), "c": ("w8",)}
SPACE: dict[str, BaseDistribution] = {
    unit: CategoricalDistribution(formats) for unit, formats in CHOICES.items()
}
PLANS: list[Mapping[str, str]] = [
    {"a": a, "b": b, "c": "w8"} for a in CHOICES["a"] for b in CHOICES["b"]
]


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


class Contract:
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return PlanSampler


class TestBasic(Contract, BasicSamplerTestCase):
    """Optuna's own tests of every sampler."""


class TestRelative(Contract, RelativeSamplerTestCase):
    """Optuna's own tests of samplers that draw parameters together."""


class TestMultiObjective(Contract, MultiObjectiveSamplerTestCase):
    """Optuna's own tests of samplers for several objectives."""


def objective(trial: Trial) -> float:
    for unit, formats in CHOICES.items():
        trial.suggest_categorical(unit, formats)
    return 0.0


def queued(*plans: Mapping[str, str], seed: int = 0) -> PlanSampler:
    sampler = PlanSampler(CHOICES, seed)
    for plan in plans:
        sampler.queue(plan)
    return sampler


def ask(study: Study) -> Mapping[str, str]:
    return study.ask(SPACE).params


WAYS: dict[str, Callable[[Study], object]] = {
    "optimize": lambda study: study.optimize(objective, n_trials=1),
    "ask": lambda study: study.ask(SPACE),
    "whole": lambda study: study.add_trial(whole(study)),
}


def whole(study: Study) -> optuna.trial.FrozenTrial:
    assert isinstance(study.sampler, PlanSampler)
    return study.sampler.whole()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_trials_take_the_plans_in_their_order(way: Callable[[Study], object]) -> None:
    study = optuna.create_study(sampler=queued(*PLANS))
    for _ in PLANS:
        way(study)
    assert [trial.params for trial in study.trials] == PLANS
    assert all(trial.distributions == SPACE for trial in study.trials)


def test_a_plan_is_drawn_relatively() -> None:
    study = optuna.create_study(sampler=queued(PLANS[3]))
    asked = study.ask()
    assert asked.relative_params == PLANS[3]


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_threads_take_each_plan_once(jobs: int) -> None:
    study = optuna.create_study(sampler=queued(*PLANS))
    study.optimize(objective, n_trials=len(PLANS), n_jobs=jobs)
    taken = [tuple(trial.params.items()) for trial in study.trials]
    assert sorted(taken) == sorted(tuple(plan.items()) for plan in PLANS)


def test_an_enqueued_trial_takes_no_plan() -> None:
    study = optuna.create_study(sampler=queued(PLANS[0], PLANS[1]))
    study.enqueue_trial({"a": "w2", "b": "w4"})
    assert ask(study) == {"a": "w2", "b": "w4", "c": "w8"}
    assert [ask(study), ask(study)] == PLANS[:2]


def test_a_trial_that_came_whole_takes_no_other_plan() -> None:
    sampler = queued(PLANS[0], PLANS[1])
    study = optuna.create_study(sampler=sampler)
    study.add_trial(sampler.whole({"name": "x"}, {"bytes": 1.0}))
    trial = Trial(study, study.trials[0]._trial_id)
    assert trial.params == PLANS[0]
    assert (trial.user_attrs, trial.constraints) == ({"name": "x"}, {"bytes": 1.0})
    assert ask(study) == PLANS[1]


def test_an_empty_queue() -> None:
    with pytest.raises(IndexError):
        queued().whole()
    study = optuna.create_study(sampler=queued())
    study.optimize(objective, n_trials=3)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


def random_trials(sampler: PlanSampler, jobs: int = 1) -> dict[int, Mapping[str, float]]:
    def drawn(trial: Trial) -> float:
        return trial.suggest_float("x", 0, 1) + trial.suggest_float("y", 0, 1)

    study = optuna.create_study(sampler=sampler)
    study.optimize(drawn, n_trials=12, n_jobs=jobs)
    return {trial.number: trial.params for trial in study.trials}


def test_what_no_plan_says_is_a_function_of_the_seed() -> None:
    assert random_trials(PlanSampler(seed=1)) == random_trials(PlanSampler(seed=1))
    assert random_trials(PlanSampler(seed=1)) != random_trials(PlanSampler(seed=2))


def test_threads_draw_what_one_draws_and_nothing_twice() -> None:
    """`optimize` reseeds the generators of its threads; ours are functions of the number."""
    drawn = random_trials(PlanSampler(), jobs=3)
    assert drawn == random_trials(PlanSampler())
    values = [value for params in drawn.values() for value in params.values()]
    assert len(set(values)) == 24


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["copy", "pickle"]
)
def test_a_copy_has_a_queue_of_its_own(copied: Callable[[PlanSampler], PlanSampler]) -> None:
    sampler = queued(PLANS[0], PLANS[1])
    other = copied(sampler)
    for each in (sampler, other):
        study = optuna.create_study(sampler=each)
        assert [ask(study), ask(study)] == PLANS[:2]


def test_failed_trials_are_forgotten() -> None:
    sampler = queued(*PLANS[:2])
    study = optuna.create_study(sampler=sampler)
    study.tell(study.ask(), state=TrialState.FAIL)
    assert ask(study) == PLANS[1]
    assert list(sampler._plans) == [1]


def test_finished_trials_hold_no_plans() -> None:
    sampler = queued(*PLANS)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=len(PLANS))
    assert not sampler._plans
