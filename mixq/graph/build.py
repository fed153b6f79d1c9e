"""ModelGraph of a model and one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from mixq.errors import CalibrationError
from mixq.graph.evaluating import evaluating
from mixq.graph.find import find_units
from mixq.graph.hooks import LOST, trace_modules
from mixq.graph.model_graph import ModelGraph
from mixq.graph.state import StoredTensor, stored_tensors
from mixq.graph.trace import Placed, trace
from mixq.graph.units import WeightUnit

FAILURES = (
    CalibrationError, RuntimeError, TypeError, ValueError, LookupError, AttributeError,
    AssertionError,
)  # fmt: skip
"""What torch raises where a dispatch mode does not work; interrupts and lack of memory go on."""


def build_graph(model: nn.Module, run: Callable[[], object], *, batch_size: int = 1) -> ModelGraph:
    """Trace `run()`, one forward pass of `model` on a batch of `batch_size` samples.

    The whole of torch's dispatch is traced; a model that fails under it but runs without it
    is traced by module hooks, and `lost` says why and what that missed. The model runs in eval
    mode and is left as it was.

    Args:
        model: any module.
        run: calls it; called a second time if the first trace fails.
        batch_size: samples of the batch, for the record.

    Raises:
        ModelError: if the model has no weight units, or its weights are not finite.
        CalibrationError: if `run` does, because the batch does not fit the model.
    """
    stored = stored_tensors(model)
    return graph_of(model, stored, find_units(model, stored), run, batch_size=batch_size)


def graph_of(
    model: nn.Module,
    stored: Sequence[StoredTensor],
    units: list[WeightUnit],
    run: Callable[[], object],
    *,
    batch_size: int = 1,
    watch: Callable[[Placed], None] | None = None,
) -> ModelGraph:
    """As `build_graph`, given what the model stores and its units; `watch` as for `trace`."""
    source = "dispatch"
    lost: tuple[str, ...] = ()
    with evaluating(model):
        try:
            seen = trace(model, units, run, watch)
        except FAILURES as error:
            # Either the batch does not fit, which `run` says again, or tracing is at fault.
            seen = trace_modules(model, units, run)
            source, lost = (
                "hooks",
                (f"torch's dispatch could not be traced ({_first_line(error)})", *LOST),
            )
    unread = tuple(name for name, works in seen.work.items() if not works)
    if unread:
        shown = ", ".join(unread[:3]) + (", ..." if len(unread) > 3 else "")
        lost += (f"the traced batch never reaches {len(unread)} of {len(units)} units: {shown}",)
    unit_bytes = sum(unit.weights * unit.element_bytes for unit in units)
    return ModelGraph(
        digraph=seen.digraph,
        units={unit.name: replace(unit, work=tuple(seen.work[unit.name])) for unit in units},
        parameters=sum(item.elements for item in stored if item.is_parameter),
        original_bytes=sum(item.original_bytes for item in stored),
        other_bytes=sum(item.stored_bytes for item in stored) - unit_bytes,
        peak_activation_bytes=seen.peak_activation_bytes,
        batch_size=batch_size,
        source=source,
        lost=lost,
    )


def _first_line(error: BaseException) -> str:
    reason = error.__cause__ or error  # calling a batch wraps torch's own words
    return next(iter(str(reason).strip().splitlines()), "") or type(reason).__name__
