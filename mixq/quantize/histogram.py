"""Histogram: one layer's weights counted, and what each width makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixq.errors import PlanError
from mixq.files import write_json_atomic
from mixq.validation import read_model

BINS: Final = 161
"""Odd, so that one bin has zero in its middle."""
GROUP_SIZE: Final = 64
WIDTHS: Final = (32, 16, 8, 4, 2)
LARGEST_FILE: Final = 1 << 20

Number = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Counts = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=BINS, max_length=BINS)]


class WidthPicture(BaseModel):
    """The weights as one width stores them.

    Attributes:
        format: name of the format: symmetric, rounded to nearest.
        counts: stored values by bin.
        representable: numbers of the grid within the range.
        grid: those numbers, of a group whose scale is the median at 2 bits; none of floats, which
            have too many to draw.
        zero_share: share of the weights that are stored as zero.
        relative_error: squared errors of the weights over their squares.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    bits: Literal[32, 16, 8, 4, 2]
    format: str
    counts: Counts
    representable: Annotated[int, Field(ge=1)]
    grid: Annotated[list[Number], Field(max_length=256)]
    zero_share: Annotated[float, Field(ge=0, le=1)]
    relative_error: Amount


class Histogram(BaseModel):
    """Weights of one unit between -limit and limit in `BINS` equal bins; `histogram.json`.

    Attributes:
        error: output error of this unit alone in its narrowest format, which is why it was taken.
        error_format: name of that format.
        weights: of the unit.
        counted: of them, those that were counted: evenly spaced rows, where they are many.
        limit: the largest magnitude.
        widths: widest first; one is missing if the weights do not fit it.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    schema_version: Literal[1] = 1
    unit: str
    error: Amount
    error_format: str
    weights: Annotated[int, Field(ge=1)]
    counted: Annotated[int, Field(ge=1)]
    limit: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    widths: Annotated[list[WidthPicture], Field(min_length=1, max_length=len(WIDTHS))]

    @model_validator(mode="after")
    def _has_counts(self) -> Self:
        if not any(self.widths[0].counts):
            raise ValueError("a histogram of no weights")
        return self

    def save(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json_atomic(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read `histogram.json`.

        Raises:
            PlanError: if the file is missing, truncated or breaks a rule.
        """
        return read_model(cls, path, LARGEST_FILE, PlanError, "histogram")
