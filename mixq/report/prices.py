"""Prices: what every unit costs in every format that a search could choose; `costs.json`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixq.errors import PlanError
from mixq.files import write_json_atomic
from mixq.formats import Format
from mixq.validation import read_model

if TYPE_CHECKING:
    from mixq.search.result import SearchResult

LARGEST_FILE: Final = 256 << 20
W32: Final = Format(32).name

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Place = Annotated[int, Field(ge=0)]


class Price(BaseModel):
    """One unit in one format.

    Attributes:
        kernel, reason: positions in `Prices.kernels` and `Prices.reasons`.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    latency_s: Amount
    weight_bytes: Annotated[int, Field(ge=0)]
    kernel: Place
    reason: Place


class Prices(BaseModel):
    """Prices by unit and name of format, with that of 32 bits; `costs.json` is exactly this.

    Attributes:
        other_latency_s: of operations that read no unit.
        other_bytes: stored for everything that is no unit.
        kernels, reasons: every text once.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    schema_version: Literal[1] = 1
    hardware: str
    runtime: str
    threads: Annotated[int, Field(ge=0)]
    other_latency_s: Amount
    other_bytes: Annotated[int, Field(ge=0)]
    kernels: list[str]
    reasons: list[str]
    units: dict[str, dict[str, Price]]

    @model_validator(mode="after")
    def _texts_are_there(self) -> Self:
        for unit, row in self.units.items():
            for price in row.values():
                if price.kernel >= len(self.kernels) or price.reason >= len(self.reasons):
                    raise ValueError(f"a price of {unit!r:.60} names a text that is not there")
        return self

    @classmethod
    def of(cls, result: SearchResult) -> Prices:
        """The prices that a search chose by."""
        costs, choices = result.layout.costs, result.frontier.problem.choices
        kernels: dict[str, int] = {}
        reasons: dict[str, int] = {}
        units: dict[str, dict[str, Price]] = {}
        for unit in choices:
            formats = dict.fromkeys([Format(32), *(choice.format for choice in choices[unit])])
            row = {fmt.name: costs.cost(unit, fmt) for fmt in formats}
            units[unit] = {
                name: Price(
                    latency_s=cost.latency_s,
                    weight_bytes=cost.weight_bytes,
                    kernel=kernels.setdefault(cost.kernel, len(kernels)),
                    reason=reasons.setdefault(cost.reason, len(reasons)),
                )
                for name, cost in row.items()
            }
        return cls(
            hardware=costs.hardware,
            runtime=costs.runtime,
            threads=costs.threads,
            other_latency_s=costs.other_latency_s,
            other_bytes=costs.other_bytes,
            kernels=list(kernels),
            reasons=list(reasons),
            units=units,
        )

    def price(self, unit: str, fmt: str) -> Price | None:
        """The price of a unit in a format, by names; None if it was not offered."""
        return self.units.get(unit, {}).get(fmt)

    def save(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json_atomic(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read `costs.json`.

        Raises:
            PlanError: if the file is missing, truncated or breaks a rule.
        """
        return read_model(cls, path, LARGEST_FILE, PlanError, "costs")
