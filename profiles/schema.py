"""The profile file as it is written: what a TOML file must hold, before any conversion.

See docs/profiles.md for the same in words. Rules that need more than one field live here too.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from mixq.formats import FLOAT_WIDTHS, GROUP_SIZES, WIDTHS, Activation, Grid
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
    "gemm", "conv", "depthwise", "pointwise", "column", "gather", "recurrent", "attention",
    "elementwise", "transcendental", "softmax", "normalization", "transpose", "gelu",
    "biased_gelu", "dequantize",
]  # fmt: skip
"""The kinds of `mixq.graph.work.Work` and kinds of those, see `mixq.cost.algorithm`."""
SPECIAL_OPS: Final = (
    *("depthwise", "pointwise", "column"),
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
            raise ValueError("core_dram_bandwidth exceeds dram_bandwidth; one core is a part")
        rates = [level.core_bandwidth.si(clock_hz) for level in self.cache]
        if min(rates) < core:
            raise ValueError("cache.core_bandwidth is below core_dram_bandwidth; swap them?")
        if rates != sorted(rates, reverse=True):
            raise ValueError("cache levels are not from the fastest to the slowest; sort them")
        sizes = [
            level.size.si() * (self.cores.value if level.private else 1) for level in self.cache
        ]
        if sizes != sorted(sizes):
            raise ValueError("cache levels are not from the smallest to the largest; sort them")
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
    winograd: bool = False
    spread: Spread | None = None
    points: WholeOrNone = 0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        low, high = GROUP_SIZES
        if any(not low <= size <= high for size in self.group_sizes):
            raise ValueError(f"group_sizes must lie in {low}..{high}, as those of a format do")
        quantized = bool(self.grids) and (bool(self.group_sizes) or self.per_channel)
        if self.bits in FLOAT_WIDTHS and (self.grids or self.group_sizes or self.per_channel):
            raise ValueError(
                f"a {self.bits}-bit kernel has no grids and no groups; leave them out"
            )
        if self.bits not in FLOAT_WIDTHS and bool(self.grids) != quantized:
            raise ValueError("a kernel with grids needs group_sizes or per_channel")
        if self.least_rows > self.most_rows:
            raise ValueError(f"least_rows {self.least_rows} exceeds most_rows {self.most_rows}")
        if self.bits != 8 and self.activations != ("none",):
            raise ValueError("only an 8-bit kernel has dynamic or static activations")
        if self.bits != 32 and self.weights_as == "dequantized":
            raise ValueError("only a 32-bit kernel has weights_as dequantized: it reads floats")
        if self.bits != 32 and self.dequantized_slowdown is not None:
            raise ValueError("dequantized_slowdown belongs to 32-bit kernels only")
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
    kernel: Annotated[tuple[KernelFile, ...], Field(min_length=1, max_length=200, strict=False)]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        keys = [
            (kernel.name, kernel.bits, kernel.activation_bits, op)
            for kernel in self.kernel
            for op in kernel.ops
        ]
        if len(set(keys)) != len(keys):
            raise ValueError("two kernels of one name serve the same op and bits; rename one")
        if self.dequantize is None:
            return self
        for kernel in self.kernel:
            if kernel.bits not in WIDTHS:
                raise ValueError(f"kernel {kernel.name!r}: no format has {kernel.bits:g} bits")
            if kernel.bits not in FLOAT_WIDTHS and not kernel.grids:
                raise ValueError(f"kernel {kernel.name!r} needs grids to be searched")
        plain = [k for k in self.kernel if k.bits == 32 and k.weights_as != "dequantized"]
        served = {op for kernel in plain for op in kernel.ops}
        missing = [op for op in get_args(Op) if op not in served and op not in SPECIAL_OPS]
        if missing:
            raise ValueError(f"no 32-bit kernel serves {', '.join(missing)}; every op needs one")
        return self


class ProfileFile(_Part):
    """A whole profile file."""

    schema_version: Literal[2]
    name: Name
    description: Text
    default_runtime: Name
    default_threads: Count
    chip: ChipFile
    runtime: Annotated[dict[Name, RuntimeFile], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default_runtime not in self.runtime:
            raise ValueError(
                f"default_runtime {self.default_runtime!r} is not described; "
                f"it must be one of {', '.join(self.runtime)}"
            )
        if self.default_threads.value > self.chip.cores.value:
            raise ValueError("default_threads exceeds chip.cores; one thread per core at most")
        for name, runtime in self.runtime.items():
            if name == self.default_runtime and runtime.dequantize is None:
                raise ValueError(
                    f"default_runtime {name!r} has no dequantize table, so it cannot be searched"
                )
            for kernel in runtime.kernel:
                if kernel.compute not in self.chip.core_peak:
                    raise ValueError(
                        f"kernel {kernel.name!r} of {name!r} computes in {kernel.compute}, "
                        "which chip.core_peak does not give"
                    )
        return self
