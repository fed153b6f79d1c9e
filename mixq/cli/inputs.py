"""Loads what --model and --calibration name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixq.calibration import Calibration
    from mixq.sources import LoadedModel


def load_inputs(model: str | None, calibration: str | None) -> tuple[LoadedModel, Calibration]:
    """The model and the calibration data that it is measured on.

    Raises:
        SourceError: if a spec cannot be loaded.
        CalibrationError: if there are no calibration data.
    """
    from mixq.sources import load_calibration, load_model

    loaded = load_model(model)
    return loaded, load_calibration(calibration, loaded)
