"""Recorder: sees every operation of a forward pass and tells what meets which weights."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from mixq.graph.dispatch import Dispatch, tensors_in
from mixq.graph.operations import FACTORS, operator_name
from mixq.moments.inputs import Inputs, Vectors, Windows
from mixq.moments.places import Places, RowsOf
from mixq.moments.positions import Positions

_COPIES = frozenset(("clone", "_to_copy"))


class Sink(Protocol):
    """Is told what a recorder sees, while it happens."""

    def meet(self, rows: RowsOf, columns: int, inputs: Inputs) -> None:
        """These rows of a unit meet these inputs."""
        ...

    def refuse(self, unit: str) -> None:
        """Rows of `unit` meet something else than vectors along its columns."""
        ...

    def forget(self) -> None:
        """Memory that inputs lie in may be written to from here on."""
        ...


class Recorder(Dispatch):
    """Tells `sink` of every product of units with activations in the passes that it is on for.

    Reads operations below modules, like `mixq.graph.trace`: composite operators by their parts,
    slices of weights as the rows that they are, copies in another dtype as what was copied.
    """

    def __init__(self, places: Places, positions: Positions, sink: Sink) -> None:
        super().__init__()
        self._places = places
        self._positions = positions
        self._sink = sink

    def see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """See `Dispatch`."""
        name = operator_name(func)
        factors = FACTORS.get(name.removesuffix("_"))
        if factors is not None:
            self._product(args[factors[0]], args[factors[1]])
        elif name == "convolution":
            self._convolution(args)
        elif name == "mkldnn_rnn_layer":
            self._recurrent(args, output[0])
        elif name == "_grouped_mm":
            self._grouped(args)
        elif name in _COPIES and self._places.units(args[0]):
            self._places.copy(args[0], output)
        if func._schema.is_mutable:
            self._sink.forget()
        self._positions.note(func, tensors_in((args, kwargs)), tensors_in(output))

    def _product(self, left: Tensor, right: Tensor) -> None:
        """([batch,] m, k) x ([batch,] k, n), or a vector in place of either matrix."""
        left_units, right_units = self._places.units(left), self._places.units(right)
        if left_units and right_units:
            self._refuse(left, right)
        elif right_units:
            weight = right.unsqueeze(1) if right.dim() == 1 else right
            self._meet(weight.mT, left.unsqueeze(0) if left.dim() == 1 else left, left)
        elif left_units:
            inputs = right.unsqueeze(0) if right.dim() == 1 else right.mT
            self._meet(left.unsqueeze(0) if left.dim() == 1 else left, inputs, inputs)

    def _meet(self, weight: Tensor, inputs: Tensor, seen: Tensor) -> None:
        """Weight ([batch,] n, k) meets inputs ([batch,] m, k), which the model knows as `seen`."""
        if weight.dim() == 2:
            self._vectors(weight, inputs, self._positions.keep(seen, tuple(inputs.shape[:-1])))
        elif weight.shape[0] == 1 or weight.stride(0) == 0:  # one matrix for the whole batch
            keep = self._positions.keep(seen, tuple(inputs.shape[:-1]))
            self._vectors(weight[0], inputs.flatten(0, 1), keep)
        else:
            for matrix, part in zip(weight, inputs, strict=True):
                self._vectors(matrix, part, None)

    def _vectors(self, weight: Tensor, inputs: Tensor, keep: Tensor | None) -> None:
        rows = self._places.matrix(weight)
        if rows is None:
            self._refuse(weight)
        else:
            self._sink.meet(rows, weight.shape[1], Vectors(inputs, keep))

    def _convolution(self, args: tuple[Any, ...]) -> None:
        inputs, weight, _, stride, padding, dilation, transposed, _, groups = args[:9]
        if not self._places.units(weight):
            return
        rows = None if transposed else self._places.kernel(weight)
        if rows is None:
            self._refuse(weight)
            return
        space = weight.dim() - 2
        windows = Windows(
            tensor=inputs,
            kernel=tuple(weight.shape[2:]),
            stride=_each(stride, space),
            padding=_each(padding, space),
            dilation=_each(dilation, space),
            groups=groups,
        )
        leading = (inputs.shape[0], *windows.outputs)
        keep = self._positions.keep(inputs, leading)
        self._sink.meet(rows, weight[0].numel(), windows.kept(keep))

    def _recurrent(self, args: tuple[Any, ...], outputs: Tensor) -> None:
        """One layer and direction of an LSTM; inputs and outputs (steps, batch, features)."""
        inputs, input_weight, hidden_weight = args[:3]
        state, is_reverse = args[5].unsqueeze(0), args[7]
        # What each step starts from: the step before it in the direction of reading.
        states = (outputs[1:], state) if is_reverse else (state, outputs[:-1])
        for weight, steps in (
            (input_weight, inputs),
            (hidden_weight, torch.cat(states)),
        ):
            if self._places.units(weight):
                keep = self._positions.keep(steps, tuple(steps.shape[:2]))
                self._vectors(weight, steps.flatten(0, 1), keep)

    def _grouped(self, args: tuple[Any, ...]) -> None:
        """(tokens, k) x (experts, k, n): tokens ends[e - 1]..ends[e] - 1 meet expert e."""
        left, right = args[:2]
        ends = args[2] if len(args) > 2 else None
        if not self._places.units(right):
            return
        if left.dim() != 2 or right.dim() != 3 or ends is None:
            self._refuse(right)
            return
        low = 0
        for matrix, high in zip(right.mT, ends.tolist(), strict=True):
            self._vectors(matrix, left[low:high], None)
            low = high

    def _refuse(self, *weights: Tensor) -> None:
        for weight in weights:
            for unit in self._places.units(weight):
                self._sink.refuse(unit)


def _each(sizes: list[int], space: int) -> tuple[int, ...]:
    """One number per dimension; a single one (of `padding="valid"`, say) stands for all."""
    return tuple(sizes) * space if len(sizes) == 1 else tuple(sizes)
