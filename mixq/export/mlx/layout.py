"""Layout: how mlx stores one unit, and in how many bytes.

A group of codes c stands for c x scale + bias. Codes are packed along a row into uint32, the first
in the lowest bits, which on a little-endian machine are mixq's own bytes. Source:
`quantize` and `QuantizedMatmul` of mlx 0.32 (mlx/ops.cpp, mlx/backend/cpu/quantized.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mixq.errors import ExportError
from mixq.export.source import Unit
from mixq.formats import Format, packed_bytes

GROUPS: Final = (128, 64, 32)
"""Group sizes of mlx, the largest first."""


@dataclass(frozen=True)
class Layout:
    """How mlx stores a unit's codes.

    Attributes:
        bits: of a code.
        group_size: of mlx; a scale of the plan is repeated where its group is larger.
        scale_dtype, bias_dtype: of the steps. A bias is -2^(bits-1) x scale on the grids with a
            sign, which float16 holds exactly, and so it does the minimum of the affine one; that
            of the zero-point grid is zero point x scale, up to 19 significant bits, and is
            float32. An embedding's are float32: mlx rounds its rows to the dtype of the scales.
    """

    bits: int
    group_size: int
    scale_dtype: torch.dtype
    bias_dtype: torch.dtype

    def stored_bytes(self, rows: int, columns: int) -> int:
        """Bytes of codes, scales and biases."""
        groups = rows * (columns // self.group_size)
        steps = self.scale_dtype.itemsize + self.bias_dtype.itemsize
        return packed_bytes(rows * columns, self.bits) + groups * steps


def layout_of(name: str, fmt: Format, columns: int, *, is_embedding: bool) -> Layout:
    """The layout of a unit that holds integers.

    Raises:
        ExportError: if mlx has none for the format and row length.
    """
    if fmt.activation != "none":
        raise ExportError(
            f"unit {name!r:.100} is planned as {fmt.name}, but mlx does not round activations to "
            "8 bits; choose a format without them (w8g64, w4g64), or the onnxruntime runtime"
        )
    limit = columns if fmt.group_size is None else fmt.group_size
    size = next((g for g in GROUPS if limit % g == 0 and columns % g == 0), None)
    if size is None:
        raise ExportError(
            f"unit {name!r:.100} is planned as {fmt.name} with rows of {columns} weights, but mlx "
            "has groups of 32, 64 and 128 that must divide the row and the plan's group; plan a "
            "multiple of 32, or keep the unit at 16 or 32 bits"
        )
    wide, half = torch.float32, torch.float16
    exact = half if fmt.grid != "zero-point" else wide
    if is_embedding:
        return Layout(fmt.bits, size, wide, wide)
    return Layout(fmt.bits, size, half, exact)


def tensors_of(unit: Unit, layout: Layout) -> dict[str, Tensor]:
    """What mlx stores of a unit: `weight`, `scales`, `biases`."""
    packed = unit.packed
    codes = packed.tensors["codes"].view(torch.uint32).view(packed.rows, -1)
    scales = packed.tensors["scales"].to(torch.float64)
    if unit.minimums is not None:
        biases = packed.tensors["minimums"].to(torch.float64)
    elif unit.zeros is not None:
        biases = -torch.from_numpy(unit.zeros).to(torch.float64) * scales
    else:
        biases = -float(1 << (layout.bits - 1)) * scales
    # A group of the plan may be several of mlx, the last of a row fewer.
    size = packed.format.group_size or packed.columns
    group = torch.arange(0, packed.columns, layout.group_size) // size
    return {
        "weight": codes,
        "scales": scales[:, group].to(layout.scale_dtype),
        "biases": biases[:, group].to(layout.bias_dtype),
    }
