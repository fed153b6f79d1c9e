"""Verification: a file is loaded in its runtime and must do what the applied plan does."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from mixq.batch import Batch, call, named_tensors
from mixq.errors import ExportError
from mixq.export.runtime import Session, Written
from mixq.export.source import Source
from mixq.graph.copying import copied
from mixq.sensitivity.outputs import ONLY, floating_outputs, main_output, rows

SAMPLES: Final = 16
"""Calibration samples that outputs are compared on."""
BYTES_TOLERANCE: Final = 0.005
"""Share of the predicted bytes by which a file's may be off."""


def check_bytes(written: Written) -> None:
    """Refuse a file whose tensors take other bytes than was predicted.

    Raises:
        ExportError: if they are off by more than `BYTES_TOLERANCE`.
    """
    off = abs(written.tensor_bytes - written.predicted_bytes)
    if off > BYTES_TOLERANCE * written.predicted_bytes:
        raise ExportError(
            f"the file has {written.tensor_bytes:,} bytes of tensors where "
            f"{written.predicted_bytes:,} were predicted, which is off by more than "
            f"{BYTES_TOLERANCE:.1%}; this is a bug in mixq, please report it with the plan"
        )


def output_difference(source: Source, session: Session) -> float:
    """Relative root mean square difference of a session's outputs from the applied plan's.

    The largest over the outputs that the plan's error is of, each over all its numbers on
    `SAMPLES` samples; positions that an attention mask hides do not count. What nobody measured
    when the plan was made, such as a pooler beside the embedding, is not measured here either.

    Raises:
        ExportError: if an output is missing or has another shape.
    """
    sums: dict[str, tuple[float, float]] = {}
    # The floats compute what the packed modules do, faster; rounded activations need those.
    plain = all(unit.packed.format.activation == "none" for unit in source.units.values())
    model = source.restored if plain else source.applied
    for batch in source.calibration.take(SAMPLES).batches:
        with torch.no_grad():
            output = call(model, batch)
        expected, found = floating_outputs(output), session.run(batch)
        names = source.plan.error_metric.outputs or [main_output(output).name or ONLY]
        for name in [name for name in names if name in expected]:
            if name not in found:
                raise ExportError(
                    f"the file has no output {name!r:.100}, which the model has; it has "
                    f"{', '.join(found) or 'none'}"
                )
            wrong, power = _squares(name, found[name], expected[name], batch)
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + wrong, before[1] + power)
    if not sums:
        raise ExportError(
            "the model has none of the outputs that the plan's error is of: "
            f"{', '.join(source.plan.error_metric.outputs)}; is the plan for another task?"
        )
    differences = [math.sqrt(w / p) if p else math.sqrt(w) for w, p in sums.values()]
    # `max` passes NaN over unless it comes first.
    return math.nan if any(map(math.isnan, differences)) else max(differences)


def verified(
    source: Source, session: Session, written: Written, runtime: str
) -> tuple[float, float]:
    """Compare a session's outputs with the plan's; their difference, and what was allowed.

    Activations that the *plan* rounds may fall on either side between two codes, so that float32
    sums in another order give other outputs: MiniLM with inputs rounded per tensor differs from
    itself in float64 by .11 of its size. Where that exceeds the tolerance, twice it is allowed.

    Raises:
        ExportError: if the outputs differ by more.
    """
    difference, allowed = output_difference(source, session), written.tolerance
    rounds = any(unit.packed.format.activation != "none" for unit in source.units.values())
    if rounds and difference > allowed:
        allowed = max(allowed, 2 * own_difference(source))
    check_outputs(difference, allowed, runtime)
    return difference, allowed


def own_difference(source: Source) -> float:
    """How far the applied plan is from itself in float64, relative, as `output_difference`."""
    return output_difference(source, _InFloat64(source.applied))


class _InFloat64:
    """The applied plan as a session that computes in float64."""

    def __init__(self, applied: nn.Module) -> None:
        self._model = copied(applied).double()

    def run(self, batch: Batch) -> dict[str, Tensor]:
        named = [(name, _doubled(tensor)) for name, tensor in named_tensors(batch)]
        tensors = tuple(tensor for _, tensor in named)
        wide: Batch = dict(named) if isinstance(batch, dict) else tensors
        with torch.no_grad():
            return floating_outputs(call(self._model, wide))

    def close(self) -> None: ...


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def check_outputs(difference: float, tolerance: float, runtime: str) -> None:
    """Refuse a file whose outputs are not those of the plan.

    Raises:
        ExportError: if the difference exceeds the tolerance, or is not a number.
    """
    if not difference <= tolerance:
        raise ExportError(
            f"{runtime} computes outputs that differ from the plan's by {difference:.2g} of their "
            f"size, and {tolerance:g} is allowed; no file was written. Where a runtime takes it, "
            "--option activations=float rounds nothing, and int8 allows more"
        )


def _squares(name: str, found: Tensor, expected: Tensor, batch: Batch) -> tuple[float, float]:
    if found.shape != expected.shape:
        raise ExportError(
            f"output {name!r} has shape {tuple(found.shape)}, but the model's has "
            f"{tuple(expected.shape)}"
        )
    values, seen = rows(expected.detach().double(), batch)
    others, _ = rows(found.double(), batch)
    wrong = torch.where(seen[..., None], others - values, 0.0).square().sum()
    power = torch.where(seen[..., None], values, 0.0).square().sum()
    return float(wrong), float(power)
