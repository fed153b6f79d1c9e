"""Finetuned: what a training run came to."""

from __future__ import annotations

from dataclasses import dataclass

from mixq.plan import Plan
from mixq.training.trainer import Look, State


@dataclass(frozen=True, slots=True)
class Finetuned:
    """A trained plan, and how it came about.

    Attributes:
        plan: of the same formats and bytes, with the trained codes, scales and others beside it;
            the given plan itself if training did not help.
        looks: loss on held-out data at the start and every so often.
        best: the one that `plan` is; with batch norms estimated again, its loss is the lower one.
        note: what happened, in one line.
    """

    plan: Plan
    looks: tuple[Look, ...]
    best: Look
    note: str


def note_of(state: State, best: Look, steps: int, samples: int, *, held_out: bool) -> str:
    """What happened, in one line.

    Args:
        state: at the end of the run.
        best: what came back.
        steps: that were asked for.
        samples: learned from.
        held_out: whether others were left to choose the best step.
    """
    start = state.looks[0].loss
    what = "held-out loss" if held_out else "loss (no sample was left to hold out)"
    note = (
        f"finetuned for {best.step} of {steps} steps on {samples} samples: {what} {start:.3g} to "
        f"{best.loss:.3g}"
    )
    if best == state.looks[0]:
        note = (
            f"finetuning on {samples} samples did not lower the {what} of {start:.3g}, so the "
            "plan is as it was"
        )
    if state.broken:
        note += (
            f"; a loss became NaN or infinite after step {state.step}, which ended it: try a "
            "smaller learning_rate"
        )
    return note
