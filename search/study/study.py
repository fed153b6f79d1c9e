"""Study: measured trials, held by Optuna so that they survive a kill and open in its tools."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, TypeAlias, TypeGuard

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mixq.search.study.storage import storage_problems

Errors: TypeAlias = tuple[Sequence[float], Sequence[float] | None]
"""Per-sample errors of a plan on calibration and on held-out data."""
Key: TypeAlias = tuple[tuple[str, str], ...]
"""A plan as sorted (unit, format name) pairs."""
OUTCOME: Final = "outcome"
"""User attribute that says why a trial is failed; one that was lost has none."""
NOT_FINITE: Final = "output not finite"
LOST_CLAIM: Final = "claimed by another process"
GIVEN_UP: Final = "given up"


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
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                study.set_metric_names(["error", "weight_bytes", "latency_s"])
        if isinstance(storage, JournalStorage):
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                study.tell(trial.number, state=TrialState.FAIL)
    return study


def writing(study: Study) -> AbstractContextManager[None]:
    """Around everything that writes to a study; see `storage_problems`."""
    return storage_problems(f"the study {study.study_name} cannot be written")


def key_of(params: Mapping[str, str]) -> Key:
    """A plan's key."""
    return tuple(sorted(params.items()))


def finished(
    study: Study, units: set[str], least: float, seen: set[int] | None = None
) -> Iterator[tuple[Key, Errors | None]]:
    """Errors of the finished trials by plan; None for a plan that cannot be measured.

    Trials that others have added are left out: those without errors, or with impossible ones.

    Args:
        study: that holds them.
        units: of the problem.
        least: that an error can be.
        seen: numbers of trials to leave out, to which all others are added.
    """
    seen = set() if seen is None else seen
    states = (TrialState.COMPLETE, TrialState.FAIL)
    for trial in study.get_trials(deepcopy=False, states=states):
        if trial.number in seen:
            continue
        seen.add(trial.number)
        if set(trial.params) == units and (result := result_of(trial, least)) is not None:
            yield key_of(trial.params), result or None


def result_of(trial: FrozenTrial, least: float) -> Errors | tuple[()] | None:
    """A finished trial's errors, nothing if they are not finite; None if it says neither."""
    found = trial.user_attrs
    if trial.state == TrialState.FAIL:
        return () if found.get(OUTCOME) == NOT_FINITE else None
    if trial.state != TrialState.COMPLETE or not {"errors", "heldout_errors"} <= set(found):
        return None
    errors, heldout = found["errors"], found["heldout_errors"]
    if _numbers(errors, least) and (heldout is None or _numbers(heldout, least)):
        return errors, heldout
    return None


def _numbers(value: object, least: float) -> TypeGuard[list[float]]:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, float) and math.isfinite(item) for item in value)
        and min(value) >= least
    )
