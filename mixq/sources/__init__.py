"""Models and calibration data from a spec."""

from __future__ import annotations

from mixq.sources.calibration import load_calibration
from mixq.sources.loaded import LoadedModel
from mixq.sources.model import load_model

__all__ = ["LoadedModel", "load_calibration", "load_model"]
