"""Cross moments: the inputs of one unit in the original model beside those in a changed one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.errors import ModelError
from mixq.graph.units import WeightUnit
from mixq.moments.forward import recording
from mixq.moments.inputs import Inputs
from mixq.moments.ledger import Entry, Event
from mixq.moments.places import RowsOf
from mixq.moments.sums import cross_sums_of, sums_of


def cross_moments(
    model: nn.Module, calibration: Calibration, unit: WeightUnit, replaced: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Means of y y^T and of x y^T, each float32 of shape (groups, columns, columns).

    Here x are the inputs that meet the columns of `unit` in the original model, and y those in
    the same places of the model with some parameters replaced; groups are those of `Moments`.
    Weights W + E that minimise |W x - (W + E) y|^2 need no more than these two.

    Args:
        model: any module; run in eval mode, twice per batch, and left as it was.
        calibration: what it is run on; positions that an `attention_mask` hides do not count.
        unit: of the model.
        replaced: tensors to run with, by every name of the parameters that they stand for.

    Raises:
        ModelError: if there are no moments for this unit (see `collect`), if its inputs are not
            finite, or if the two runs have different positions.
        CalibrationError: if a batch does not fit the model.
    """
    second, cross = Entry(unit.rows), Entry(unit.rows)
    with recording(model, [unit]) as original, recording(model, [unit], replaced) as changed:
        for batch in calibration.batches:
            before, after = _Meetings(unit), _Meetings(unit)
            original.run(batch, before)
            changed.run(batch, after)
            if [rows for rows, _ in before.met] != [rows for rows, _ in after.met]:
                raise ModelError(
                    f"the changed model reads {unit.name} in {len(after.met)} places of its run, "
                    f"the original in {len(before.met)} or others; round this unit without the "
                    "original's inputs"
                )
            for (rows, x), (_, y) in zip(before.met, after.met, strict=True):
                own = sums_of(y, unit.name, is_diagonal=False)
                both = cross_sums_of(x, y, unit.name)
                if own is not None and both is not None:
                    second.add(rows, Event(own))
                    cross.add(rows, Event(both))
    if not second.runs:
        raise _unmet(unit)
    found, joint = second.close({}).second, cross.close({}).second
    assert found is not None
    assert joint is not None
    return found, joint


class _Meetings:
    """A sink that keeps what met one unit, in order."""

    def __init__(self, unit: WeightUnit) -> None:
        self._unit = unit
        self.met: list[tuple[RowsOf, Inputs]] = []

    def meet(self, rows: RowsOf, columns: int, inputs: Inputs) -> None:
        # Copied, because the model may write over it before the other run is done.
        self.met.append((rows, inputs.copied()))

    def refuse(self, unit: str) -> None:
        raise _unmet(self._unit)

    def forget(self) -> None:
        """Nothing to do: these are copies."""


def _unmet(unit: WeightUnit) -> ModelError:
    return ModelError(
        f"no inputs meet the columns of {unit.name}, or some meet it otherwise, so that it has no "
        "second moments; round it without them"
    )
