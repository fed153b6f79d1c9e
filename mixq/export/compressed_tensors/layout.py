"""Layout: how compressed-tensors stores one unit, in the two formats that transformers loads.

`pack-quantized`: unsigned codes packed along a row into int32, the first in the lowest bits, each
row filled up to whole words. Source: `pack_to_int32` in
compressed_tensors/compressors/pack_quantized/helpers.py, 0.20. A code stands for
(code - 2^(bits-1)) x scale.

`int-quantized`: 8-bit codes and zero points as int8, both less 128. Source: `decompress` in
compressed_tensors/compressors/naive_quantized/base.py.

Zero points exist in the packed format too, packed along a column, and so do packed embeddings; but
transformers 5.23 makes room for zero points of another shape than compressed-tensors 0.20 unpacks,
initializes the `weight` that a packed embedding no longer has, and ties parameters named `weight`
alone. So all of these are int-quantized here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from mixq.errors import ExportError
from mixq.export.source import Unit
from mixq.formats import SCALE_BYTES, Format
from mixq.quantize.packing import pack

Container = Literal["pack-quantized", "int-quantized"]

MODULES: Final = (nn.Linear, nn.Embedding)
"""What has a format: `COMPRESSIBLE_MODULE_TYPES` in compressed_tensors/compressors/base.py."""
WORD_BITS: Final = 32
SHAPE_BYTES: Final = 2 * 8
"""`weight_shape`, two int64, is stored with every packed unit."""


@dataclass(frozen=True, order=True)
class Scheme:
    """What one config group says.

    Attributes:
        bits, group_size, has_zeros: of the integers; no group size is one scale per channel.
        container: the format that holds them.
    """

    bits: int
    group_size: int | None
    has_zeros: bool
    container: Container

    @property
    def name(self) -> str:
        """What the config calls it."""
        fmt = Format(self.bits, self.group_size, "zero-point" if self.has_zeros else "symmetric")
        return f"{fmt.name} {self.container}"

    def arguments(self) -> dict[str, Any]:
        """The config group, without its targets."""
        grouped: dict[str, Any] = {"strategy": "channel"}
        if self.group_size is not None:
            grouped = {"strategy": "group", "group_size": self.group_size}
        weights = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": not self.has_zeros,
            "dynamic": False,
        }
        return {"weights": weights | grouped, "format": self.container}

    def stored_bytes(self, rows: int, columns: int, modules: int) -> int:
        """Bytes of a unit that as many modules share: codes once, steps for each of them."""
        groups = rows * (1 if self.group_size is None else columns // self.group_size)
        scales = groups * SCALE_BYTES
        if self.container == "int-quantized":
            return rows * columns + (scales + groups * self.has_zeros) * modules
        words = -(-columns * self.bits // WORD_BITS)
        return rows * words * WORD_BITS // 8 + scales + SHAPE_BYTES


def scheme_of(
    name: str, fmt: Format, columns: int, owners: Sequence[tuple[nn.Module, str]]
) -> Scheme:
    """How a unit with codes is stored.

    Args:
        name: of the unit.
        fmt: its format.
        columns: of its matrix.
        owners: every module that holds it, and its name there.

    Raises:
        ExportError: if the format has no words for it, naming the legal choices.
    """
    what = f"unit {name!r:.100} is planned as {fmt.name}, but "
    if fmt.activation != "none":
        raise ExportError(
            f"{what}compressed-tensors rounds activations to other codes than the plan; choose a "
            "format without (w8g64, w4g64), or the onnxruntime runtime"
        )
    if fmt.grid == "affine":
        raise ExportError(
            f"{what}compressed-tensors has integer zero points and no float minimums; choose the "
            "symmetric or signed grid, zero-point at 8 bits, or the mlx or onnxruntime runtime"
        )
    for module, leaf in owners:
        if not isinstance(module, MODULES) or leaf != "weight":
            raise ExportError(
                f"{what}compressed-tensors stores codes of Linear and Embedding alone, and this "
                f"is {leaf!r:.40} of {type(module).__name__}; keep it at 16 or 32 bits, or choose "
                "the onnxruntime runtime"
            )
    if fmt.group_size is not None and columns % fmt.group_size:
        raise ExportError(
            f"{what}compressed-tensors takes no group that does not divide the row of {columns} "
            "weights; choose another group size or one scale per channel"
        )
    has_zeros = fmt.grid == "zero-point"
    trouble, choices = "", "8, 16 or 32 bits"
    if any(isinstance(module, nn.Embedding) for module, _ in owners):
        trouble = "embeddings"
    elif len(owners) > 1:
        trouble = "weights that modules share"
    elif has_zeros:
        trouble, choices = "zero points", "the symmetric or signed grid, or 8 bits"
    if trouble and fmt.bits != 8:
        raise ExportError(
            f"{what}transformers cannot load packed {trouble} of compressed-tensors; choose "
            f"{choices}, or the mlx or onnxruntime runtime"
        )
    container: Container = "int-quantized" if trouble else "pack-quantized"
    return Scheme(fmt.bits, fmt.group_size, has_zeros, container)


def tensors_of(unit: Unit, scheme: Scheme) -> dict[str, Tensor]:
    """What is stored of a unit, by the names within its module."""
    packed = unit.packed
    codes = torch.from_numpy(unit.codes)
    scales = {"weight_scale": packed.tensors["scales"]}
    if scheme.container == "int-quantized":
        stored = {"weight": _signed(codes), **scales}
        if unit.zeros is not None:
            stored["weight_zero_point"] = _signed(torch.from_numpy(unit.zeros))
        return stored
    missing = -packed.columns % (WORD_BITS // scheme.bits)
    words = pack(nn.functional.pad(codes, (0, missing)), scheme.bits).view(torch.int32)
    return {
        "weight_packed": words.view(packed.rows, -1),
        "weight_shape": torch.tensor([packed.rows, packed.columns]),
        **scales,
    }


def _signed(codes: Tensor) -> Tensor:
    """Unsigned 8-bit codes less 128, as int8."""
    return (codes.to(torch.int16) - 128).to(torch.int8)
