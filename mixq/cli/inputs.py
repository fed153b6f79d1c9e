"""Loads what --model and --calibration name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixq.cli.console import note

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


def check_resources(workers: int, device: str) -> None:
    """Refuse a device that is not there; say so where processes would get in each other's way.

    Raises:
        UsageError: if there is no such device.
    """
    from mixq.sensitivity.device import check_device
    from mixq.sensitivity.workers import crowding

    check_device(device, workers)
    remark = crowding(workers) if workers > 1 else None
    if remark is not None:
        note(f"note: {remark}")
