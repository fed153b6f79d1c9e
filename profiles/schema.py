"""The profile file as it is written: what a TOML file must hold, before any conversion.

See docs/profiles.md for the same in words. Rules that need more than one field live here too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from mixq.formats import FLOAT_WIDTHS, GROUP_SIZES, WIDTHS, Activation, Grid
from mixq.profiles.problem import BrokenRuleError
from mixq.profiles.profile import WeightsAs
from mixq.profiles.quantity import (
    Bandwidth,
    Count,
    Efficiency,
    Frequency,
    Rate,
    Size,
    Slowdown,
    Spread,
    Text,
    Time,
    TimePerWeight,
)

Op = Literal[
    "gemm", "conv", "depthwise", "strided_depthwise", "pointwise", "column", "gather",
    "recurrent", "attention", "elementwise", "transcendental", "softmax", "normalization",
    "transpose", "gelu", "biased_gelu", "dequantize",
]  # fmt: skip
"""The kinds of `mixq.graph.work.Work` and kinds of those, see `mixq.cost.algorithm`."""
SPECIAL_OPS: Final = (
    *("depthwise", "strided_depthwise", "pointwise", "column"),
    *("transcendental", "softmax", "normalization", "transpose", "gelu", "biased_gelu"),
    "dequantize",
)
"""Kinds of a convolution or of an elementwise operation: without a kernel they get its own. And
turning packed weights into floats, which without a kernel is what the dequantize table says."""
Compute = Literal["fp32", "tf32", "fp16", "bf16", "int8", "int4"]
MOST_ROWS: Final = 2**40
Whole = Annotated[int, Field(ge=1, le=MOST_ROWS)]
WholeOrNone = Annotated[int, Field(ge=0, le=MOST_ROWS)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        known = list(cls.model_fields)
        for key in given if isinstance(given, dict) else ():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise BrokenRuleError(f"unknown key; {hint}keys are {', '.join(known)}", key)
        return given


class CacheFile(_Part):
    """One cache level: what fits in it is not fetched from further away."""

    name: Name
    size: Size
    core_bandwidth: Bandwidth
    private: bool = False


class ChipFile(_Part):
    """What the silicon can do; rates and `core_...` numbers are those of one core."""

    cores: Count
    clock: Frequency
    dram_bandwidth: Bandwidth
    core_dram_bandwidth: Bandwidth
    units_per_core: Count | None = None
    names: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    cache: Annotated[tuple[CacheFile, ...], Field(min_length=1, max_length=4, strict=False)]
    core_peak: Annotated[dict[Compute, Rate], Field(min_length=1)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        clock_hz = self.clock.si()
        core = self.core_dram_bandwidth.si(clock_hz)
        if core > self.dram_bandwidth.si(clock_hz):
            raise BrokenRuleError(
                "core_dram_bandwidth exceeds dram_bandwidth; one core is a part",
                "core_dram_bandwidth",
            )
        rates = [level.core_bandwidth.si(clock_hz) for level in self.cache]
        if min(rates) < core:
            raise BrokenRuleError(
                "cache.core_bandwidth is below core_dram_bandwidth; swap them?",
                *("cache", rates.index(min(rates)), "core_bandwidth"),
            )
        if rates != sorted(rates, reverse=True):
            raise BrokenRuleError(
                "cache levels are not from the fastest to the slowest; sort them", "cache"
            )
        # Private levels of many cores may hold more than the level that they share.
        sizes = [level.size.si() for level in self.cache]
        if sizes != sorted(sizes):
            raise BrokenRuleError(
                "cache levels are not from the smallest to the largest; sort them", "cache"
            )
        return self


class KernelFile(_Part):
    """One routine of a runtime: what it serves, and how well it uses the chip."""

    name: Text
    ops: Annotated[tuple[Op, ...], Field(min_length=1, strict=False)]
    bits: Annotated[float, Field(gt=0, le=32, strict=False)]
    activation_bits: Annotated[float, Field(gt=0, le=32, strict=False)] | None = None
    compute: Compute
    compute_efficiency: Efficiency
    memory_efficiency: Efficiency
    overhead: Time
    grids: Annotated[tuple[Grid, ...], Field(strict=False)] = ()
    group_sizes: Annotated[tuple[int, ...], Field(strict=False)] = ()
    per_channel: bool = False
    activations: Annotated[tuple[Activation, ...], Field(min_length=1, strict=False)] = ("none",)
    unpack: TimePerWeight | None = None
    finish: Time | None = None
    dequantized_slowdown: Slowdown | None = None
    least_rows: Whole = 1
    most_rows: Whole = MOST_ROWS
    tile_m: Whole = 1
    tile_n: Whole = 1
    unpack_rows: WholeOrNone = 0
    full_columns: WholeOrNone = 0
    fill: Share = 0.0
    sharpness: Annotated[float, Field(ge=1, le=16)] = 4.0
    weights_as: WeightsAs = "stored"
    per_image: bool = False
    block: WholeOrNone = 0
    winograd: bool = False
    spread: Spread | None = None
    points: WholeOrNone = 0
    scaling: Share = 1.0
    scale_weights: Annotated[float, Field(ge=0, le=1000)] = 0.0
    lookup: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Self:
        low, high = GROUP_SIZES
        grouped = bool(self.group_sizes) or self.per_channel
        rules = (
            (
                all(low <= size <= high for size in self.group_sizes),
                f"group_sizes must lie in {low}..{high}, as those of a format do",
                "group_sizes",
            ),
            (
                self.bits not in FLOAT_WIDTHS or not (self.grids or grouped),
                f"a {self.bits:g}-bit kernel has no grids and no groups; leave them out",
                "bits",
            ),
            (not self.grids or grouped, "needs group_sizes or per_channel for its grids", "grids"),
            (
                self.least_rows <= self.most_rows,
                f"exceeds most_rows, which is {self.most_rows}; swap them?",
                "least_rows",
            ),
            (
                self.bits == 8 or self.activations == ("none",),
                "only an 8-bit kernel has dynamic or static activations",
                "activations",
            ),
            (
                self.bits == 32 or self.weights_as != "dequantized",
                "is dequantized, but only a 32-bit kernel reads what a node has dequantized",
                "weights_as",
            ),
            (
                self.bits == 32 or self.dequantized_slowdown is None,
                "belongs to 32-bit kernels only",
                "dequantized_slowdown",
            ),
        )
        for kept, problem, key in rules:
            if not kept:
                raise BrokenRuleError(problem, key)
        return self


class DequantizeFile(_Part):
    """How the runtime turns packed weights into fp32 on every pass, where no kernel serves."""

    per_weight: TimePerWeight
    overhead: Time


class RuntimeFile(_Part):
    """An inference runtime on this chip."""

    description: Text
    title: Text | None = None
    memory: Size | None = None
    call_overhead: Time | None = None
    dequantize: DequantizeFile | None = None
    coarse_products: Whole = MOST_ROWS
    parallel: bool = False
    kernel: Annotated[tuple[KernelFile, ...], Field(min_length=1, max_length=200, strict=False)]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        seen: set[tuple[object, ...]] = set()
        for number, kernel in enumerate(self.kernel):
            keys = {(kernel.name, kernel.bits, kernel.activation_bits, op) for op in kernel.ops}
            if seen & keys:
                raise BrokenRuleError(
                    "two kernels of one name serve the same op and bits; rename one",
                    *("kernel", number, "name"),
                )
            seen |= keys
        if self.dequantize is not None:
            self._check_searchable()
        return self

    def _check_searchable(self) -> None:
        """What a search asks of a runtime: formats that exist, and fp32 for every operation."""
        for number, kernel in enumerate(self.kernel):
            if kernel.bits not in WIDTHS:
                raise BrokenRuleError(
                    f"no format has {kernel.bits:g} bits; a runtime that is searched has "
                    f"kernels of {', '.join(map(str, sorted(WIDTHS)))}",
                    *("kernel", number, "bits"),
                )
            if kernel.bits not in FLOAT_WIDTHS and not kernel.grids:
                raise BrokenRuleError("needs grids to be searched", "kernel", number, "bits")
        plain = [kernel for kernel in self.kernel if kernel.weights_as != "dequantized"]
        own = {op for kernel in plain for op in kernel.ops}
        # A runtime with depthwise kernels of its own does not fall back on those of `conv`.
        asked = [op for op in get_args(Op) if op not in SPECIAL_OPS or op in own]
        for op in asked:
            if op == "dequantize":
                continue
            floats = [kernel for kernel in plain if kernel.bits == 32 and op in kernel.ops]
            if not floats:
                raise BrokenRuleError(
                    f"no 32-bit kernel serves {op}; every op needs one", "kernel"
                )
            for first, last in _gaps((k.least_rows, k.most_rows) for k in floats):
                raise BrokenRuleError(
                    f"no 32-bit kernel serves {op} of {first} to {last} rows; "
                    "mend least_rows and most_rows",
                    "kernel",
                )


def _gaps(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Row counts from 1 to MOST_ROWS that no range holds."""
    free = 1
    for first, last in sorted(ranges):
        if first > free:
            yield free, first - 1
        free = max(free, last + 1)
    if free <= MOST_ROWS:
        yield free, MOST_ROWS


