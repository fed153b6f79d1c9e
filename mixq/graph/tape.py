"""Tape: the operations of one forward pass, kept so that a part of them can be run again.

What lies before a changed weight need not be computed again, and what does not depend on it
neither. The operations are those that torch dispatched, with the arguments that they had, so
running them again gives the same bits; nothing of the model's Python code is run. Where that code
looked at a number that has changed meanwhile, it might have gone another way, which is said by
`DivergedError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from mixq.errors import ModelError
from mixq.graph.dispatch import Dispatch

LOOKED_AT: Final = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
"""Operations whose results' values or shapes Python code may have acted upon."""


class DivergedError(Exception):
    """Python code has seen another number than on the tape."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One operation.

    Attributes:
        func: the ATen operator.
        leaves: of its arguments, None where a value of the tape belongs.
        spec: how the leaves make up `(args, kwargs)`; None where the leaves are the positional
            arguments themselves, which spares most of what Python adds to a step.
        reads: positions among the leaves, and the values that belong there.
        writes: values that it changes in place.
        outputs: positions among the leaves of the result, and the values that stand there.
        seen: what Python code may have acted upon: numbers and shapes of the result.
        after: steps that it depends on.
    """

    func: Any
    leaves: Sequence[Any]
    spec: TreeSpec | None
    reads: tuple[tuple[int, int], ...]
    writes: tuple[int, ...]
    outputs: tuple[tuple[int, int], ...]
    seen: tuple[object, ...] | None
    after: frozenset[int]


@dataclass(slots=True)
class Tape:
    """A forward pass, operation by operation.

    Attributes:
        steps: in order.
        given: values that no step makes: parameters, inputs, constants.
        names: values of named parameters and buffers, under each of their names.
        groups: the storage that each value lies in; views share one.
        outputs: the values that were asked for.
        ends: steps that the outputs depend on.
        is_certain: whether all that Python code did between the steps is on the tape: it looked at
            no number or shape that depends on parameters, and brought in no tensor of its own
            making but single numbers.
    """

    steps: list[Step] = field(default_factory=list)
    given: dict[int, Tensor] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    groups: list[int] = field(default_factory=list)
    outputs: tuple[int, ...] = ()
    ends: frozenset[int] = frozenset()
    is_certain: bool = True

    def first_use(self, values: frozenset[int]) -> int:
        """The first step that reads one of `values`; the number of steps if none does."""
        for index, step in enumerate(self.steps):
            if any(value in values for _, value in step.reads):
                return index
        return len(self.steps)

    def last_uses(self) -> dict[int, int]:
        """The last step that reads each value; the number of steps for outputs."""
        last = {v: i for i, step in enumerate(self.steps) for _, v in step.reads}
        return last | dict.fromkeys(self.outputs, len(self.steps))


