"""Study: measured trials, held by Optuna so that they survive a kill and open in its tools."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mixq.errors import OutputError, UsageError
from mixq.progress import Progress, track
from mixq.search.problem import Problem
from mixq.search.trials import Proposal, Trial

STAGE: Final = "measuring plans"
JOURNAL: Final = "study.journal"

Measure = Callable[[Proposal], tuple[Sequence[float], Sequence[float] | None]]
"""Per-sample errors of a plan on calibration and on held-out data."""


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


def open_storage(folder: Path | None, url: str | None) -> BaseStorage:
    """The storage of a run: a database by URL, else a journal in the folder, else memory.

    A last journal line that a kill has torn is cut off, since Optuna refuses to open it, and a
    lock that a killed process left is removed; the caller holds the folder's own lock.

    Raises:
        UsageError: if the database cannot be opened.
        OutputError: if the journal cannot be written.
    """
    if url is not None:
        try:
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except Exception as error:  # SQLAlchemy's and the drivers' errors share no base
            first = str(error).splitlines()[0]
            raise UsageError(
                f"--storage {url} cannot be opened: {first}; give a database URL like "
                "sqlite:///study.db or leave it out"
            ) from error
    if folder is None:
        return InMemoryStorage()
    journal = folder / JOURNAL
    try:
        if journal.exists():
            data = journal.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(journal, whole)
        for lock in folder.glob(f"{JOURNAL}*.lock"):
            lock.unlink(missing_ok=True)
        return JournalStorage(JournalFileBackend(str(journal)))
    except (OSError, ValueError) as error:
        raise OutputError(f"{journal} cannot be opened: {error}; delete it to start over") from error


def open_study(storage: BaseStorage, name: str, sampler: BaseSampler) -> Study:
    """The study of this name, made if need be; trials that a kill left running are failed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage,
        sampler=sampler,
        study_name=name,
        directions=["minimize", "minimize", "minimize"],
        load_if_exists=True,
    )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def run_trials(
    study: Study,
    sampler: ProposalSampler,
    problem: Problem,
    proposals: Sequence[Proposal],
    measure: Measure,
    progress: Progress,
) -> list[Trial]:
    """Measure every proposal that the study does not hold yet; all of them, in their order."""
    distributions: dict[str, BaseDistribution] = {
        unit: CategoricalDistribution([choice.format.name for choice in choices])
        for unit, choices in problem.choices.items()
    }
    done = {
        tuple(sorted(trial.params.items())): trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if set(trial.params) == set(distributions)
    }
    missing = [proposal for proposal in proposals if _key(proposal) not in done]
    finished: dict[tuple[tuple[str, str], ...], Trial] = {}
    for proposal in track(
        missing, STAGE, len(proposals), progress, done=len(proposals) - len(missing)
    ):
        sampler.next = {unit: fmt.name for unit, fmt in proposal.assignment.items()}
        asked = study.ask(distributions)
        errors, heldout = measure(proposal)
        totals = problem.evaluate(proposal.assignment)
        asked.set_user_attr("name", proposal.name)
        asked.set_user_attr("kind", proposal.kind)
        asked.set_user_attr("errors", list(errors))
        asked.set_user_attr("heldout_errors", None if heldout is None else list(heldout))
        asked.set_user_attr("compression", totals.compression)
        trial = Trial(proposal, totals, tuple(errors), None if heldout is None else tuple(heldout))
        study.tell(asked, [trial.measured.error, totals.weight_bytes, totals.latency_s])
        finished[_key(proposal)] = trial
    return [
        finished.get(_key(proposal)) or _restored(proposal, problem, done[_key(proposal)])
        for proposal in proposals
    ]


def _restored(proposal: Proposal, problem: Problem, frozen: FrozenTrial) -> Trial:
    heldout = frozen.user_attrs["heldout_errors"]
    return Trial(
        proposal,
        problem.evaluate(proposal.assignment),
        tuple(frozen.user_attrs["errors"]),
        None if heldout is None else tuple(heldout),
    )


def _key(proposal: Proposal) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((unit, fmt.name) for unit, fmt in proposal.assignment.items()))
