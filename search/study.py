"""Study: measured trials, held by Optuna so that they survive a kill and open in its tools."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, TypeAlias, TypeGuard

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mixq.errors import MixqError, NonFiniteError
from mixq.progress import Progress, track
from mixq.search.problem import Problem
from mixq.search.storage import storage_problems
from mixq.search.trials import Proposal, Trial

STAGE: Final = "measuring plans"

Errors: TypeAlias = tuple[Sequence[float], Sequence[float] | None]
"""Per-sample errors of a plan on calibration and on held-out data."""
Measure: TypeAlias = Callable[[Proposal], Errors]
Key: TypeAlias = tuple[tuple[str, str], ...]
"""A plan as sorted (unit, format name) pairs."""


class ProposalSampler(BaseSampler):
    """Hands Optuna one given plan: a parameter for each unit, its value the format's name."""

    def __init__(self) -> None:
        self.next: Mapping[str, str] = {}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing is inferred: the distributions come with the question."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """No relative parameters."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The format of one unit in the plan at hand."""
        return self.next[param_name]


def open_study(storage: BaseStorage, name: str, sampler: BaseSampler) -> Study:
    """The study of this name, made if need be.

    Trials that a kill left running in a journal are failed; in a database they may be another
    process's that is alive.

    Raises:
        OutputError: if the storage cannot be written.
    """
    with storage_problems(f"the study {name} cannot be opened"):
        if name in optuna.get_all_study_names(storage):  # a journal grows with every attempt
            study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
        else:
            study = optuna.create_study(
                storage=storage,
                sampler=sampler,
                study_name=name,
                directions=["minimize", "minimize", "minimize"],
                load_if_exists=True,
            )
        if isinstance(storage, JournalStorage):
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                study.tell(trial.number, state=TrialState.FAIL)
    return study


def writing(study: Study) -> AbstractContextManager[None]:
    """Around everything that writes to a study; see `storage_problems`."""
    return storage_problems(f"the study {study.study_name} cannot be written")


def run_trials(
    study: Study,
    sampler: ProposalSampler,
    problem: Problem,
    proposals: Sequence[Proposal],
    measure: Measure,
    progress: Progress,
    *,
    signed: bool = False,
) -> list[Trial]:
    """Measure every proposal that the study does not hold yet; all of them, in their order.

    A plan that makes the output NaN or infinite is a failed trial and is left out. Errors that
    the study holds are believed if they are finite, and not negative unless they are `signed`.

    Raises:
        OutputError: if the study cannot be written; what it holds stays.
        MixqError: whatever `measure` raises; its trial is failed.
    """
    distributions: dict[str, BaseDistribution] = {
        unit: CategoricalDistribution([choice.format.name for choice in choices])
        for unit, choices in problem.choices.items()
    }
    with writing(study):
        done = _finished(study, set(distributions), -math.inf if signed else 0.0)
    missing: dict[Key, Proposal] = {}
    for proposal in proposals:
        if _key(proposal) not in done:  # two proposals may be the same plan
            missing.setdefault(_key(proposal), proposal)
    for key, proposal in track(
        missing.items(), STAGE, len(proposals), progress, done=len(proposals) - len(missing)
    ):
        sampler.next = {unit: fmt.name for unit, fmt in proposal.assignment.items()}
        with writing(study):
            asked = study.ask(distributions)
        try:
            errors = measure(proposal)
        except MixqError as error:
            with writing(study):
                study.tell(asked, state=TrialState.FAIL)
            if isinstance(error, NonFiniteError):
                continue
            raise
        with writing(study):
            _tell(study, asked, _trial(proposal, problem, errors))
        done[key] = errors
    return [
        _trial(proposal, problem, done[_key(proposal)])
        for proposal in proposals
        if _key(proposal) in done
    ]


def _finished(study: Study, units: set[str], least: float) -> dict[Key, Errors]:
    """Errors of the finished trials by plan, without trials that others have added."""
    done: dict[Key, Errors] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        found = trial.user_attrs
        if set(trial.params) != units or not {"errors", "heldout_errors"} <= set(found):
            continue
        errors, heldout = found["errors"], found["heldout_errors"]
        if _numbers(errors, least) and (heldout is None or _numbers(heldout, least)):
            done[tuple(sorted(trial.params.items()))] = (errors, heldout)
    return done


def _numbers(value: object, least: float) -> TypeGuard[list[float]]:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, float) and math.isfinite(item) for item in value)
        and min(value) >= least
    )


def _trial(proposal: Proposal, problem: Problem, errors: Errors) -> Trial:
    tuning, heldout = errors
    totals = problem.evaluate(proposal.assignment)
    return Trial(proposal, totals, tuple(tuning), None if heldout is None else tuple(heldout))


def _tell(study: Study, asked: optuna.Trial, trial: Trial) -> None:
    heldout = trial.heldout_errors
    for name, value in {
        "name": trial.proposal.name,
        "kind": trial.proposal.kind,
        "compression": trial.totals.compression,
        "errors": list(trial.errors),
        "heldout_errors": None if heldout is None else list(heldout),
    }.items():
        asked.set_user_attr(name, value)
    totals = trial.totals
    study.tell(asked, [trial.measured.error, totals.weight_bytes, totals.latency_s])


def _key(proposal: Proposal) -> Key:
    return tuple(sorted((unit, fmt.name) for unit, fmt in proposal.assignment.items()))