class Recorder(Dispatch):
    """Writes a tape while it is on.

    Args:
        model: whose parameters and buffers are known by name.
        inputs: of the pass.

    Raises:
        ModelError: within the pass, if it draws random numbers or writes over what it was given.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self._begun = False
        self.tape = Tape()
        self._values: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._held: list[Tensor] = []
        self._producers: dict[int, int] = {}
        self._changed: dict[int, int] = {}
        self._storages: dict[int, int] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self.tape.names[name] = self._given(parameter)
        self._weighed = {self.tape.groups[value] for value in self.tape.given}
        for name, buffer in model.named_buffers(remove_duplicate=False):
            self.tape.names[name] = self._given(buffer)
        for tensor in inputs:
            self._given(tensor)
        self._begun = True

    def finish(self, *outputs: Tensor) -> Tape:
        """The tape, whose outputs are these tensors.

        Raises:
            ModelError: if no step has made one of them.
        """
        if any(output not in self._values for output in outputs):
            raise ModelError("the output was made by no operation that torch dispatches")
        values = self.tape.outputs = tuple(int(self._values[output]) for output in outputs)
        places = {self._producers.get(value) for value in values}
        places |= {self._changed.get(self.tape.groups[value]) for value in values}
        self.tape.ends = frozenset(place for place in places if place is not None)
        return self.tape

    def see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Write one operation down."""
        if torch.Tag.nondeterministic_seeded in func.tags and not _drops_nothing(
            func, args, kwargs
        ):
            raise ModelError(f"{func} draws random numbers")
        index = len(self.tape.steps)
        leaves, spec = tree_flatten((args, kwargs))
        results, _ = tree_flatten(output)
        reads = [(i, self._of(x)) for i, x in enumerate(leaves) if isinstance(x, Tensor)]
        writes = tuple(self._of(tensor) for tensor in _written(func, args, kwargs))
        after = {self._producers[value] for _, value in reads if value in self._producers}
        groups = [self.tape.groups[value] for _, value in reads]
        after |= {self._changed[group] for group in groups if group in self._changed}
        storages = {
            leaf.untyped_storage().data_ptr(): self.tape.groups[value]
            for (_, value), leaf in zip(
                reads, (x for x in leaves if isinstance(x, Tensor)), strict=True
            )
        }
        outputs = []
        for position, result in enumerate(results):
            if isinstance(result, Tensor):
                known = result in self._values
                value = self._of(result) if known else self._new(result, storages)
                if not known:
                    self._producers[value] = index
                outputs.append((position, value))
        if not self._weighed.isdisjoint(groups):
            self._weighed |= {self.tape.groups[value] for _, value in outputs}
        for value in writes:
            if self.tape.groups[value] in map(self.tape.groups.__getitem__, self.tape.given):
                raise ModelError(f"{func} changes what the model was given, or owns")
            self._changed[self.tape.groups[value]] = index
        seen = None
        if any(tag in func.tags for tag in LOOKED_AT):
            seen = what_is_seen(results)
            self.tape.is_certain &= self._weighed.isdisjoint(groups)
        kept = [None if isinstance(x, Tensor) else x for x in leaves]
        self.tape.steps.append(
            Step(
                func=func,
                leaves=kept,
                spec=None if _is_flat(args, kwargs) else spec,
                reads=tuple(reads),
                writes=writes,
                outputs=tuple(outputs),
                seen=seen,
                after=frozenset(after),
            )
        )

    def _of(self, tensor: Tensor) -> int:
        found = self._values.get(tensor)
        return self._given(tensor) if found is None else found

    def _given(self, tensor: Tensor) -> int:
        if tensor in self._values:
            return int(self._values[tensor])
        pointer = tensor.untyped_storage().data_ptr()
        value = self._number(tensor, self._storages.get(pointer))
        if pointer:
            self._storages[pointer] = self.tape.groups[value]
        # What it is made of may be numbers that Python code has taken out of tensors.
        self.tape.is_certain &= not self._begun or tensor.numel() == 1
        self.tape.given[value] = tensor.detach() if isinstance(tensor, nn.Parameter) else tensor
        self._held.append(tensor)
        return value

    def _new(self, tensor: Tensor, storages: Mapping[int, int]) -> int:
        pointer = tensor.untyped_storage().data_ptr()
        return self._number(tensor, storages.get(pointer) if pointer else None)

    def _number(self, tensor: Tensor, group: int | None) -> int:
        value = len(self.tape.groups)
        self.tape.groups.append(value if group is None else group)
        self._values[tensor] = value
        return value


def what_is_seen(results: Sequence[object]) -> tuple[object, ...]:
    """Numbers and shapes among the leaves of a result."""
    return tuple(tuple(x.shape) if isinstance(x, Tensor) else x for x in results)


def run_step(step: Step, values: dict[int, Tensor]) -> None:
    """Run a step on `values`, and put its results there.

    Raises:
        DivergedError: if Python code would have seen another number or shape.
    """
    leaves = list(step.leaves)
    for position, value in step.reads:
        leaves[position] = values[value]
    if step.spec is None:
        output = step.func(*leaves)
    else:
        args, kwargs = tree_unflatten(leaves, step.spec)
        output = step.func(*args, **kwargs)
    results = [output] if isinstance(output, Tensor) else tree_flatten(output)[0]
    if step.seen is not None and what_is_seen(results) != step.seen:
        raise DivergedError
    for position, value in step.outputs:
        values[value] = results[position]


def _is_flat(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    return not kwargs and not any(isinstance(argument, list | tuple | dict) for argument in args)


def _drops_nothing(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation draws random numbers for dropout alone, and drops nothing.

    Attention is such a one, which torch says to be random for whatever it is called with.
    """
    for index, argument in enumerate(func._schema.arguments):
        if argument.name == "dropout_p":
            given = args[index] if index < len(args) else kwargs.get("dropout_p", 0.0)
            return bool(given == 0)
    return False


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The arguments that an operation changes in place."""
    found: list[Tensor] = []
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = args[index] if index < len(args) else kwargs.get(argument.name)
        found += [x for x in tree_flatten(given)[0] if isinstance(x, Tensor)]
    return found