class ProfileFile(_Part):
    """A whole profile file."""

    schema_version: Literal[2]
    name: Name
    extends: Text | None = None
    description: Text
    default_runtime: Name
    default_threads: Count
    chip: ChipFile
    runtime: Annotated[dict[Name, RuntimeFile], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        chosen = self.runtime.get(self.default_runtime)
        if chosen is None:
            raise BrokenRuleError(
                f"{self.default_runtime!r} is not described; "
                f"it must be one of {', '.join(self.runtime)}",
                "default_runtime",
            )
        if chosen.dequantize is None:
            raise BrokenRuleError(
                f"runtime {self.default_runtime!r} has no dequantize table, so it cannot be "
                "searched; write one or choose another",
                "default_runtime",
            )
        if self.default_threads.value > self.chip.cores.value:
            raise BrokenRuleError(
                "default_threads exceeds chip.cores; one thread per core at most",
                "default_threads",
            )
        for name, runtime in self.runtime.items():
            for number, kernel in enumerate(runtime.kernel):
                if kernel.compute not in self.chip.core_peak:
                    raise BrokenRuleError(
                        f"{kernel.compute} is a rate that chip.core_peak does not give; "
                        f"it gives {', '.join(self.chip.core_peak)}",
                        *("runtime", name, "kernel", number, "compute"),
                    )
        return self
