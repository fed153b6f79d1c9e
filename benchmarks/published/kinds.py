"""Sorts of kernels in the published tables: what bounds them, and what is expected of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mixq.cost.fit import Prior
from mixq.predict.row import Row
from mixq.profiles import Kernel, Profile

ALL_ROWS: Final = 2**40


@dataclass(frozen=True)
class Kind:
    """What kernels of one sort have in common.

    Attributes:
        compute: the peak rate that bounds them; empty is what their activations' width says.
        priors: parameters that are fitted, and what is expected of them.
        fixed: the other numbers that are not those of `BLANK`.
    """

    name: str
    compute: str
    priors: Mapping[str, Prior]
    fixed: Mapping[str, Any] = field(default_factory=dict)


def _priors(**given: tuple[float, float]) -> dict[str, Prior]:
    return {name: Prior(*numbers) for name, numbers in given.items()}


# The overhead is wide because the harness is in it: graphs replay in 5 us, eager calls take 30.
GPU: Final = _priors(
    overhead_s=(6e-6, 0.8), compute_efficiency=(0.75, 0.3), memory_efficiency=(0.8, 0.25)
)
CPU: Final = _priors(
    overhead_s=(4e-6, 0.8),
    compute_efficiency=(0.3, 0.8),
    memory_efficiency=(0.8, 0.4),
    scaling=(0.93, 0.08),
)
ANY_RATE: Final = _priors(compute_efficiency=(0.5, 1.0))
# Dequantizing is bound by writing and reading back: 6 bytes of the memory's peak on A100, in ps.
UNPACK: Final = _priors(unpack_s_per_weight=(3e-12, 0.7))
UNPACK_BYTES_PER_S: Final = 2.039e12
"""Bandwidth at which `UNPACK` holds; a faster memory unpacks as much faster."""
SCALES: Final = _priors(scale_weights=(8.0, 0.7))
TILES: Final = {"tile_m": 128, "tile_n": 128}
# 8192 columns: int8 CUTLASS on one H100 reads 1.4 TB/s at 4096 and 2.3 at 8192 columns.
FEW_COLUMNS: Final = {"full_columns": 8192}
FILL: Final = _priors(fill=(0.5, 0.3))

_GPU_KINDS: Final[tuple[tuple[str, Kind], ...]] = (
    (r"int8.*CUTLASS", Kind("CUTLASS", "int8", GPU | FILL, FEW_COLUMNS | TILES)),
    # Mixed-input CUTLASS computes at a third: 2 bits on H200 took twice the time of dequantizing.
    (r"CUTLASS", Kind("mixed CUTLASS", "fp16", GPU | _priors(compute_efficiency=(0.3, 0.5)))),
    (r"dequant", Kind("dequantize + cuBLAS", "fp16", GPU | UNPACK, TILES)),
    (r"^cuBLAS|^BF16", Kind("cuBLAS", "fp16", GPU, {"sharpness": 3.0} | TILES)),
    (r"GEMV", Kind("GEMV on CUDA cores", "fp32", GPU | ANY_RATE, {"sharpness": 2.0})),
    (r"fp8|W2A8", Kind("8-bit activations", "int8", GPU)),
    (r"", Kind("weights only", "fp16", GPU | ANY_RATE)),
)
_CPU_KINDS: Final[tuple[tuple[str, Kind], ...]] = (
    (r"LUT", Kind("table look-up", "int8", CPU, {"lookup": True})),
    # Accelerate multiplies on a matrix unit that profiles give no fp32 rate of: above the SIMD
    # peak, below that of 8-bit SIMD, which stands in.
    (r"Accelerate", Kind("matrix unit", "int8", CPU)),
    (r"(?i)\bamx|bf16", Kind("bf16", "bf16", CPU)),
    (r"i8mm|qb4w|qd8|NBitGemm", Kind("blocks of weights", "", CPU | SCALES)),
    (r"", Kind("other", "", CPU)),
)
"""The first whose expression is found in the kernel's name."""
_COMPUTE_OF: Final = {8.0: "int8", 16.0: "fp16", 32.0: "fp32"}
BLANK: Final[Mapping[str, Any]] = {
    "ops": ("gemm",), "grids": (), "group_sizes": (), "per_channel": False,
    "activations": ("none",), "compute_efficiency": 0.5, "memory_efficiency": 0.8,
    "overhead_s": 5e-6, "unpack_s_per_weight": 0.0, "dequantized_slowdown": 1.0,
    "least_rows": 1, "most_rows": ALL_ROWS, "tile_m": 1, "tile_n": 1, "unpack_rows": 0,
    "full_columns": 0, "fill": 0.0, "sharpness": 4.0, "winograd": False, "spread": 0.3,
    "points": 0,
}  # fmt: skip
DISPATCHES: Final[Mapping[str, tuple[tuple[int, int, str], ...]]] = {
    "existing path (GEMV small M; dequant+cuBLAS large M)": (
        (1, 16, "GEMV"),
        (17, ALL_ROWS, "dequant"),
    ),
}
"""Names that stand for two kernels: rows of each, and the words that say its kind."""


def kind_of(profile: Profile, row: Row) -> tuple[Kind, Kernel]:
    """The sort of a row's kernel, and the kernel before anything is fitted."""
    name, words, limits = row.kernel, row.kernel, {}
    for least, most, part in DISPATCHES.get(row.kernel, ()):
        if least <= (row.m or 1) <= most:
            until = f"to {most}" if most < ALL_ROWS else "and up"
            name, words = f"{row.kernel} [rows {least} {until}]", part
            limits = {"least_rows": least, "most_rows": most}
    kinds = _GPU_KINDS if profile.units_per_core > 1 else _CPU_KINDS
    kind = next(kind for expression, kind in kinds if re.search(expression, words))
    activation_bits = row.activation_bits or row.weight_bits
    compute = kind.compute or _COMPUTE_OF.get(activation_bits, "fp32")
    if compute not in profile.core_ops_per_s:
        compute = "fp32"
    numbers = {name: prior.centre for name, prior in kind.priors.items()}
    kernel = Kernel(
        **{**BLANK, **kind.fixed, **numbers, **limits},
        name=name,
        bits=row.weight_bits,
        activation_bits=activation_bits,
        compute=compute,
        origin=profile.name,
    )
    return kind, kernel
