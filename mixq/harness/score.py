"""Score: one metric of one task, before and after."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Final

CERTAIN: Final = 2.0
"""Standard errors beyond which a difference is taken for one."""


@dataclass(frozen=True)
class Score:
    """One metric of one task.

    Attributes:
        task, metric, filter: as the harness names them; the filter is what was done to answers.
        depth: of the task below the groups that were asked for.
        documents: that it was measured on.
        higher_is_better: None where the task does not say.
        value, standard_error: of the quantized model.
        original, original_standard_error: of the original; None if it was not asked.
        difference: value less original.
        difference_standard_error: of that.
        paired: whether it is of the same documents one by one.
    """

    task: str
    metric: str
    filter: str
    depth: int
    documents: int
    higher_is_better: bool | None
    value: float | None
    standard_error: float | None = None
    original: float | None = None
    original_standard_error: float | None = None
    difference: float | None = None
    difference_standard_error: float | None = None
    paired: bool = False

    @property
    def within_error(self) -> bool | None:
        """Whether the difference is within two standard errors; None where that is unknown."""
        if self.difference is None or self.difference_standard_error is None:
            return None
        return abs(self.difference) <= CERTAIN * self.difference_standard_error

    def to_json(self) -> dict[str, object]:
        """The values as JSON; what is not finite is null."""
        values = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }
        return {**values, "within_two_standard_errors": self.within_error}
