"""PlanSampler: hands Optuna the plans that the search proposes, one for each trial."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

ENQUEUED: Final = "fixed_params"
"""Optuna's own attribute of a trial from `Study.enqueue_trial`, which needs no plan of ours."""


class PlanSampler(BaseSampler):
    """Every trial takes the next plan of a queue: a parameter for each unit, its format's name.

    Trials that find the queue empty, and parameters that no unit is called by, are drawn at
    random as a function of the seed, the trial's number and the parameter's name: no state is
    kept, so that threads, processes and resumed runs draw the same.

    Args:
        choices: unit name to the names of the formats that it may take.
        seed: of what is drawn at random.
    """

    def __init__(self, choices: Mapping[str, Sequence[str]] | None = None, seed: int = 0) -> None:
        self.space: dict[str, BaseDistribution] = {
            unit: CategoricalDistribution(formats) for unit, formats in (choices or {}).items()
        }
        self._seed = seed
        self._queue: deque[Mapping[str, str]] = deque()
        self._plans: dict[int, Mapping[str, str]] = {}

    def queue(self, plan: Mapping[str, str]) -> None:
        """Give this plan, unit name to format name, to the next trial that asks for one."""
        self._queue.append(dict(plan))

    def whole(
        self,
        user_attrs: Mapping[str, Any] | None = None,
        constraints: Mapping[str, float] | None = None,
    ) -> FrozenTrial:
        """The next plan of the queue as a running trial that no storage has yet.

        `Study.ask` would write each parameter by itself, which takes a journal 0.1 s for 200
        units, and shows others a plan in the making.

        Raises:
            IndexError: if the queue is empty.
        """
        plan = self._queue.popleft()
        return create_trial(
            state=TrialState.RUNNING,
            params=dict(plan),
            distributions={unit: self.space[unit] for unit in plan},
            user_attrs=dict(user_attrs or {}),
            constraints=dict(constraints or {}),
        )

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Give a new trial its plan; one that came whole, or by `enqueue_trial`, takes none."""
        if trial.params or ENQUEUED in trial.system_attrs:
            return
        try:
            self._plans[trial.number] = self._queue.popleft()
        except IndexError:
            return

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The units of the trial's plan."""
        plan = self._plans.get(trial.number, {})
        return {unit: space for unit, space in self.space.items() if unit in plan}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The formats of these units in the trial's plan."""
        return {
            name: self.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The format of one unit in the trial's plan; what the plan does not have, at random."""
        plan = self._plans.get(trial.number, {})
        if param_name in plan:
            return plan[param_name]
        entropy = [self._seed, trial.number, zlib.crc32(param_name.encode())]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Forget the trial's plan."""
        self._plans.pop(trial.number, None)

    def reseed_rng(self) -> None:
        """Nothing to do: trials differ by their numbers, and so does what is drawn for them."""
