"""Example: the batch that a model is traced with, and which of its dimensions may vary."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.export import Dim

from mixq.batch import Batch, named_tensors, sample_count
from mixq.calibration import Calibration, repeat_sample

DynamicShapes: TypeAlias = Mapping[str, Any] | tuple[Any, ...]
_NAMED = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)
LEAST = 2
"""Samples of an example: torch.export takes a dimension of 1 for a constant."""


def example_batch(calibration: Calibration) -> Batch:
    """A batch to trace with: the calibration's first, with at least two samples if it may be."""
    first = calibration.batches[0]
    if sample_count(first) >= LEAST or calibration.whole:
        return first
    return repeat_sample(calibration, LEAST)


def dynamic_shapes(calibration: Calibration, *, sequence: bool) -> DynamicShapes:
    """Which dimensions of an example torch.export shall leave open, where the model allows it.

    The samples always; with `sequence`, also every further dimension of integer inputs, which are
    token ids and masks, and whatever differs between the batches of the calibration.
    """
    example = example_batch(calibration)
    open_dim = Dim.STATIC if calibration.whole else Dim.AUTO
    shapes = {}
    for name, tensor in named_tensors(example):
        others = [dict(named_tensors(batch)).get(name) for batch in calibration.batches]
        shapes[name] = {
            axis: (open_dim if axis == 0 or (sequence and _varies(tensor, axis, others)) else None)
            for axis in range(tensor.dim())
        }
    closed = {
        name: {axis: Dim.STATIC if dim is None else dim for axis, dim in axes.items()}
        for name, axes in shapes.items()
    }
    return closed if isinstance(example, dict) else tuple(closed.values())


def by_parameter(model: nn.Module, shapes: DynamicShapes) -> DynamicShapes:
    """The same with what goes into `*args` or `**kwargs` of forward under their names."""
    parameters = inspect.signature(model.forward).parameters.values()
    named = [item.name for item in parameters if item.kind in _NAMED]
    extra = {item.kind: item.name for item in parameters if item.kind not in _NAMED}
    if isinstance(shapes, Mapping):
        own = {name: value for name, value in shapes.items() if name in named}
        rest = {name: value for name, value in shapes.items() if name not in named}
        return {**own, extra[inspect.Parameter.VAR_KEYWORD]: rest} if rest and extra else own
    if len(shapes) <= len(named) or inspect.Parameter.VAR_POSITIONAL not in extra:
        return shapes
    return (*shapes[: len(named)], tuple(shapes[len(named) :]))


def fixed_dimensions(calibration: Calibration, inputs: Iterable[Any]) -> Iterator[str]:
    """What torch.export could not leave open, a sentence for each dimension of a graph's inputs.

    Args:
        calibration: that the graph was traced with.
        inputs: values with `name` and `shape`, in the order of the model's arguments.
    """
    asked = dynamic_shapes(calibration, sequence=True)
    by_name = asked if isinstance(asked, Mapping) else {}
    by_place = asked if isinstance(asked, tuple) else ()
    for place, value in enumerate(inputs):
        axes = by_name.get(value.name, by_place[place] if place < len(by_place) else {})
        for axis, dim in axes.items():
            size = str(value.shape[axis])  # torch names a dimension that it fixed by its size
            if dim is not Dim.STATIC and size.isdigit():
                what = "samples" if axis == 0 else f"numbers in dimension {axis}"
                yield (
                    f"input {value.name!r:.60} takes {size} {what} "
                    "and no other number: torch.export could not leave it open"
                )


def _varies(tensor: Tensor, axis: int, others: list[Tensor | None]) -> bool:
    if not tensor.is_floating_point():
        return True
    return any(
        other is not None
        and other.dim() == tensor.dim()
        and other.shape[axis] != tensor.shape[axis]
        for other in others
    )
