"""Pass: one forward pass, stopped before every part that it calls.

The code around the blocks is somebody else's and calls them one after the other. To run several
passes side by side, each part fetched once for all of them, every pass needs a stack of its own:
a thread. Only one of them, or the caller, runs at any time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final

import torch

from mixq.batch import Batch, call
from mixq.errors import MixqError, ModelError
from mixq.streaming.model import StreamedModel
from mixq.streaming.parts import Part


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a part that waits for its output.

    Attributes:
        part: what is called.
        args, kwargs: with what.
        index: how many calls the pass has made before.
    """

    part: Part
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    index: int


class _Stopped(BaseException):
    """Ends the thread of a pass that nobody wants any more."""


@dataclass(frozen=True, eq=False)
class Failure:
    """An error in place of an output."""

    error: BaseException


@dataclass(frozen=True, eq=False)
class _End:
    """What the model returns."""

    output: object


_STOP: Final = object()


class Pass:
    """A forward pass of `streamed` on a batch.

    Args:
        streamed: its doors are closed as long as the pass runs.
        batch: what it is run on.
        gradients: whether what happens between parts is recorded for differentiation.
    """

    def __init__(self, streamed: StreamedModel, batch: Batch, *, gradients: bool = False) -> None:
        self._streamed = streamed
        self._batch = batch
        self._gradients = gradients
        self._calls = 0
        self._events: SimpleQueue[Call | _End | Failure] = SimpleQueue()
        self._answers: SimpleQueue[object] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.output: object = None

    def start(self) -> Call | None:
        """Its first call; None if it makes none."""
        self._thread.start()
        return self._next()

    def go_on(self, answer: object) -> Call | None:
        """Its next call, given the output of the last one; None at its end, with `output` set.

        Raises:
            MixqError: what the model's own code raises, as `mixq.batch.call` says it.
        """
        self._answers.put(answer)
        return self._next()

    def stop(self) -> None:
        """End it early."""
        if self._thread.is_alive():
            self._answers.put(_STOP)
            self._thread.join()

    def _next(self) -> Call | None:
        event = self._events.get()
        if isinstance(event, Call):
            return event
        self._thread.join()
        if isinstance(event, Failure):
            raise event.error
        self.output = event.output
        return None

    def _work(self) -> None:
        try:
            with (
                torch.set_grad_enabled(self._gradients),  # each thread has its own
                self._streamed.doors.visited_by(self._visit),
            ):
                output = call(self._streamed.model, self._batch)
        except _Stopped:
            return
        except BaseException as error:  # raised again by whoever waits for the pass
            self._events.put(Failure(error))
        else:
            self._events.put(_End(output))

    def _visit(self, part: Part, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        asked = Call(part, args, kwargs, self._calls)
        self._calls += 1
        self._events.put(asked)
        answer = self._answers.get()
        if answer is _STOP:
            raise _Stopped
        if isinstance(answer, Failure):
            raise answer.error
        return answer


@contextlib.contextmanager
def passes(
    streamed: StreamedModel, batches: Sequence[Batch], *, gradients: bool = False
) -> Iterator[list[Pass]]:
    """A pass on each batch; those that have not ended are stopped."""
    made = [Pass(streamed, batch, gradients=gradients) for batch in batches]
    try:
        with streamed.doors.closed():
            try:
                yield made
            finally:
                for one in made:
                    one.stop()
    finally:
        made.clear()


Answer = Callable[[int, Call], object]
"""Output of the call of the pass of that number, whose part is in memory; DROP ends the pass."""
DROP: Final = object()


def run_together(
    streamed: StreamedModel,
    running: Sequence[Pass],
    waiting: dict[int, Call],
    answer: Answer,
    ended: Callable[[int, object], None],
) -> None:
    """Run passes to their ends, every part in memory once for all that wait before it.

    Args:
        streamed: the model.
        running: its passes.
        waiting: the call that each pass waits with, by its number; empty at the end.
        answer: gives the output of a call.
        ended: is given the output of a pass that is at its end.

    Raises:
        ModelError: if a part's weights are used without calling it.
    """
    while waiting:
        # Whoever has made the fewest calls goes first, so that all meet before later parts.
        part = min(waiting.values(), key=lambda waits: waits.index).part
        with streamed.in_memory(part):
            while due := [number for number, waits in waiting.items() if waits.part is part]:
                for number in due:
                    try:
                        output = answer(number, waiting.pop(number))
                    except MixqError:
                        raise
                    except Exception as error:  # the model's own, of which its caller is told
                        output = Failure(error)
                    if output is DROP:
                        running[number].stop()
                        continue
                    following = running[number].go_on(output)
                    if following is not None:
                        waiting[number] = following
                    else:
                        ended(number, running[number].output)
                        running[number].output = None


def started(running: Sequence[Pass]) -> dict[int, Call]:
    """The first call of every pass."""
    first = {number: one.start() for number, one in enumerate(running)}
    if any(waits is None for waits in first.values()):
        raise ModelError("the model calls none of its blocks; analyze it without --stream")
    return {number: waits for number, waits in first.items() if waits is not None}
