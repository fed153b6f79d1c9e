"""PackedWeight: one unit's weights as they are stored, and the way back to floats."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixq.errors import FormatError
from mixq.formats import Format, packed_bytes
from mixq.quantize.packing import pack, unpack
from mixq.quantize.rounding import SCALE_DTYPE, Codes, dequantize, round_weights


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A unit's weights in a format of 16 or fewer bits.

    Attributes:
        format: how the weights are stored.
        shape: shape of the parameter.
        rows, columns: its matrix view.
        dtype: the parameter's own dtype, which `unpacked` gives back.
        tensors: what is stored: `half` for 16 bits; else `codes` (uint8, packed), `scales`
            (float16 of shape (rows, groups)) and, on the zero-point grid, `zeros`
            (uint8, packed).
    """

    format: Format
    shape: tuple[int, ...]
    rows: int
    columns: int
    dtype: torch.dtype
    tensors: dict[str, Tensor]

    @property
    def stored_bytes(self) -> int:
        """Bytes of the stored tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def unpacked(self) -> Tensor:
        """The weights as floats of the parameter's shape and dtype."""
        return unpack_weight(
            self.tensors, self.format, self.shape, self.rows, self.columns, self.dtype
        )


def pack_weight(weight: Tensor, fmt: Format, rows: int, columns: int) -> PackedWeight:
    """Quantize a parameter, seen as a (rows, columns) matrix, and pack it.

    Raises:
        FormatError: if the weights do not fit the format or are not finite (32 bits is not
            packed at all).
    """
    matrix = weight.detach().reshape(rows, columns)
    if fmt.bits == 32:
        raise FormatError("a 32-bit unit is kept as it is and not packed")
    if fmt.bits == 16:
        half = matrix.to(torch.float16, copy=True)  # of a float16 model, too
        if not bool(torch.isfinite(half).all()):
            raise FormatError(
                f"a weight of {float(matrix.abs().max()):.3g} does not fit into float16; "
                "keep this unit at 32 bits"
            )
        tensors = {"half": half.reshape(weight.shape).contiguous()}
    else:
        codes = round_weights(matrix, fmt)
        tensors = {"codes": pack(codes.values, fmt.bits), "scales": codes.scales}
        if codes.zero_points is not None:
            tensors["zeros"] = pack(codes.zero_points, fmt.bits)
    packed = PackedWeight(fmt, tuple(weight.shape), rows, columns, weight.dtype, tensors)
    # A scale rounded up can lift the largest float16 weights beyond float16.
    if weight.dtype == torch.float16 and not bool(torch.isfinite(packed.unpacked()).all()):
        raise FormatError(
            f"a weight of {float(matrix.abs().max()):.3g} becomes infinite in float16 at "
            f"{fmt.name}; keep this unit at 32 bits"
        )
    return packed


def unpack_weight(
    tensors: dict[str, Tensor],
    fmt: Format,
    shape: tuple[int, ...],
    rows: int,
    columns: int,
    dtype: torch.dtype,
) -> Tensor:
    """Floats of `shape` and `dtype` from the tensors of a `PackedWeight`."""
    if fmt.bits == 16:
        return tensors["half"].to(dtype)
    values = unpack(tensors["codes"], fmt.bits, rows * columns).view(rows, columns)
    zeros = None
    if fmt.grid == "zero-point":
        groups = fmt.groups_per_row(columns)
        zeros = unpack(tensors["zeros"], fmt.bits, rows * groups).view(rows, groups)
    return dequantize(Codes(values, tensors["scales"], zeros), fmt).reshape(shape).to(dtype)


def tensor_specs(
    fmt: Format, shape: tuple[int, ...], rows: int, columns: int
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Name, shape and dtype of each tensor that a unit stores in `fmt`; none at 32 bits."""
    if fmt.bits == 32:
        return {}
    if fmt.bits == 16:
        return {"half": (shape, torch.float16)}
    groups = fmt.groups_per_row(columns)
    specs: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "codes": ((packed_bytes(rows * columns, fmt.bits),), torch.uint8),
        "scales": ((rows, groups), SCALE_DTYPE),
    }
    if fmt.grid == "zero-point":
        specs["zeros"] = ((packed_bytes(rows * groups, fmt.bits),), torch.uint8)
    return specs


def round_trip(weight: Tensor, fmt: Format, rows: int, columns: int) -> Tensor:
    """The weights as the model would see them after being stored in `fmt`."""
    if fmt.bits == 32:
        return weight.detach()
    return pack_weight(weight, fmt, rows, columns).unpacked()
