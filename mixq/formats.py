"""Format: how the weights of one unit are stored.

A unit's weights are seen as a matrix of `rows` x `columns` (see `mixq.graph.units`); a group is
`group_size` consecutive columns of one row, the last group of a row may be shorter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, Self, get_args

from mixq.errors import FormatError

Grid = Literal["symmetric", "zero-point"]
Method = Literal["rtn", "squant"]
Activation = Literal["none"]

WIDTHS: Final = (32, 16, 8, 4, 2)
FLOAT_WIDTHS: Final = (32, 16)
GROUP_SIZES: Final = (16, 256)
"""Smallest and largest group size; ONNX Runtime 1.31 takes 16 to 256 and nothing larger."""
SCALE_BYTES: Final = 2
"""Scales are stored as float16, what ONNX Runtime, OpenVINO and GGUF all read."""

_NAME: Final = re.compile(
    r"w(?P<bits>[1-9][0-9]?)(?:g(?P<group>[1-9][0-9]{0,5}))?(?P<zp>-zp)?(?P<sq>-squant)?"
)


@dataclass(frozen=True, slots=True)
class Format:
    """A way to store weights: width, groups, grid, rounding method.

    Attributes:
        bits: 32 keeps the weights as they are, 16 stores float16, 8, 4 and 2 store integers.
        group_size: columns that share one scale; None is one scale per row ("per channel").
        grid: `symmetric` integers -q..q with q = 2^(bits-1) - 1 times a scale, or `zero-point`
            integers 0..2^bits - 1 minus an integer zero point, times a scale.
        method: how weights are rounded onto the grid: `rtn` to the nearest code, `squant` so
            that the errors of a group cancel (see `mixq.quantize.flips`).
        activation: what happens to the activations that meet these weights.

    Raises:
        FormatError: for a combination that cannot exist.
    """

    bits: int
    group_size: int | None = None
    grid: Grid = "symmetric"
    method: Method = "rtn"
    activation: Activation = "none"

    def __post_init__(self) -> None:
        # 8.0 and True equal integers, but would write a name that cannot be read back.
        if type(self.bits) is not int or self.bits not in WIDTHS:
            raise FormatError(
                f"bits is {self.bits!r:.40}, but a format has one of "
                f"{', '.join(map(str, WIDTHS))} bits; choose one of those"
            )
        for field, value, choices in (
            ("grid", self.grid, get_args(Grid)),
            ("method", self.method, get_args(Method)),
            ("activation", self.activation, get_args(Activation)),
        ):
            if value not in choices:
                raise FormatError(
                    f"{field} is {value!r:.40}, but it must be one of {', '.join(choices)}"
                )
        low, high = GROUP_SIZES
        if self.group_size is not None and (
            type(self.group_size) is not int or not low <= self.group_size <= high
        ):
            raise FormatError(
                f"group_size is {self.group_size!r:.40}, but it must be an integer in "
                f"{low}..{high}; leave it out for one scale per channel"
            )
        plain = (None, "symmetric", "rtn")
        if self.is_float and (self.group_size, self.grid, self.method) != plain:
            raise FormatError(
                f"a {self.bits}-bit format has no groups, grid or rounding, but got group_size="
                f"{self.group_size}, grid={self.grid!r}, method={self.method!r}; leave them out"
            )

    @property
    def is_float(self) -> bool:
        """Whether weights stay floating-point numbers (32 or 16 bits)."""
        return self.bits in FLOAT_WIDTHS

    @property
    def name(self) -> str:
        """Canonical name: `w32`, `w8` (per channel), `w4g64`, `w2g64-zp`, `w4g64-zp-squant`."""
        group = "" if self.group_size is None else f"g{self.group_size}"
        grid = "-zp" if self.grid == "zero-point" else ""
        method = "" if self.method == "rtn" else f"-{self.method}"
        return f"w{self.bits}{group}{grid}{method}"

    @classmethod
    def parse(cls, name: str) -> Self:
        """The format of a canonical name; the inverse of `name`.

        Raises:
            FormatError: if `name` is not such a name.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise FormatError(
                f"format {name[:40]!r} is not a name like 'w32', 'w8', 'w4g64' or 'w2g64-zp'"
            )
        group = match["group"]
        return cls(
            bits=int(match["bits"]),
            group_size=None if group is None else int(group),
            grid="zero-point" if match["zp"] else "symmetric",
            method="squant" if match["sq"] else "rtn",
        )

    def groups_per_row(self, columns: int) -> int:
        """Number of scales of one row; the last group may be shorter than `group_size`."""
        return 1 if self.group_size is None else -(-columns // self.group_size)

    def stored_bytes(self, rows: int, columns: int, element_bytes: int = 4) -> int:
        """Exact bytes of a (rows, columns) matrix in this format: codes, scales, zero points.

        Codes and zero points are packed without padding between rows; each of the two streams
        ends on a whole byte. `element_bytes` is what one weight takes when left as it is.
        """
        weights = rows * columns
        if self.bits == 32:
            return weights * element_bytes
        if self.bits == 16:
            return weights * 2
        scales = rows * self.groups_per_row(columns)
        zero_points = packed_bytes(scales, self.bits) if self.grid == "zero-point" else 0
        return packed_bytes(weights, self.bits) + scales * SCALE_BYTES + zero_points


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` codes of `bits` bits packed without gaps."""
    return -(-count * bits // 8)
