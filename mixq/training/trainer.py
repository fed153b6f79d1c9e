"""Trainer: the loop of steps, evaluations and the best so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mixq.batch import sample_count
from mixq.errors import ModelError
from mixq.progress import Progress
from mixq.training.distillation import Distillation, Lesson
from mixq.training.student import Rate, Student

STAGE = "training"
EVALUATIONS = 20
"""How often a run looks at held-out data, evenly spread."""
LARGEST_GRADIENT = 1.0
"""Norm of all gradients together, above which they are made smaller."""
EPSILON = 1e-12
"""Of Adam; its usual 1e-8 is no longer small beside the gradients of 10^8 weights."""
WARM_UP = 0.05
"""Part of the steps in which the learning rate rises to its full size."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: batches learned from.
        learning_rate: the largest step of a number relative to its size.
        seed: of the order of batches.
    """

    steps: int
    learning_rate: float
    seed: int

    def rate(self, step: int) -> float:
        """Learning rate of a step: a short rise, then half a cosine down to zero."""
        rise = max(1, round(self.steps * WARM_UP))
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        part = (step - rise) / max(1, self.steps - rise)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * part))

    def batch(self, step: int, batches: int) -> int:
        """Which of the batches a step learns from; each once in a round, in random order."""
        round_, place = divmod(step, batches)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + round_)
        return int(torch.randperm(batches, generator=generator)[place])

    def is_looked_at(self, step: int) -> bool:
        """Whether held-out data are looked at after so many steps."""
        every = max(1, self.steps // EVALUATIONS)
        return step == self.steps or step % every == 0


@dataclass(frozen=True, slots=True)
class Look:
    """What held-out data said.

    Attributes:
        step: steps behind.
        loss: mean over held-out samples.
    """

    step: int
    loss: float


@dataclass
class State:
    """Where a run is; with the trained numbers, what a checkpoint holds.

    Attributes:
        step: steps behind.
        looks: at held-out data, in order; the first is the start.
        best: the trained numbers at the look of least loss.
        moments: Adam's two running means of each trained number.
        broken: whether a loss or gradient was not finite, which ended the run.
    """

    step: int = 0
    looks: list[Look] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    broken: bool = False

    @property
    def best_look(self) -> Look:
        """The look of least loss, the earliest of equals."""
        return min(self.looks, key=lambda look: look.loss)

    def note(self, loss: float, numbers: Mapping[str, Tensor]) -> None:
        """Take down a look at this step, and the trained numbers if it is the least so far."""
        if not math.isfinite(loss):
            self.broken = True
            return
        self.looks.append(Look(self.step, loss))
        if self.best_look.step == self.step:
            self.best = {name: number.detach().clone() for name, number in numbers.items()}


def train(
    student: Student,
    tuning: Lesson,
    heldout: Lesson,
    distillation: Distillation,
    schedule: Schedule,
    state: State,
    keep: Callable[[State, Mapping[str, Tensor]], None],
    progress: Progress,
) -> None:
    """Train until the last step, or until a number is not finite; `state` and `student` go along.

    Args:
        student: whose numbers are trained.
        tuning: learned from.
        heldout: looked at, to choose the best step.
        distillation: the loss.
        schedule: how long and how fast.
        state: where to start.
        keep: is called after every look with the state and the trained numbers.
        progress: is told how far it is.

    Raises:
        ModelError: if the loss at the start is not finite or has no gradient.
    """
    rates = student.trained()
    numbers = {name: rate.tensor for name, rate in rates.items()}
    adam = _adam(rates, state)
    if not state.looks:
        loss = look(student, heldout, distillation)
        if not math.isfinite(loss):
            raise ModelError(
                "the loss is NaN or infinite before the first step; repair the model, choose "
                "wider formats or other data"
            )
        state.note(loss, numbers)
        keep(state, numbers)
    progress(STAGE, state.step, schedule.steps)
    while state.step < schedule.steps and not state.broken:
        index = schedule.batch(state.step, len(tuning.batches))
        if not _learn(student, tuning, distillation, index, numbers):
            state.broken = True
            break
        for group, rate in zip(adam.param_groups, rates.values(), strict=True):
            group["lr"] = schedule.rate(state.step) * rate.size
        adam.step()
        state.step += 1
        if schedule.is_looked_at(state.step):
            state.note(look(student, heldout, distillation), numbers)
            keep(state, numbers)
        progress(STAGE, state.step, schedule.steps)


def _learn(
    student: Student,
    lesson: Lesson,
    distillation: Distillation,
    index: int,
    numbers: Mapping[str, Tensor],
) -> bool:
    """Gradients of the loss of one batch, not longer than allowed; False if not finite."""
    batch, target = lesson.batches[index], distillation.target(lesson, index)
    with student.running(), torch.enable_grad():
        loss = distillation(student.output(batch, student.tensors()), target, batch)
        if not loss.requires_grad:
            raise ModelError(
                "the loss does not depend on the weights in a way that torch can follow; a model "
                "whose forward runs without gradients or detaches its output cannot be trained"
            )
        gradients = torch.autograd.grad(
            loss, list(numbers.values()), allow_unused=True, materialize_grads=True
        )
    for number, gradient in zip(numbers.values(), gradients, strict=True):
        number.grad = gradient
    norm = nn.utils.clip_grad_norm_(list(numbers.values()), LARGEST_GRADIENT)
    return bool(torch.isfinite(norm)) and bool(torch.isfinite(loss))


def look(student: Student, heldout: Lesson, distillation: Distillation) -> float:
    """Mean loss over held-out samples."""
    total, samples = 0.0, 0
    with torch.no_grad():
        tensors = student.tensors()
    for index, batch in enumerate(heldout.batches):
        target = distillation.target(heldout, index)
        with student.running():
            loss = float(distillation(student.output(batch, tensors), target, batch))
        total += loss * sample_count(batch)
        samples += sample_count(batch)
    return total / samples


def _adam(rates: Mapping[str, Rate], state: State) -> torch.optim.Adam:
    """Adam as it was after `state.step` steps; `state.moments` are its own from now on."""
    adam = torch.optim.Adam([{"params": [rate.tensor]} for rate in rates.values()], eps=EPSILON)
    for name, rate in rates.items():
        if name not in state.moments:
            zeros = torch.zeros_like(rate.tensor)
            state.moments[name] = (zeros, zeros.clone())
        mean, square = state.moments[name]
        adam.state[rate.tensor] = {
            "step": torch.tensor(float(state.step)), "exp_avg": mean, "exp_avg_sq": square,
        }  # fmt: skip
    return adam
