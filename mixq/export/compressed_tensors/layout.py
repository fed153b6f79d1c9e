"""Layout: how compressed-tensors stores one unit, in the two formats that transformers loads.

`pack-quantized`: unsigned codes packed along a row into int32, the first in the lowest bits, each
row filled up to whole words. Source: `pack_to_int32` in
compressed_tensors/compressors/pack_quantized/helpers.py, 0.20. A code stands for
(code - 2^(bits-1)) x scale.

`int-quantized`: 8-bit codes and zero points as int8, both less 128. Source: `decompress` in
compressed_tensors/compressors/naive_quantized/base.py.

The packed format has zero points and embeddings too. But transformers 5.23 makes room for zero
points of another shape than compressed-tensors 0.20 unpacks, initializes the `weight` that a
packed embedding no longer has, and ties parameters named `weight` alone. So embeddings and shared
weights are int-quantized at any width; zero points are int-quantized at 8 bits, and below they are
taken off the codes before these are packed, which needs one bit more: code - zero point lies
within 1 - 2^bits..2^bits - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mixq.errors import ExportError
from mixq.export.source import Unit
from mixq.formats import SCALE_BYTES, Format
from mixq.quantize.packing import PACKED_WIDTHS, pack

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
        bits: of the integers in the file.
        group_size: columns that share a scale; None is one scale per channel.
        has_zeros: whether zero points are stored.
        container: the format that holds them.
    """

    bits: int
    group_size: int | None
    has_zeros: bool
    container: Container

    @property
    def name(self) -> str:
        """What the config calls it."""
        group = "" if self.group_size is None else f"g{self.group_size}"
        return f"w{self.bits}{group}{'-zp' if self.has_zeros else ''} {self.container}"

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
            "symmetric, signed or zero-point grid, or the mlx or onnxruntime runtime"
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
    is_embedding = any(isinstance(module, nn.Embedding) for module, _ in owners)
    if fmt.bits == 8:
        plain = not (is_embedding or has_zeros or len(owners) > 1)
        return Scheme(8, fmt.group_size, has_zeros, "pack-quantized" if plain else "int-quantized")
    if is_embedding or len(owners) > 1:
        return Scheme(8, fmt.group_size, False, "int-quantized")
    return Scheme(fmt.bits + has_zeros, fmt.group_size, False, "pack-quantized")


def tensors_of(unit: Unit, scheme: Scheme) -> dict[str, Tensor]:
    """What is stored of a unit, by the names within its module."""
    packed = unit.packed
    scales = {"weight_scale": packed.tensors["scales"]}
    if scheme.has_zeros:
        assert unit.zeros is not None
        codes, zeros = torch.from_numpy(unit.codes), torch.from_numpy(unit.zeros)
        return {"weight": _less(codes, 128), "weight_zero_point": _less(zeros, 128), **scales}
    signed = _signed(unit)
    if scheme.container == "int-quantized":
        return {"weight": signed, **scales}
    return {
        "weight_packed": _words(signed, scheme.bits),
        "weight_shape": torch.tensor([packed.rows, packed.columns]),
        **scales,
    }


def _signed(unit: Unit) -> Tensor:
    """What the scales multiply, as int8 of shape (rows, columns): codes less their zero points."""
    codes = torch.from_numpy(unit.codes)
    if unit.zeros is None:
        return _less(codes, 1 << (unit.packed.format.bits - 1))
    columns = unit.packed.columns
    group = torch.arange(columns) // (unit.packed.format.group_size or columns)
    return _less(codes, torch.from_numpy(unit.zeros)[:, group].to(torch.int16))


def _less(codes: Tensor, zero: Tensor | int) -> Tensor:
    return (codes.to(torch.int16) - zero).to(torch.int8)


def _words(signed: Tensor, bits: int) -> Tensor:
    """Integers (rows, columns) with 2^(bits-1) added, as int32 of shape (rows, words)."""
    rows, columns = signed.shape
    codes = (signed.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    filled = nn.functional.pad(codes, (0, -columns % WORD_BITS))
    if bits in PACKED_WIDTHS:
        stream = pack(filled, bits).view(rows, -1)
    else:
        lanes = (filled.numpy()[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1
        stream = torch.from_numpy(np.packbits(lanes.reshape(rows, -1), axis=1, bitorder="little"))
    # Whole words of what was filled up alone are cut off again.
    words = -(-columns * bits // WORD_BITS)
    return stream.view(torch.int32)[:, :words].contiguous()
