"""Input ranges of a model's units, from its calibration."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from mixq.activations.input_range import InputRange
from mixq.activations.inputs import input_of, quantizable_inputs
from mixq.activations.observers import Observer, ObserverName, make_observer
from mixq.batch import call
from mixq.calibration import Calibration
from mixq.errors import CalibrationError
from mixq.graph.evaluating import evaluating
from mixq.graph.units import WeightUnit
from mixq.progress import Progress, silent, track


def collect_ranges(
    model: nn.Module,
    calibration: Calibration,
    units: Iterable[WeightUnit],
    observer: ObserverName = "minmax",
    progress: Progress = silent,
) -> dict[str, InputRange]:
    """The range of the inputs that meet each unit's weights, over all calibration samples.

    One pass in eval mode without gradients. Positions that an attention mask hides count too,
    for the runtime computes them. Padding inside a module's own forward comes after its input
    was seen, and is zero, which every range holds. Weights are as the model has them; ranges of a
    quantized model differ.

    Returns:
        A range by name of unit, for those of `units` that `quantizable_inputs` names and that
        the data reached.

    Raises:
        CalibrationError: if the model does not take a batch, or an input is NaN or infinite,
            naming the unit.
        UsageError: for an unknown observer.
    """
    paths = quantizable_inputs(model, units)
    observers = {name: make_observer(observer) for name in paths}
    reached: set[str] = set()
    with contextlib.ExitStack() as stack:
        for name, unit_paths in paths.items():
            for path in unit_paths:
                handle = model.get_submodule(path).register_forward_pre_hook(
                    _watch(name, observers[name], reached), with_kwargs=True
                )
                stack.callback(handle.remove)
        stack.enter_context(evaluating(model))
        batches = calibration.batches
        for batch in track(batches, "input ranges", len(batches), progress):
            call(model, batch)
    return {name: observers[name].range() for name in paths if name in reached}


def _watch(
    name: str, observer: Observer, reached: set[str]
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    """A forward pre-hook that shows the input to `observer`."""

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _, value = input_of(module, args, kwargs)
        try:
            observer.see(value)
        except CalibrationError as error:
            raise CalibrationError(f"input of {name}: {error}") from error
        if value.numel():
            reached.add(name)

    return see
