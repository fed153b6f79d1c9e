"""Effects: what single changes of a plan do to its error, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mixq.formats import Format
from mixq.sensitivity.around import Change
from mixq.sensitivity.estimate import Estimate


@dataclass(frozen=True)
class Effects:
    """Errors of one plan and of its changed versions on the same samples.

    Attributes:
        assignment: the plan.
        errors: of the plan, by sample.
        changed: of each change, by sample.
    """

    assignment: Mapping[str, Format]
    errors: tuple[float, ...]
    changed: Mapping[Change, tuple[float, ...]]

    def of(self, change: Change) -> Estimate:
        """Mean difference that a change makes, with its standard error."""
        pairs = zip(self.changed[change], self.errors, strict=True)
        return Estimate.of([after - before for after, before in pairs])

    def cautious(self, change: Change, doubt: float) -> float:
        """Mean difference that a change makes, and so many standard errors more."""
        effect = self.of(change)
        return effect.error + doubt * effect.error_se
