"""Subject: what a contract suite exports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from mixq.batch import Batch
from mixq.calibration import Calibration
from mixq.export.source import Source
from mixq.formats import Format
from mixq.testing.plans import plan_in_turn


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Attributes:
        model: in eval mode; at least as many units as the runtime holds formats.
        batches: of calibration, one sample or more each.
        other: another batch, of another number of samples.
        folder: with tokenizer and configuration, where the runtime needs one.
    """

    model: nn.Module
    batches: list[Batch]
    other: Batch
    folder: Path | None = None

    def source(self, *formats: str) -> Source:
        """It in a plan that gives its units these formats in turn."""
        data = Calibration.of(self.batches)
        plan = plan_in_turn(self.model, data, [Format.parse(name) for name in formats])
        return Source.of(self.model, plan, data, self.folder)
