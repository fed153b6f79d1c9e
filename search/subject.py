"""Subject: what is searched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mixq.calibration import Calibration
from mixq.graph.state import fingerprint
from mixq.profiles import Profile
from mixq.sensitivity.compare import Evaluate

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Subject:
    """What is searched: a model, the data it is measured on, and the chip it is for.

    Attributes:
        name: of the model, for the plan.
    """

    model: nn.Module
    calibration: Calibration
    profile: Profile
    evaluate: Evaluate | None
    name: str

    @cached_property
    def identity(self) -> dict[str, str]:
        """What a run folder must be of, to go on in it."""
        return {"model": fingerprint(self.model), "hardware": self.profile.fingerprint}
