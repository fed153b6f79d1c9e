"""Replay: a pass that stands before a weight, and ends once for each value of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixq.graph.tape import Step, Tape, run_step


@dataclass(frozen=True, slots=True)
class _Rest:
    """What follows a change.

    Attributes:
        shared: steps that do not depend on what has changed, and are run once.
        own: steps that do.
        done: after each of `own`, the values that nothing reads any more. Freed at once, their
            memory serves the next step while it still is in the caches.
        copied: storages that `own` changes in place, and that must be left as they are.
    """

    shared: tuple[Step, ...]
    own: tuple[Step, ...]
    done: tuple[tuple[int, ...], ...]
    copied: frozenset[int]


class Replay:
    """Runs a tape forward, and from where it stands to the end with other values for some.

    Only what is still needed is kept: the values that a later step reads.

    Attributes:
        position: the next step of the tape.
    """

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.position = 0
        self._values = dict(tape.given)
        self._last = tape.last_uses()
        self._known: tuple[frozenset[int], _Rest, dict[int, Tensor]] | None = None

    def advance(self, position: int) -> None:
        """Run every step before `position` with the original's values."""
        if position > self.position:
            self._known = None
        for index in range(self.position, position):
            step = self.tape.steps[index]
            run_step(step, self._values)
            touched = {value for _, value in (*step.reads, *step.outputs)}
            for value in touched:
                if self._last.get(value, -1) <= index:
                    self._values.pop(value, None)
        self.position = max(self.position, position)

    def outputs(self, changed: Mapping[int, Tensor]) -> tuple[Tensor, ...] | None:
        """The outputs with other tensors for values that no earlier step has read.

        None if no output depends on them.

        Raises:
            DivergedError: if Python code would have seen other numbers.
        """
        rest, values = self._rest(frozenset(changed))
        if not rest.own:
            return None
        values = dict(values)
        _copy_storages(values, rest.copied, self.tape)
        values |= changed
        for step, done in zip(rest.own, rest.done, strict=True):
            run_step(step, values)
            for value in done:
                del values[value]
        return tuple(values[output] for output in self.tape.outputs)

    def _rest(self, changed: frozenset[int]) -> tuple[_Rest, dict[int, Tensor]]:
        if self._known is None or self._known[0] != changed:
            rest = _rest_of(self.tape, self.position, changed)
            values = dict(self._values)
            for step in rest.shared:
                run_step(step, values)
            self._known = (changed, rest, values)
        return self._known[1:]


def _rest_of(tape: Tape, position: int, changed: frozenset[int]) -> _Rest:
    steps = tape.steps
    moved: set[int] = set()
    for index in range(position, len(steps)):
        step = steps[index]
        if not moved.isdisjoint(step.after) or any(v in changed for _, v in step.reads):
            moved.add(index)
    # Numbers that Python code has looked at must be the same, whatever became of them.
    pending = [*tape.ends, *(index for index in moved if steps[index].seen is not None)]
    needed: set[int] = set()
    while pending:
        index = pending.pop()
        if index >= position and index not in needed:
            needed.add(index)
            pending += steps[index].after
    if moved.isdisjoint(needed):
        return _Rest((), (), (), frozenset())
    order = sorted(needed)
    written = {tape.groups[value] for index in order for value in steps[index].writes}
    if written:  # what is changed in place is read before and after: everything in its order
        own = tuple(steps[index] for index in order)
        return _Rest((), own, _done(own, tape.outputs), frozenset(written))
    own = tuple(steps[index] for index in order if index in moved)
    shared = tuple(steps[index] for index in order if index not in moved)
    return _Rest(shared, own, _done(own, tape.outputs), frozenset())


def _done(steps: tuple[Step, ...], outputs: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """After each step, the values that it and earlier ones made or read for the last time."""
    last = {v: i for i, step in enumerate(steps) for _, v in (*step.reads, *step.outputs)}
    done: list[list[int]] = [[] for _ in steps]
    for value, index in last.items():
        if value not in outputs:
            done[index].append(value)
    return tuple(tuple(values) for values in done)


def _copy_storages(values: dict[int, Tensor], groups: frozenset[int], tape: Tape) -> None:
    """Put copies in place of the values that lie in some storages; views of one stay views."""
    copies: dict[int, torch.UntypedStorage] = {}
    for value, tensor in values.items():
        group = tape.groups[value]
        if group in groups:
            if group not in copies:
                copies[group] = tensor.untyped_storage().clone()
            values[value] = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
                copies[group], tensor.storage_offset(), tensor.size(), tensor.stride()
            )
