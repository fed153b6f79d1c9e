"""Sketch: output errors of every unit in every format from a few backward passes.

To first order, a change E of the weights moves the outputs by J E, where J is the Jacobian. For
random signs v, E[(v^T J E)^2] = |J E|^2; and v^T J is a gradient, of v^T y with respect to the
weights. So one backward pass estimates the error of all units and formats at once, without bias
as far as the outputs are linear in one unit's change. Other metrics than squared error have other
random v, whose E[v v^T] is half their Hessian at the original's output (`Distance.probe`).

Source: Hutchinson, "A stochastic estimator of the trace of the influence matrix", Communications
in Statistics 19(2), 1990, with J^T J for the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn

from mixq.batch import Batch, part_of, sample_count
from mixq.calibration import Calibration
from mixq.errors import FormatError, ModelError
from mixq.formats import Format
from mixq.graph.evaluating import evaluating
from mixq.graph.replacing import call_with, check_replaceable, recurrent_weights_put_back, slots
from mixq.graph.units import WeightUnit
from mixq.progress import Progress, silent, track
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.device import device_of
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.metrics.metric import Metric, Tensors
from mixq.sensitivity.metrics.weighted import Weighted

STAGE: Final = "sketching sensitivities"
GRADIENT_BYTES: Final = 3 << 30
"""Of gradients that are kept at once; each set of them meets every format of every unit, which
are rounded for it again."""

Squares: TypeAlias = Mapping[str, Mapping[Format, list[float]]]
"""Sums of squared moves by unit, format and sample."""


def sketch(
    model: nn.Module,
    calibration: Calibration,
    units: Iterable[WeightUnit],
    formats: Mapping[str, Sequence[Format]],
    rounder: Rounder,
    *,
    metric: Metric | None = None,
    probes: int = 2,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, dict[Format, Estimate]]:
    """Estimated output error of every unit in every one of its formats, alone.

    The standard error covers both the choice of samples and the random signs. Large changes are
    underestimated where the outputs saturate. Formats that do not fit a unit, or that round
    activations, are left out.

    Args:
        model: any module that torch can differentiate; left as it was.
        calibration: what it is run on, sample by sample.
        units: of the model.
        formats: candidate formats by unit name.
        rounder: what the formats make of the weights.
        metric: that errors are in; by default squared error of the main output.
        probes: backward passes per sample.
        seed: of the random signs.
        progress: is told how far it is.

    Raises:
        ModelError: if the output has no gradient with respect to any unit, or one that is NaN or
            infinite; if the metric is a loss, or not defined on the output.
    """
    check_replaceable(model)
    calibration = calibration.to(device_of(model))
    metric = metric or Weighted()
    listed = list(units)
    names = [unit.name for unit in listed]
    weights = dict(model.named_parameters(remove_duplicate=False))
    own = slots(model)
    leaves = {name: weights[name].detach().requires_grad_() for name in names}
    placed = {
        alias: leaves[unit.name]
        for unit in listed
        for alias in (unit.name, *unit.aliases)
        if alias in own
    }
    samples = list(samples_of(calibration))
    squares = no_squares(names, formats, len(samples))
    size = sum(leaf.numel() * leaf.element_size() for leaf in leaves.values())
    together = max(1, GRADIENT_BYTES // max(size, 1))
    pairs = [(index, probe) for index in range(len(samples)) for probe in range(probes)]
    steps = track(pairs, STAGE, len(pairs), progress)
    pending: list[tuple[int, Mapping[str, Tensor]]] = []

    def rounded(unit: str, fmt: Format) -> Tensor:
        return rounder.replacement(unit, fmt).tensors[unit]

    with evaluating(model), recurrent_weights_put_back(model):
        for index, probe in steps:
            signs = torch.Generator().manual_seed(hash_of(seed, index, probe))
            batch = samples[index]
            pending.append((index, _gradients(model, batch, placed, leaves, metric, signs)))
            if len(pending) == together or (index, probe) == pairs[-1]:
                meet(pending, squares, rounded, weights)
                pending = []
    return estimates(squares, probes)


def hash_of(seed: int, index: int, probe: int) -> int:
    """A seed of its own for every probe of every sample."""
    return (seed * 1_000_003 + index) * 10_007 + probe


def no_squares(
    units: Iterable[str], formats: Mapping[str, Sequence[Format]], samples: int
) -> Squares:
    """Sums of nothing, for every format that a gradient can say something of."""
    return {
        unit: {fmt: [0.0] * samples for fmt in formats[unit] if fmt.activation == "none"}
        for unit in units
    }


def samples_of(calibration: Calibration) -> Iterator[Batch]:
    """What is differentiated by itself: samples one by one, or whole batches."""
    for batch in calibration.batches:
        if calibration.whole:
            yield batch
            continue
        for index in range(sample_count(batch)):
            yield part_of(batch, index, index + 1)


def _gradients(
    model: nn.Module,
    batch: Batch,
    placed: Mapping[str, Tensor],
    leaves: Mapping[str, Tensor],
    metric: Metric,
    signs: torch.Generator,
) -> dict[str, Tensor]:
    """Gradients of a random sum of outputs whose mean square is the output error."""
    with torch.enable_grad():
        outputs = metric.pick(call_with(model, placed, batch))
        total = signed_sum(metric, outputs, batch, signs)
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {n: g for n, g in zip(leaves, found, strict=True) if g is not None}


def signed_sum(metric: Metric, outputs: Tensors, batch: Batch, signs: torch.Generator) -> Tensor:
    """A random sum of a sample's outputs whose mean square is the output error.

    Raises:
        ModelError: if it has no gradient, or the metric no such sum.
    """
    originals = {name: output.detach() for name, output in outputs.items()}
    total = torch.zeros((), device=next(iter(outputs.values())).device)
    for name, v in metric.probes(originals, batch, signs).items():
        # Where nothing counts may be NaN, which times zero is NaN.
        total = total + torch.where(v == 0, torch.zeros_like(v), outputs[name] * v).sum()
    if not total.requires_grad:
        raise no_gradient()
    return total


def no_gradient() -> ModelError:
    """What to say where there is nothing to sketch with."""
    return ModelError(
        "the output does not depend on any weight in a differentiable way, so there is no "
        "gradient to sketch with; use --sensitivity measured"
    )


def meet(
    pending: Sequence[tuple[int, Mapping[str, Tensor]]],
    squares: Squares,
    rounded: Callable[[str, Format], Tensor],
    weights: Mapping[str, Tensor],
) -> None:
    """Add what some gradients say of every format.

    Args:
        pending: sample and gradients by unit, of one probe each.
        squares: is added to; NaN for the first sample of a format that a unit cannot take.
        rounded: a unit's weights in a format, or a FormatError.
        weights: by unit.
    """
    for unit, rows in squares.items():
        met = [(index, own[unit].flatten().float()) for index, own in pending if unit in own]
        if not met:
            continue
        for fmt, values in rows.items():
            if fmt.bits == 32 or math.isnan(values[0]):
                continue
            try:
                changed = rounded(unit, fmt)
            except FormatError:
                values[0] = math.nan
                continue
            weight = weights[unit].detach()
            change = (changed.to(weight.device).float() - weight.float()).flatten()
            for index, gradient in met:  # one by one: the same bits, however many come together
                move = float(torch.dot(gradient, change))
                if not math.isfinite(move):
                    raise ModelError(
                        f"a gradient of the output with respect to {unit} is NaN or infinite; "
                        "use --sensitivity measured"
                    )
                values[index] += move * move
            del changed, change  # as large as the unit, before the next format makes its own


def estimates(squares: Squares, probes: int) -> dict[str, dict[Format, Estimate]]:
    """Output errors from sums of squares over so many probes."""
    return {
        unit: {
            fmt: Estimate.of([value / probes for value in values])
            for fmt, values in rows.items()
            if not math.isnan(values[0])
        }
        for unit, rows in squares.items()
    }
