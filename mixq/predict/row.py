"""Row: one measurement, or one question, in the columns of published tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mixq.errors import UsageError

SECONDS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
PER_SECOND: Final = {
    **dict.fromkeys(("samples/s", "tok/s"), 1.0),
    **dict.fromkeys(("GFLOP/s", "GOP/s", "GB/s"), 1e9),
    **dict.fromkeys(("TFLOP/s", "TOP/s", "TB/s"), 1e12),
}
RATIO: Final = "x"
UNITS: Final = (*SECONDS, *PER_SECOND, RATIO)


@dataclass(frozen=True, slots=True)
class Row:
    """One row; what a table leaves empty is None or an empty text.

    Attributes:
        line: of the file, the header being line 1.
        chip, cores_or_threads, runtime, kernel, model_or_op: as the table writes them.
        m, n, k: rows of activations, output features, input features of a product; a row without
            all three is a whole model.
        batch: samples of one pass.
        seq: tokens or pixels: `128`, `224x224`, `64+16` (prompt and answer).
        weight_bits: effective bits of a weight (4.5 with its scales is a table's 4.5).
        activation_bits: None where the table does not say.
        group_size: weights of one scale; None is not said or one scale for each output.
        metric, unit: what was measured; `value` None is a question.
        cells: the row as it was read, column by column.
    """

    line: int
    chip: str
    cores_or_threads: str
    runtime: str
    kernel: str
    model_or_op: str
    m: int | None
    n: int | None
    k: int | None
    batch: int | None
    seq: str
    weight_bits: float
    activation_bits: float | None
    group_size: int | None
    metric: str
    value: float | None
    unit: str
    note: str
    cells: tuple[tuple[str, str], ...]

    @property
    def is_product(self) -> bool:
        """Whether it is one product of matrices and no whole model."""
        return None not in (self.m, self.n, self.k)

    @property
    def kind(self) -> str:
        """`time`, `rate` or `ratio`: what its unit counts."""
        if self.unit in SECONDS:
            return "time"
        return "ratio" if self.unit == RATIO else "rate"

    @property
    def things(self) -> float | None:
        """What a rate counts in one call of a product: operations, or bytes of weights.

        None for whole models, whose samples and tokens the model's own workload knows.
        """
        if self.m is None or self.n is None or self.k is None:
            return None
        if self.unit in ("GB/s", "TB/s"):
            return self.n * self.k * self.weight_bits / 8
        return 2.0 * self.m * self.n * self.k

    def in_unit(self, seconds: float, things: float | None = None) -> float:
        """`seconds` of one call in the row's unit; a rate counts `things` per call.

        Raises:
            UsageError: if the row asks for a ratio, or for a rate of nobody knows what.
        """
        if self.unit in SECONDS:
            return seconds / SECONDS[self.unit]
        counted = self._counted(things)
        return counted / seconds / PER_SECOND[self.unit]

    def seconds(self, things: float | None = None) -> float | None:
        """Measured seconds of one call; None if nothing was measured.

        Raises:
            UsageError: as `in_unit`.
        """
        if self.value is None:
            return None
        if self.unit in SECONDS:
            return self.value * SECONDS[self.unit]
        return self._counted(things) / (self.value * PER_SECOND[self.unit])

    def _counted(self, things: float | None) -> float:
        counted = self.things if things is None else things
        if self.unit == RATIO or counted is None:
            raise UsageError(
                f"line {self.line}: {self.metric} in {self.unit!r} is no time of one call; "
                "say what a call counts"
            )
        return counted
