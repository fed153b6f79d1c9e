"""Suffixes: output errors of changed weights, from what follows them in a pass alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mixq.batch import call, named_tensors
from mixq.errors import ModelError
from mixq.graph.evaluating import evaluating
from mixq.graph.replay import Replay
from mixq.graph.tape import DivergedError, Recorder
from mixq.rounding.replacement import Replacement
from mixq.sensitivity.reference import Reference


class Suffixes:
    """The batches of a reference, each stopped before the weights that are measured.

    Weights have to come in the order of `first_use`; one that lies behind is measured by the
    reference itself, with the same result and more work.

    Attributes:
        is_certain: whether nothing but the tape decides what the model computes; else its Python
            code looks at numbers, or makes tensors that depend on them.

    Raises:
        ModelError: if the model cannot be run from a tape.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._replays: list[Replay] = []
        model = reference.model
        for batch, own in zip(reference.batches, reference.own, strict=True):
            recorder = Recorder(model, [tensor for _, tensor in named_tensors(batch)])
            try:
                with evaluating(model), recorder:
                    found = reference.metric.pick(call(model, batch))
            except ModelError:
                raise
            except Exception as error:  # the batch is known to fit: torch's dispatch does not
                raise ModelError(f"{type(error).__name__}: {error}") from error
            if not all(
                torch.allclose(found[name], tensor, rtol=0, atol=0, equal_nan=True)
                for name, tensor in own.items()
            ):
                raise ModelError("recorded, it gives other bits")
            self._replays.append(Replay(recorder.finish(*found.values())))
        self.is_certain = all(replay.tape.is_certain for replay in self._replays)

    def first_use(self, names: frozenset[str]) -> tuple[int, ...]:
        """Where each batch first reads one of the tensors of these names."""
        return tuple(replay.tape.first_use(_values(replay, names)) for replay in self._replays)

    def errors(self, replacement: Replacement, what: str) -> list[float]:
        """As `Reference.errors`, to the bit."""
        names = frozenset(replacement.tensors)
        uses = self.first_use(names)
        behind = any(
            use < replay.position for use, replay in zip(uses, self._replays, strict=True)
        )
        if replacement.inputs or behind:
            return self._reference.errors(replacement, what)
        per_sample: list[float] = []
        tensors, device = replacement.tensors, self._reference.device
        with evaluating(self._reference.model):
            for index, (replay, use) in enumerate(zip(self._replays, uses, strict=True)):
                replay.advance(use)
                outputs = self._reference.own[index]
                try:
                    found = replay.outputs(_changed(replay, tensors, device))
                except (DivergedError, RuntimeError):
                    return self._reference.errors(replacement, what)
                if found is not None:
                    outputs = dict(zip(outputs, found, strict=True))
                per_sample += self._reference.compared(index, outputs, what)
        return per_sample


def _values(replay: Replay, names: frozenset[str]) -> frozenset[int]:
    return frozenset(replay.tape.names[name] for name in names if name in replay.tape.names)


def _changed(
    replay: Replay, tensors: Mapping[str, Tensor], device: torch.device
) -> dict[int, Tensor]:
    names = replay.tape.names
    return {names[name]: tensor.to(device) for name, tensor in tensors.items() if name in names}
