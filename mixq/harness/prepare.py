"""Seeds and numbers of examples, as the harness sets them before it asks a model.

`lm_eval.simple_evaluate` does this too, but it also starts git and a survey of the machine, and
calls the state of whatever folder it is started in its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mixq.harness.settings import Settings
from mixq.harness.tasks import Tasks


@dataclass(frozen=True)
class Seeds:
    """Of everything random; by default the harness's own, with which figures are published."""

    python: int = 0
    numpy: int = 1234
    torch: int = 1234
    examples: int = 1234

    @classmethod
    def of(cls, seed: int | None) -> Seeds:
        """One for all; the harness's own if None."""
        return cls() if seed is None else cls(seed, seed, seed, seed)


def prepare(tasks: Tasks, settings: Settings) -> None:
    """Make another run with the same settings ask the same."""
    seeds = Seeds.of(settings.seed)
    random.seed(seeds.python)
    np.random.seed(seeds.numpy)  # noqa: NPY002 - what tasks of others draw from
    torch.manual_seed(seeds.torch)
    for task in tasks.leaves.values():
        _set_examples(task, settings.num_fewshot)
        task.set_fewshot_seed(seed=seeds.examples)


def _set_examples(task: Any, wanted: int | None) -> None:
    """So many examples; a task that says 0 itself has none to give and keeps 0."""
    own = task.get_config("num_fewshot")
    if wanted is not None and own != 0:
        task.set_config(key="num_fewshot", value=wanted)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
