"""The float ONNX graph of a quantized model, with its units under their own names.

Every ONNX-like target starts from it: torch.onnx traces the restored model, onnxscript tidies the
graph up, and the weights of units stay untouched initializers that a target then packs.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mixq.batch import Batch, call
from mixq.errors import ExportError, MissingExtraError
from mixq.export.onnx.example import (
    by_parameter,
    dynamic_shapes,
    example_batch,
    fixed_dimensions,
)
from mixq.export.source import Source
from mixq.files import one_line
from mixq.graph.state import stored_tensors
from mixq.sensitivity.outputs import floating_outputs

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 21
"""The first with 4-bit integers and DequantizeLinear by blocks."""


@dataclass(frozen=True, eq=False)
class FloatGraph:
    """A traced model.

    Attributes:
        model: the graph; weights of units are initializers `weights[unit]`.
        weights: name of the initializer by the unit's canonical name; units that no output needs
            are not there.
        notes: what was traced as a constant that a user may expect to vary.
    """

    model: ir.Model
    weights: dict[str, str]
    notes: tuple[str, ...]


def float_graph(source: Source) -> FloatGraph:
    """Trace a source's restored model.

    Raises:
        ExportError: if torch cannot trace it.
        MissingExtraError: without onnxscript.
    """
    try:
        import onnxscript.optimizer
    except ImportError as error:
        raise MissingExtraError("onnxscript", "onnx", "a file in ONNX format") from error

    model = source.restored
    program = _traced(source, model)
    with _quiet():
        exported = torch.onnx.export(
            program, dynamo=True, optimize=False, opset_version=OPSET, verbose=False
        )
    assert exported is not None
    graph = exported.model
    batch = example_batch(source.calibration)
    _name_outputs(graph, model, batch)
    weights = {
        name: found
        for name, unit in source.units.items()
        for found in [next((n for n in unit.names if n in graph.graph.initializers), None)]
        if found is not None
    }
    # As inputs of the graph they are no constants: nothing folds, fuses or transposes them. What
    # stays plain is kept as it is too, so that the file holds what the plan counts.
    _use_first_names(graph, source)
    plain = [name for name in source.plain if name in graph.graph.initializers]
    with as_inputs(graph, [*weights.values(), *plain]), _quiet():
        onnxscript.optimizer.optimize_ir(graph, onnx_shape_inference=False)
    used = {value.name for value in graph.graph.initializers.values() if value.uses()}
    for name in [n for n in graph.graph.initializers if n not in used]:
        del graph.graph.initializers[name]
    for node in graph.graph:
        node.metadata_props.clear()  # stack traces, which took as much as a small model's weights
        node.doc_string = None
    notes = tuple(fixed_dimensions(source.calibration, graph.graph.inputs))
    return FloatGraph(graph, {u: n for u, n in weights.items() if n in used}, notes)


def _traced(source: Source, model: nn.Module) -> Any:
    """The program, with as many open dimensions as torch grants."""
    batch = example_batch(source.calibration)
    args = (batch,) if isinstance(batch, Tensor) else batch if isinstance(batch, tuple) else ()
    kwargs = batch if isinstance(batch, dict) else {}
    config = getattr(model, "config", None)
    if config is not None and getattr(config, "use_cache", False):
        config.use_cache = False  # of our own copy: keys and values are nobody's output here
    reason: Exception | None = None
    for sequence in (True, False):
        shapes: Any = by_parameter(model, dynamic_shapes(source.calibration, sequence=sequence))
        try:
            with torch.no_grad(), _quiet():
                program = torch.export.export(
                    model, args, kwargs, dynamic_shapes=shapes, strict=False
                )
        except Exception as error:  # torch.export raises whatever the model's code raises
            reason = reason or error
            continue
        return program
    raise ExportError(
        f"model {type(model).__name__} cannot be traced by torch.export: "
        f"{one_line(_first_line(reason))}; rewrite what depends on values, or export with "
        "--runtime torch"
    ) from reason


def _first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _name_outputs(model: ir.Model, original: nn.Module, batch: Batch) -> None:
    """Give the graph's outputs the names that mixq has for them."""
    with torch.no_grad():
        output = call(original, batch)
    names = {id(tensor): name for name, tensor in floating_outputs(output).items()}
    leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    taken = {value.name for value in model.graph.inputs}
    for index, (value, leaf) in enumerate(zip(model.graph.outputs, leaves, strict=True)):
        name = names.get(id(leaf), f"other.{index}")
        value.name = name if name not in taken else f"{name}.out"


def _use_first_names(model: ir.Model, source: Source) -> None:
    """Tied tensors that stay plain get the first of their names, by which a plan counts them."""
    initializers = model.graph.initializers
    for item in stored_tensors(source.restored):
        found = next((name for name in item.names if name in initializers), item.names[0])
        if found != item.names[0] and item.names[0] in source.plain:
            value = initializers[found]
            del initializers[found]
            value.name = item.names[0]
            initializers.add(value)


@contextlib.contextmanager
def as_inputs(model: ir.Model, names: Iterable[str]) -> Iterator[None]:
    """Initializers of these names as inputs of the graph, put back afterwards."""
    held = {}
    graph = model.graph
    for name in dict.fromkeys(names):
        value = graph.initializers[name]
        held[name] = value.const_value
        del graph.initializers[name]
        value.const_value = None
        graph.inputs.append(value)
    try:
        yield
    finally:
        for value in [v for v in graph.inputs if v.name in held]:
            graph.inputs.remove(value)
            value.const_value = held[str(value.name)]
            graph.initializers.add(value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and onnxscript tell about themselves while they trace."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
