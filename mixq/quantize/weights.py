"""PackedWeight: one unit's weights as they are stored, and the way back to floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mixq.errors import FormatError
from mixq.formats import Format, packed_bytes
from mixq.quantize.blocks import row_chunks
from mixq.quantize.codes import SCALE_DTYPE, Codes, Steps, dequantize
from mixq.quantize.packing import pack, unpack
from mixq.quantize.rounding import round_weights

CHUNK: Final = 1 << 22
"""Weights that become floats at once: on the way each takes three times its own bytes."""


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A unit's weights in a format of 16 or fewer bits.

    Attributes:
        format: how the weights are stored.
        shape: shape of the parameter.
        rows, columns: its matrix view.
        dtype: the parameter's own dtype, which `unpacked` gives back.
        tensors: what is stored: `half` for 16 bits; else `codes` (uint8, packed) and `scales`
            (float16 of shape (rows, groups)); on the zero-point grid `zeros` (uint8, packed), on
            the affine one `minimums` (as the scales); for static activations `input_scale`
            (float32) and `input_zero` (uint8).
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
    """Quantize a parameter, seen as a (rows, columns) matrix, from its weights alone, and pack it.

    Raises:
        FormatError: if the weights do not fit the format or are not finite (32 bits is not
            packed at all), or the format's rounding needs data.
    """
    if fmt.bits == 32:
        raise FormatError("a 32-bit unit is kept as it is and not packed")
    if fmt.needs_codes:
        raise FormatError(
            f"{fmt.name} is rounded on calibration data, which weights alone do not tell; "
            "pass the codes that were made"
        )
    if fmt.bits == 16:
        return _pack_half(weight, fmt, rows, columns)
    codes = round_weights(weight.detach().reshape(rows, columns), fmt)
    return pack_codes(codes, fmt, weight)


def pack_codes(codes: Codes, fmt: Format, weight: Tensor, **ranges: Tensor) -> PackedWeight:
    """Codes of a (rows, columns) matrix, packed.

    Args:
        codes: of the matrix.
        fmt: its format.
        weight: the parameter that was rounded, for its shape and dtype.
        ranges: `input_scale` and `input_zero` of static activations.

    Raises:
        FormatError: if a weight becomes infinite in the parameter's dtype.
    """
    rows, columns = codes.values.shape
    tensors = {"codes": pack(codes.values, fmt.bits), "scales": codes.steps.scales}
    if codes.steps.zeros is not None:
        tensors["zeros"] = pack(codes.steps.zeros, fmt.bits)
    if codes.steps.minimums is not None:
        tensors["minimums"] = codes.steps.minimums
    packed = PackedWeight(
        fmt, tuple(weight.shape), rows, columns, weight.dtype, {**tensors, **ranges}
    )
    # A scale rounded up can lift the largest float16 weights beyond float16.
    if weight.dtype == torch.float16 and not bool(torch.isfinite(packed.unpacked()).all()):
        raise FormatError(
            f"a weight of {float(weight.detach().abs().max()):.3g} becomes infinite in float16 at "
            f"{fmt.name}; keep this unit at 32 bits"
        )
    return packed


def _pack_half(weight: Tensor, fmt: Format, rows: int, columns: int) -> PackedWeight:
    dtype = _half_dtype(fmt)
    half = weight.detach().to(dtype, copy=True).contiguous()  # of a float16 model, too
    if not bool(torch.isfinite(half.to(weight.dtype)).all()):
        raise FormatError(
            f"a weight of {float(weight.detach().abs().max()):.3g} does not fit into "
            f"{str(dtype).removeprefix('torch.')}; keep this unit at 32 bits"
        )
    return PackedWeight(fmt, tuple(weight.shape), rows, columns, weight.dtype, {"half": half})


def _half_dtype(fmt: Format) -> torch.dtype:
    return torch.bfloat16 if fmt.grid == "bfloat16" else torch.float16


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
    scales, minimums = tensors["scales"], tensors.get("minimums")
    if rows * columns <= CHUNK:
        codes = Codes(values, Steps(scales, zeros, minimums))
        return dequantize(codes, fmt).reshape(shape).to(dtype)
    weight = torch.empty(rows, columns, dtype=dtype, device=scales.device)
    for part in row_chunks(rows, columns, CHUNK):
        own = [None if item is None else item[part] for item in (zeros, minimums)]
        weight[part] = dequantize(Codes(values[part], Steps(scales[part], *own)), fmt)
    return weight.reshape(shape)


def tensor_specs(
    fmt: Format, shape: tuple[int, ...], rows: int, columns: int
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Name, shape and dtype of each tensor that a unit stores in `fmt`; none at 32 bits."""
    if fmt.bits == 32:
        return {}
    if fmt.bits == 16:
        return {"half": (shape, _half_dtype(fmt))}
    groups = fmt.groups_per_row(columns)
    specs: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "codes": ((packed_bytes(rows * columns, fmt.bits),), torch.uint8),
        "scales": ((rows, groups), SCALE_DTYPE),
    }
    if fmt.grid == "zero-point":
        specs["zeros"] = ((packed_bytes(rows * groups, fmt.bits),), torch.uint8)
    if fmt.grid == "affine":
        specs["minimums"] = ((rows, groups), SCALE_DTYPE)
    if fmt.activation == "static":
        specs["input_scale"] = ((1,), torch.float32)
        specs["input_zero"] = ((1,), torch.uint8)
    return specs


def round_trip(weight: Tensor, fmt: Format, rows: int, columns: int) -> Tensor:
    """The weights as the model would see them after being stored in `fmt`."""
    if fmt.bits == 32:
        return weight.detach()
    return pack_weight(weight, fmt, rows, columns).unpacked()
