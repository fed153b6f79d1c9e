"""Format: how the weights of one unit are stored.

A unit's weights are seen as a matrix of `rows` x `columns` (see `mixq.graph.units`); a group is
`group_size` consecutive columns of one row, the last group of a row may be shorter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, Self, cast, get_args

from mixq.errors import FormatError
from mixq.plugins import Plugins

Grid = Literal["symmetric", "reduced", "signed", "zero-point", "affine", "bfloat16"]
Method = Literal["rtn", "squant", "clip", "hqq", "gptq"]
"""mixq's own rounding methods; `METHODS` has those of plug-ins too."""
Activation = Literal["none", "dynamic", "static"]

WIDTHS: Final = (32, 16, 8, 4, 2)
FLOAT_WIDTHS: Final = (32, 16)
GROUP_SIZES: Final = (16, 256)
"""Smallest and largest group size; ONNX Runtime 1.31 takes 16 to 256 and nothing larger."""
GRIDS: Final[dict[int, tuple[Grid, ...]]] = {
    32: ("symmetric",),
    16: ("symmetric", "bfloat16"),
    8: ("symmetric", "reduced", "signed", "zero-point", "affine"),
    4: ("symmetric", "signed", "zero-point", "affine"),
    2: ("symmetric", "signed", "zero-point", "affine"),
}
"""The grids that each width may have; at 32 and 16 bits `symmetric` stands for plain floats."""
SCALE_BYTES: Final = 2
"""Scales and minimums are float16, what ONNX Runtime, OpenVINO and GGUF all read."""
INPUT_RANGE_BYTES: Final = 5
"""Static activations store one float32 scale and one 8-bit zero point per unit."""
DATA_FREE: Final[tuple[Method, ...]] = ("rtn", "squant")
"""Methods whose codes follow from the weights alone, by arithmetic that is the same anywhere."""

_GRIDS: Final[dict[str, Grid]] = {
    "reduced": "reduced", "signed": "signed", "zp": "zero-point", "affine": "affine",
    "bf16": "bfloat16",
}  # fmt: skip
_SUFFIXES: Final = {grid: suffix for suffix, grid in _GRIDS.items()}
_METHOD: Final = "[a-z][a-z0-9_]{0,31}"
_NO_METHODS: Final = ("auto", "bc", *_GRIDS, *get_args(Grid), *get_args(Activation))
"""Words that stand beside a method's in names of formats and on the command line."""
METHODS: Final = Plugins(
    "mixq.roundings",
    "rounding method",
    {name: f"mixq.quantize.methods:{name.upper()}" for name in get_args(Method)},
    pattern=_METHOD,
    reserved=_NO_METHODS,
)
"""Rounding methods by name; see `mixq.quantize.methods`."""
_NAME: Final = re.compile(
    r"w(?P<bits>[1-9][0-9]?)(?P<a8>a8)?(?:g(?P<group>[1-9][0-9]{0,5}))?"
    rf"(?:-(?P<grid>{'|'.join(_GRIDS)}))?"
    rf"(?:-(?!(?:rtn|{'|'.join(_NO_METHODS)})(?:-|$))(?P<method>{_METHOD}))?(?P<bc>-bc)?"
    r"(?:-(?P<activation>dynamic|static))?"
)


