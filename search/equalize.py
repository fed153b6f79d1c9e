"""Equalize: the model that is searched, rewritten first so that its weights round better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from mixq.calibration import Calibration
from mixq.equalize.equalization import Equalization
from mixq.equalize.find import find_equalization
from mixq.errors import ModelError
from mixq.files import one_line
from mixq.formats import Format
from mixq.graph.state import fingerprint, stored_tensors
from mixq.quantize.weights import round_trip
from mixq.search.request import Equalize

if TYPE_CHECKING:
    from torch import Tensor, nn

STEPS: Final[Mapping[str, Mapping[str, bool]]] = {
    "fold": {"fold": True, "cross_layer": False, "input_scaling": False},
    "cross-layer": {"fold": True, "cross_layer": True, "input_scaling": False},
    "input": {"fold": True, "cross_layer": False, "input_scaling": True},
    "all": {"fold": True, "cross_layer": True, "input_scaling": True},
}
"""What is done: batch norms folded; ranges of neighbouring layers balanced; inputs scaled."""
JUDGE: Final = Format(4, 64, "zero-point")
"""The format by whose error input scaling is chosen."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """The model that a search works on.

    Attributes:
        model: rewritten, or the original itself.
        equalization: how; None if nothing was.
        fingerprint: of the original, which a plan is for.
        parameters: number of the original's parameters.
        original_bytes: of the original.
        notes: what a user should know.
    """

    model: nn.Module
    equalization: Equalization | None
    fingerprint: str
    parameters: int
    original_bytes: int
    notes: tuple[str, ...] = ()


def prepared(model: nn.Module, calibration: Calibration, equalize: Equalize) -> Prepared:
    """The model as it is searched; what it computes stays the same.

    Raises:
        CalibrationError: if the model does not take the calibration.
    """
    stored = stored_tensors(model)
    plain = Prepared(
        model,
        None,
        fingerprint(model),
        parameters=sum(item.elements for item in stored if item.is_parameter),
        original_bytes=sum(item.original_bytes for item in stored),
    )
    if equalize == "none":
        return plain
    try:
        found = find_equalization(
            model, calibration, **STEPS[equalize], round_trip=_stored_and_back
        )
    except ModelError as error:
        note = f"the model is not equalized: {one_line(error, 300)}"
        return replace(plain, notes=(note,))
    if not found.folds and not found.scalings:
        why = f" ({one_line(found.skipped[0], 200)})" if found.skipped else ""
        note = f"nothing of the model can be equalized{why}"
        return replace(plain, notes=(note,))
    return replace(
        plain, model=found.apply(model), equalization=found, notes=(f"equalized: {found}",)
    )


def _stored_and_back(weight: Tensor, rows: int, columns: int) -> Tensor:
    return round_trip(weight, JUDGE, rows, columns)
