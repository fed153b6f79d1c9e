"""Dominance: candidates that another beats in every respect are not worth a measurement."""

from __future__ import annotations

from collections.abc import Sequence

from mixq.cost.table import CostTable
from mixq.errors import FormatError
from mixq.formats import Format
from mixq.moments.moments import Moments
from mixq.rounding.rounder import Rounder


def pruned(
    unit: str,
    formats: Sequence[Format],
    costs: CostTable,
    rounder: Rounder,
    moments: Moments | None = None,
) -> tuple[Format, ...]:
    """The formats that no other of the same width and activations beats, in their order.

    To be beaten, a format takes no fewer bytes, no less time, and its layer errs no less on
    calibration inputs, with at least one of them worse. Layer errors of different widths are not
    compared, nor the first format of a width left out, which uniform plans stand on: what a layer
    errs is a hint at what the model errs, no more. Errors are told by `moments` of inputs that
    rounding has not seen, by default those that it has.
    """
    merits: dict[Format, tuple[float, ...]] = {}
    for fmt in formats:
        cost = costs.cost(unit, fmt)
        try:
            error = rounder.layer_error(unit, fmt, moments)
        except FormatError:
            continue  # refused again, with its reason, where it is measured
        merits[fmt] = (cost.weight_bytes, cost.latency_s, error)
    seen: set[tuple[int, str]] = set()
    kept = []
    for fmt in formats:
        kind = (fmt.bits, fmt.activation)
        rivals = [m for f, m in merits.items() if (f.bits, f.activation) == kind]
        beaten = fmt in merits and any(_beats(rival, merits[fmt]) for rival in rivals)
        if kind not in seen or not beaten:
            kept.append(fmt)
        seen.add(kind)
    return tuple(kept)


def _beats(rival: tuple[float, ...], own: tuple[float, ...]) -> bool:
    return rival != own and all(r <= o for r, o in zip(rival, own, strict=True))
