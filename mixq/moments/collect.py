"""Moments of the inputs of every unit, gathered in one pass over calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.graph.units import WeightUnit
from mixq.moments.forward import recording
from mixq.moments.ledger import Ledger
from mixq.moments.moments import Moments
from mixq.progress import Progress, silent, track

STAGE = "gathering input moments"
MOST_COLUMNS = 8192
"""Columns up to which the whole second moment is kept, 4 * columns^2 bytes per unit."""


def collect(
    model: nn.Module,
    calibration: Calibration,
    units: Iterable[WeightUnit],
    *,
    most_columns: int = MOST_COLUMNS,
    replaced: Mapping[str, Tensor] | None = None,
    progress: Progress = silent,
) -> dict[str, Moments]:
    """The moments of the inputs that meet each unit, by unit name in the order of `units`.

    Units that meet the same inputs share one `Moments`. A unit is left out if nothing ever meets
    its columns in a product that can be seen (it is only looked up or read element by element;
    weights are computed from it; CUDA runs its LSTM in one piece), or if some operation meets it
    otherwise (along its rows, as in x @ W; in a transposed convolution; some columns only; by
    weights): moments that hold for a part of its uses would be wrong for it.

    The pass ends early in every batch if `units` come from a traced graph and each has a single
    product or convolution in it.

    Args:
        model: any module; run in eval mode and left as it was.
        calibration: what it is run on; positions that an `attention_mask` hides do not count.
        units: of the model, whose inputs are wanted.
        most_columns: units with more columns get `second=None`.
        replaced: tensors to run with instead of parameters, by every name that they have.
        progress: is told how far it is.

    Raises:
        ModelError: if inputs of a unit are not finite, naming the unit.
        CalibrationError: if a batch does not fit the model.
    """
    listed = list(units)
    ledger = Ledger(listed, most_columns)
    with recording(model, listed, replaced) as runner:
        batches = calibration.batches
        for batch in track(batches, STAGE, len(batches), progress):
            runner.run(batch, ledger)
    return ledger.close()
