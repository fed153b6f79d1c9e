"""Palette: the formats that a search may choose from at each width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, get_args

from mixq.errors import UsageError
from mixq.formats import FLOAT_WIDTHS, GRIDS, GROUP_SIZES, METHODS, Activation, Format, Grid

Reads: TypeAlias = Callable[[Format], bool]
"""Whether the runtime has kernels that read a format."""

GROUP_SIZE: Final = 64
"""The group size of uniform plans, and of 8 bits unless another is asked for."""
DEFAULT_GROUP_SIZES: Final = (32, 64, 128)
PREFERRED: Final[tuple[Grid, ...]] = ("zero-point", "affine", "signed", "symmetric")
"""Grids below 8 bits: the first that the runtime reads is taken. For its bytes the zero point is
as good as the float minimum in linear layers, and ONNX Runtime has fast kernels for it alone."""
DEQUANTIZED: Final[Grid] = "affine"
"""The grid where the runtime reads none: convolutions have few weights per scale and err half as
much with it."""


@dataclass(frozen=True)
class Palette:
    """Widths, group sizes, grids and rounding that a search may use.

    Attributes:
        bits: widths.
        group_sizes: columns that share one scale below 8 bits; None is one scale per channel.
        grids: below 8 bits; None takes the best that the runtime reads.
        method: of rounding; `auto` is GPTQ where calibration data suffice, and searched scales
            elsewhere.
        activations: what may happen to the activations of 8-bit units, beside `none`.
        half: what 16 bits are.

    Raises:
        UsageError: if one of them is empty or unknown.
    """

    bits: Sequence[int]
    group_sizes: Sequence[int | None] = DEFAULT_GROUP_SIZES
    grids: Sequence[Grid] | None = None
    method: str = "auto"
    activations: Sequence[Activation] = ("none",)
    half: Grid = "symmetric"

    def __post_init__(self) -> None:
        low, high = GROUP_SIZES
        for size in self.group_sizes:
            if size is not None and not low <= size <= high:
                raise UsageError(
                    f"--group-sizes has {size}, but a group takes {low} to {high} columns, or "
                    "'channel' for one scale per channel"
                )
        for option, is_empty, example in (
            ("--group-sizes", not self.group_sizes, "32,64,128"),
            ("--grids", self.grids is not None and not self.grids, "zero-point,affine"),
            ("--activations", not self.activations, "none,dynamic"),
        ):
            if is_empty:
                raise UsageError(f"{option} is empty, but at least one is needed; try {example}")
        for option, given, known in (
            ("--grids", self.grids or (), GRIDS[4]),
            ("--method", (self.method,), ("auto", *METHODS.names())),
            ("--activations", self.activations, get_args(Activation)),
            ("--half", (self.half,), GRIDS[16]),
        ):
            for value in given:
                if value not in known:
                    raise UsageError(
                        f"{option} has {value!r:.40}, but it takes {', '.join(map(str, known))}"
                    )

    def formats(self, width: int, reads: Reads) -> tuple[Format, ...]:
        """The formats of a width, the one of uniform plans first.

        A width that the runtime has no kernel for is dequantized on every pass, which works from
        any grid; then all of them count as read.

        Args:
            width: 32, 16, 8, 4 or 2 bits.
            reads: whether the runtime reads a format of the unit at hand.
        """
        if width in FLOAT_WIDTHS:
            return (Format(width, grid=self.half if width == 16 else "symmetric"),)
        if width == 8:
            return tuple(dict.fromkeys(map(self._rounded, self._eight(reads))))
        sizes = sorted(self.group_sizes, key=lambda size: (size != GROUP_SIZE, size or 0))
        plain = [
            Format(width, size, grid) for size in sizes for grid in self._below_8(reads, width)
        ]
        read = [fmt for fmt in plain if reads(fmt)] or plain
        return tuple(dict.fromkeys(map(self._rounded, read)))

    def _eight(self, reads: Reads) -> tuple[Format, ...]:
        size = GROUP_SIZE if GROUP_SIZE in self.group_sizes else self.group_sizes[0]
        formats = [Format(8, size)] if "none" in self.activations else []
        for activation in self.activations:
            if activation == "none":
                continue
            per_channel = [Format(8, None, grid, activation=activation) for grid in GRIDS[8]]
            formats += [fmt for fmt in per_channel if reads(fmt)][:1]
        return tuple(formats or [Format(8, size)])

    def _below_8(self, reads: Reads, width: int) -> Sequence[Grid]:
        if self.grids is not None:
            return self.grids
        sizes = self.group_sizes
        for grid in PREFERRED:
            if any(reads(Format(width, size, grid)) for size in sizes):
                return (grid,)
        return (DEQUANTIZED,)

    def _rounded(self, fmt: Format) -> Format:
        return replace(fmt, method="gptq" if self.method == "auto" else self.method)