@dataclass(frozen=True, slots=True)
class Format:
    """A way to store weights: width, groups, grid, rounding method, activations.

    Attributes:
        bits: 32 keeps the weights as they are, 16 stores floats, 8, 4 and 2 store integers.
        group_size: columns that share one scale; None is one scale per row ("per channel").
        grid: what a code c stands for, with q = 2^(bits-1):
            `symmetric`: c x scale with c in 1-q..q-1;
            `reduced`: 8 bits only, c in -63..63, for kernels that add two products in 16 bits;
            `signed`: c x scale with c in -q..q-1, the scale of either sign;
            `zero-point`: (c - z) x scale with c and the integer z in 0..2q-1;
            `affine`: c x scale + minimum with c in 0..2q-1 and a float16 minimum;
            `bfloat16`: 16 bits only, bfloat16 in place of float16.
        method: how weights are rounded onto the grid: `rtn` to the nearest code, `squant` so
            that the errors of a group cancel (`mixq.quantize.flips`), `clip` with searched scales
            (`mixq.quantize.clip`), `hqq` with scales that forgive outliers
            (`mixq.quantize.hqq`), `gptq` so that later columns make up for the errors of earlier
            ones on calibration data (`mixq.quantize.gptq`), or a method of an installed package
            (docs/extend/rounding.md).
        activation: what happens to the activations that meet these weights: `none`, or rounded to
            8 bits with a range taken from each input (`dynamic`) or from calibration (`static`).
        bias_corrected: whether the bias of the module takes back the mean shift of its output
            on calibration data.

    Raises:
        FormatError: for a combination that cannot exist.
    """

    bits: int
    group_size: int | None = None
    grid: Grid = "symmetric"
    method: str = "rtn"
    activation: Activation = "none"
    bias_corrected: bool = False

    def __post_init__(self) -> None:
        # 8.0 and True equal integers, but would write a name that cannot be read back.
        if type(self.bits) is not int or self.bits not in WIDTHS:
            raise FormatError(
                f"bits is {self.bits!r:.40}, but a format has one of "
                f"{', '.join(map(str, WIDTHS))} bits; choose one of those"
            )
        for field, value, choices in (
            ("grid", self.grid, get_args(Grid)),
            ("activation", self.activation, get_args(Activation)),
            ("bias_corrected", self.bias_corrected, (False, True)),
        ):
            if value not in choices or type(value) is not type(choices[0]):
                raise FormatError(
                    f"{field} is {value!r:.40}, but it must be one of "
                    f"{', '.join(map(str, choices))}"
                )
        if type(self.method) is not str or self.method not in METHODS:
            raise FormatError(
                f"method is {self.method!r:.40}, but it must be one of "
                f"{', '.join(METHODS.names())}, or of a package that is not installed here "
                f"(entry points of {METHODS.group}); install it, or choose one of those"
            )
        low, high = GROUP_SIZES
        if self.group_size is not None and (
            type(self.group_size) is not int or not low <= self.group_size <= high
        ):
            raise FormatError(
                f"group_size is {self.group_size!r:.40}, but it must be an integer in "
                f"{low}..{high}; leave it out for one scale per channel"
            )
        plain = (None, "rtn", "none", False)
        others = (self.group_size, self.method, self.activation, self.bias_corrected)
        if self.grid not in GRIDS[self.bits] or (self.is_float and others != plain):
            rule = f"the grids of {self.bits} bits are {', '.join(GRIDS[self.bits])}"
            if self.is_float:
                rule = f"a {self.bits}-bit format has no groups, grid or rounding"
            raise FormatError(
                f"{rule}, but got grid={self.grid!r}, group_size={self.group_size}, "
                f"method={self.method!r}, activation={self.activation!r}, "
                f"bias_corrected={self.bias_corrected}; leave out what it lacks"
            )

    @property
    def is_float(self) -> bool:
        """Whether weights stay floating-point numbers (32 or 16 bits)."""
        return self.bits in FLOAT_WIDTHS

    @property
    def needs_codes(self) -> bool:
        """Whether weights alone do not tell how they were rounded, so that codes must be kept."""
        seen = self.method not in DATA_FREE or self.activation == "static" or self.bias_corrected
        return seen and not self.is_float

    @property
    def name(self) -> str:
        """Canonical name: `w32`, `w8` (per channel), `w4g64-zp-squant`, `w8a8-dynamic`."""
        parts = [
            f"w{self.bits}"
            + ("" if self.activation == "none" else "a8")
            + ("" if self.group_size is None else f"g{self.group_size}")
        ]
        if self.grid != "symmetric":
            parts.append(_SUFFIXES[self.grid])
        if self.method != "rtn":
            parts.append(self.method)
        if self.bias_corrected:
            parts.append("bc")
        if self.activation != "none":
            parts.append(self.activation)
        return "-".join(parts)

    @classmethod
    def parse(cls, name: str) -> Self:
        """The format of a canonical name; the inverse of `name`.

        Raises:
            FormatError: if `name` is not such a name.
        """
        match = _NAME.fullmatch(name)
        if match is None or bool(match["a8"]) != bool(match["activation"]):
            raise FormatError(
                f"format {name[:40]!r} is not a name like 'w32', 'w8', 'w4g64', 'w2g64-zp', "
                "'w4g64-affine-gptq' or 'w8a8-dynamic'"
            )
        group = match["group"]
        return cls(
            bits=int(match["bits"]),
            group_size=None if group is None else int(group),
            grid=_GRIDS[match["grid"]] if match["grid"] else "symmetric",
            method=match["method"] or "rtn",
            activation=cast("Activation", match["activation"] or "none"),
            bias_corrected=match["bc"] is not None,
        )

    def groups_per_row(self, columns: int) -> int:
        """Number of scales of one row; the last group may be shorter than `group_size`."""
        return 1 if self.group_size is None else -(-columns // self.group_size)

    def stored_bytes(self, rows: int, columns: int, element_bytes: int = 4) -> int:
        """Exact bytes of a (rows, columns) matrix in this format, with all that belongs to it.

        Codes, scales, zero points, minimums, and the range of static activations. Codes and zero
        points are packed without padding between rows; each of the two streams ends on a whole
        byte. `element_bytes` is what one weight takes when left as it is.
        """
        weights = rows * columns
        if self.bits == 32:
            return weights * element_bytes
        if self.bits == 16:
            return weights * 2
        scales = rows * self.groups_per_row(columns)
        offsets = {
            "zero-point": packed_bytes(scales, self.bits),
            "affine": scales * SCALE_BYTES,
        }.get(self.grid, 0)
        ranges = INPUT_RANGE_BYTES if self.activation == "static" else 0
        return packed_bytes(weights, self.bits) + scales * SCALE_BYTES + offsets + ranges


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` codes of `bits` bits packed without gaps."""
    return -(-count * bits // 8)
