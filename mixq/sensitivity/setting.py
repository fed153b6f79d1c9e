"""Setting: how a model is measured, whatever is measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mixq.calibration import Calibration
from mixq.formats import Format
from mixq.progress import Progress, silent
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.metrics.metric import Metric
from mixq.sensitivity.metrics.weighted import Weighted
from mixq.sensitivity.store import Store


@dataclass(frozen=True)
class Setting:
    """What all measurements of a run share.

    Attributes:
        metric: of output error; by default squared error of the main output.
        folder: where measurements are kept and taken up again; None keeps none.
        workers: processes that measure.
        device: where the model is run; codes are made on the processor in any case.
        progress: is told how far it is.
    """

    metric: Metric = field(default_factory=Weighted)
    folder: Path | None = None
    workers: int = 1
    device: str = "cpu"
    progress: Progress = silent

    def store(
        self,
        model_fingerprint: str,
        calibration: Calibration,
        rounder: Rounder,
        plan: Mapping[str, Format] | None = None,
    ) -> Store:
        """Of what is measured of a model, on these samples, as this rounder rounds it.

        Args:
            model_fingerprint: of the original.
            calibration: the samples.
            rounder: makes the codes.
            plan: that everything else has in place; by default the original's weights.
        """
        return Store.of(
            self.folder, model_fingerprint, calibration, rounder, self.metric, self.device, plan
        )
