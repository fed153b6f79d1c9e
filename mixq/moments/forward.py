"""Running a model with a recorder on, with some of its weights replaced perhaps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from mixq.batch import Batch, call
from mixq.graph.dispatch import attention_in_parts
from mixq.graph.evaluating import evaluating
from mixq.graph.replacing import call_with, check_replaceable, recurrent_weights_put_back, slots
from mixq.graph.units import WeightUnit
from mixq.moments.inputs import Inputs
from mixq.moments.places import Places, RowsOf
from mixq.moments.positions import Positions
from mixq.moments.recorder import Recorder, Sink


class _AllMet(BaseException):
    """Ends a forward pass early; no `except Exception` of a model's own may swallow it."""


class Runner:
    """Runs a model in eval mode and tells a sink what meets its units; see `recording`."""

    def __init__(
        self, model: nn.Module, units: Sequence[WeightUnit], replaced: Mapping[str, Tensor] | None
    ) -> None:
        self._model = model
        self._units = units
        parameters = dict(model.named_parameters(remove_duplicate=False))
        own = slots(model)
        self._replaced = {n: tensor for n, tensor in (replaced or {}).items() if n in own}
        self._tensors = {**parameters, **(replaced or {})}
        # Another runner of the same model must not change what this one draws.
        self._random = torch.get_rng_state()
        # TorchScript turns whatever ends a pass into an error of its own.
        scripted = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
        self._ends_early = bool(units) and not scripted and all(map(_is_met_once, units))

    def run(self, batch: Batch, sink: Sink) -> None:
        """One forward pass, or as much of it as the units need.

        Raises:
            CalibrationError: if the batch does not fit the model.
        """
        until = _Until(sink, {unit.name for unit in self._units})
        recorder = Recorder(
            Places(self._units, self._tensors),
            Positions(batch),
            until if self._ends_early else sink,
        )
        torch.set_rng_state(self._random)
        try:
            with recorder:
                if self._replaced:
                    call_with(self._model, self._replaced, batch)
                else:
                    call(self._model, batch)
        except _AllMet:
            pass
        finally:
            self._random = torch.get_rng_state()
            sink.forget()


@contextlib.contextmanager
def recording(
    model: nn.Module, units: Sequence[WeightUnit], replaced: Mapping[str, Tensor] | None = None
) -> Iterator[Runner]:
    """A runner of `model`, which is in eval mode meanwhile and left as it was.

    Args:
        model: any module.
        units: of the model, whose inputs are wanted.
        replaced: tensors to run with, by every name of the parameters that they stand for.

    Raises:
        ModelError: if the weights of a TorchScript module are to be replaced.
    """
    if replaced:
        check_replaceable(model)
    put_back = recurrent_weights_put_back(model) if replaced else contextlib.nullcontext()
    with put_back, attention_in_parts(), evaluating(model):
        yield Runner(model, units, replaced)


class _Until:
    """A sink that ends the pass once every unit of `waiting` was met."""

    def __init__(self, sink: Sink, waiting: set[str]) -> None:
        self._sink = sink
        self._waiting = waiting

    def meet(self, rows: RowsOf, columns: int, inputs: Inputs) -> None:
        self._sink.meet(rows, columns, inputs)
        self._done(rows.unit)

    def refuse(self, unit: str) -> None:
        self._sink.refuse(unit)
        self._done(unit)

    def forget(self) -> None:
        self._sink.forget()

    def _done(self, unit: str) -> None:
        self._waiting.discard(unit)
        if not self._waiting:
            raise _AllMet


def _is_met_once(unit: WeightUnit) -> bool:
    met = [work for work in unit.work if work.kind != "gather"]
    return len(met) == 1 and met[0].kind in ("gemm", "conv") and met[0].repeats == 1
