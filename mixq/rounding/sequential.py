"""Sequential rounding: each unit is rounded for the inputs that it gets behind rounded units.

Rounded one by one, every unit reproduces its own outputs as well as it can from inputs that it
will never see again: the units in front of it are rounded too. Here units are rounded in the order
in which they run. A unit meets inputs y where the original meets x, so its weights W first move to
those that best give W x from y, and are rounded for y.

Least squares over few samples would fit their noise (MiniLM at 4 bits, 48 texts: calibration error
down by 71%, held-out error up by 7%), so the move is damped as strongly as inputs are large on
average (down by 56% and 24%).

Source: the quantized stream is that of GPTQ's authors' code; the target W x is that of Li et al.,
"GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", ICML 2025; the damping
is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from mixq.calibration import Calibration
from mixq.errors import ModelError
from mixq.formats import Format
from mixq.graph.model_graph import ModelGraph
from mixq.moments.cross import cross_moments
from mixq.progress import Progress, silent, track
from mixq.quantize.methods import learns
from mixq.quantize.weights import PackedWeight
from mixq.rounding.rounder import Rounder

STAGE = "rounding in sequence"
DAMPING: Final = 1.0
"""Added to the diagonal of E[y y^T] and E[x y^T], as a part of the mean of the former."""


def round_in_sequence(
    rounder: Rounder,
    graph: ModelGraph,
    assignment: Mapping[str, Format],
    calibration: Calibration,
    progress: Progress = silent,
) -> Rounder:
    """A rounder that knows other codes for the units of `assignment` whose method is `gptq`.

    All other units keep the codes that they have. Units that meet the same inputs are rounded
    together. Takes about one forward pass over all of `calibration` per group of them.

    Args:
        rounder: of the original model, with its moments.
        graph: of the model, for the order.
        assignment: the whole plan.
        calibration: what is learnt from.
        progress: is told how far it is.

    Raises:
        FormatError: if a unit's weights do not fit their format.
    """
    groups = _groups(rounder, graph, assignment)
    rounded: dict[str, PackedWeight] = {}
    tensors: dict[str, Tensor] = {}
    for group in track(groups, STAGE, len(groups), progress):
        is_moved = bool(tensors) and learns(assignment[group[0]])
        found = _met(rounder, group[0], calibration, tensors) if is_moved else None
        for unit in group:
            fmt = assignment[unit]
            if found is not None:
                target = moved(rounder.matrix(unit), *found)
                rounded[unit] = rounder.rounded(unit, fmt, target, found[0])
            tensors |= rounder.replacement(unit, fmt, rounded.get(unit)).tensors
    return rounder.knowing({(unit, assignment[unit]): packed for unit, packed in rounded.items()})


def moved(weight: Tensor, second: Tensor, cross: Tensor, damping: float = DAMPING) -> Tensor:
    """The weights V that minimise E|W x - V y|^2 + d |V - W|^2, d the damping of the inputs y.

    V = W (E[x y^T] + d I) (E[y y^T] + d I)^-1, computed in float64.

    Args:
        weight: W, shape (rows, columns).
        second: E[y y^T], shape (groups, columns, columns); row r uses group r x groups // rows.
        cross: E[x y^T], same shape.
        damping: d over the mean of the diagonal of `second`.
    """
    groups, columns = second.shape[:2]
    size = second.diagonal(dim1=1, dim2=2).double().mean(1)
    size = torch.where(size > 0, size, torch.ones_like(size))
    ridge = damping * size[:, None, None] * torch.eye(columns, dtype=torch.float64)
    weights = weight.double().view(groups, -1, columns)
    target = weights @ (cross.double() + ridge)
    # The ridge makes it positive definite, whatever few samples leave undetermined.
    factor = torch.linalg.cholesky(second.double() + ridge)
    solved: Tensor = torch.cholesky_solve(target.mT, factor)
    return solved.mT.reshape(weight.shape).to(torch.float32)


def _met(
    rounder: Rounder, unit: str, calibration: Calibration, tensors: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor] | None:
    """E[y y^T] and E[x y^T] of a unit; None if they cannot be told."""
    try:
        return cross_moments(rounder.model, calibration, rounder.units[unit], tensors)
    except ModelError:  # other positions than the original's: nothing to compare with
        return None


def _groups(
    rounder: Rounder, graph: ModelGraph, assignment: Mapping[str, Format]
) -> Sequence[Sequence[str]]:
    """The units that are rounded, in the order in which they run; sharers of inputs together."""
    order = dict.fromkeys(u for _, d in graph.digraph.nodes(data=True) for u in d["units"])
    groups: list[list[str]] = []
    by_inputs: dict[int, list[str]] = {}
    for unit in order:
        fmt = assignment.get(unit)
        if fmt is None or fmt.bits == 32:
            continue
        moments = rounder.moments.get(unit)
        if moments is None or not learns(fmt):
            groups.append([unit])
        elif id(moments) in by_inputs:
            by_inputs[id(moments)].append(unit)
        else:
            by_inputs[id(moments)] = [unit]
            groups.append(by_inputs[id(moments)])
    return groups
