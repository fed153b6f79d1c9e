"""Equalization of a model, found on its calibration data."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from mixq.batch import Batch, call
from mixq.calibration import Calibration
from mixq.equalize.cross_layer import equalize_ranges
from mixq.equalize.equalization import Equalization
from mixq.equalize.folding import Fold, find_folds
from mixq.equalize.input_scaling import RoundTrip, scale_inputs
from mixq.equalize.links import Link, find_links
from mixq.equalize.parameters import WIDE
from mixq.errors import CalibrationError, MixqError, ModelError, UsageError
from mixq.files import one_line
from mixq.graph.build import FAILURES
from mixq.graph.evaluating import evaluating

SAMPLES = 2
"""Samples that are followed; with one, what depends on the sample could not be told apart."""
MOST_CHANGE = 1e-4
"""Largest relative change of the outputs, root mean square; rounding leaves about 1e-6."""


def find_equalization(
    model: nn.Module,
    calibration: object,
    *,
    fold: bool = True,
    cross_layer: bool = True,
    input_scaling: bool = False,
    round_trip: RoundTrip | None = None,
) -> Equalization:
    """What can be rewritten without a change of the model's function in eval mode.

    Legality is read from one pass of two samples: every activation is followed to the weights
    that meet it. What is read elsewhere too, or leaves the model, stays as it is; what another
    path through the model reads, which these samples do not take, is not seen.

    Args:
        model: any module, left as it was.
        calibration: what `Calibration.of` takes; only `input_scaling` needs more than two samples.
        fold: whether to fold batch norms.
        cross_layer: whether to balance the ranges of neighbouring weights.
        input_scaling: whether to scale up weights that meet large inputs.
        round_trip: `round_trip(weight, rows, columns)` gives a weight as it comes back from the
            format it will be stored in; input scaling is chosen by its error.

    Raises:
        UsageError: if `input_scaling` is asked for without `round_trip`.
        ModelError: if the weights are in 16 bits, or the rewritten model computes something else.
        CalibrationError: if the model does not take the calibration.
    """
    if input_scaling and round_trip is None:
        raise UsageError(
            "input scaling is asked for without round_trip, by whose error it is chosen; pass "
            "round_trip(weight, rows, columns), or input_scaling=False"
        )
    _check_types(model)
    data = Calibration.of(calibration)
    batch = data.take(SAMPLES).batches[0]
    try:
        folds, links, skipped = _follow(model, batch, fold, cross_layer or input_scaling)
    except FAILURES as error:
        if isinstance(error, MixqError) and not isinstance(error, CalibrationError):
            raise
        # Either the batch does not fit, which this says, or following the pass is at fault.
        with evaluating(model):
            call(model, batch)
        return Equalization(skipped=(f"the model could not be followed: {one_line(error)}",))
    found = Equalization(folds, skipped=skipped)
    if cross_layer:
        folded = found.apply(model)
        found = replace(found, scalings=tuple(equalize_ranges(folded, links)))
    if input_scaling and round_trip is not None:
        balanced = found.apply(model)
        scalings, unprotected = scale_inputs(balanced, data, links, round_trip)
        found = replace(
            found, scalings=(*found.scalings, *scalings), skipped=skipped + unprotected
        )
    if found.folds or found.scalings:
        _check_outputs(model, found.apply(model), data.batches[0])
    return found


def _follow(
    model: nn.Module, batch: Batch, fold: bool, scale: bool
) -> tuple[tuple[Fold, ...], list[Link], tuple[str, ...]]:
    """What may be folded, what may be scaled then, and what may not."""
    folds: list[Fold] = []
    links: list[Link] = []
    skipped: tuple[str, ...] = ()
    if fold and any(isinstance(module, _BatchNorm) for module in model.modules()):
        folds, skipped = find_folds(model, lambda copy: call(copy, batch))
    if scale:
        folded = Equalization(tuple(folds)).apply(model) if folds else model
        links, unlinked = find_links(folded, lambda: call(folded, batch))
        skipped += unlinked
    return tuple(folds), links, skipped


def _check_types(model: nn.Module) -> None:
    weights = [p for p in model.parameters() if p.dim() > 1 and p.is_floating_point()]
    if weights and not any(weight.dtype in WIDE for weight in weights):
        name = str(weights[0].dtype).removeprefix("torch.")
        raise ModelError(
            f"{type(model).__name__} has {name} weights, whose rounding would hide whether an "
            "equalized model still computes the same; call model.float() first"
        )


def _check_outputs(model: nn.Module, equalized: nn.Module, batch: Batch) -> None:
    """A last look, should a model do what following its pass cannot see."""
    with evaluating(model):
        before = _numbers(call(model, batch))
    with evaluating(equalized):
        after = _numbers(call(equalized, batch))
    power = change = 0.0
    for x, y in zip(before, after, strict=True):
        # Masked scores may be infinite; they are the same, not a difference of infinities.
        is_same = (x == y) | (x.isnan() & y.isnan())
        change += float((x - y).masked_fill(is_same, 0.0).square().sum())
        power += float(x.nan_to_num(0.0, 0.0, 0.0).square().sum())
    if not change <= MOST_CHANGE**2 * power:
        relative = (change / power) ** 0.5 if power else math.inf
        raise ModelError(
            f"equalized, {type(model).__name__} changes its outputs by {relative:.1e} of their "
            f"size instead of {MOST_CHANGE:.0e} at most; its forward does what no trace "
            "shows, so leave out fold, cross_layer or input_scaling"
        )


def _numbers(output: object) -> list[Tensor]:
    return [
        leaf.double()
        for leaf in tree_leaves(output)
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]
