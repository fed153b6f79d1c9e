"""Exact n-bit packing of unsigned codes into bytes.

Codes are laid out as one stream, least significant bits first: code i occupies the bits
i x bits to (i + 1) x bits - 1 of the stream, and bit j of the stream is bit j % 8 of byte j // 8.
The last byte is filled up with zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixq.errors import FormatError
from mixq.formats import packed_bytes

PACKED_WIDTHS = (2, 4, 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes of any shape, each in 0..2^bits - 1, as uint8 bytes of shape (bytes,).

    Raises:
        FormatError: if `bits` is not 2, 4 or 8.
    """
    per_byte = _codes_per_byte(bits)
    flat = codes.reshape(-1).to(torch.uint8)
    if per_byte == 1:
        return flat.clone()
    missing = packed_bytes(flat.numel(), bits) * per_byte - flat.numel()
    lanes = torch.nn.functional.pad(flat, (0, missing)).view(-1, per_byte)
    packed = lanes[:, 0].clone()
    for lane in range(1, per_byte):
        packed |= lanes[:, lane] << (lane * bits)
    return packed


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of `packed` as uint8 of shape (count,); the inverse of `pack`.

    Raises:
        FormatError: if `bits` is not 2, 4 or 8, or `packed` has the wrong length for `count`.
    """
    per_byte = _codes_per_byte(bits)
    if packed.numel() != packed_bytes(count, bits):
        raise FormatError(
            f"{count} codes of {bits} bits take {packed_bytes(count, bits)} bytes, "
            f"but got {packed.numel()}"
        )
    if per_byte == 1:
        return packed.clone()
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    lanes = (packed[:, None] >> shifts) & ((1 << bits) - 1)  # (bytes, codes per byte)
    return lanes.reshape(-1)[:count]


def _codes_per_byte(bits: int) -> int:
    if bits not in PACKED_WIDTHS:
        raise FormatError(f"codes are packed at 2, 4 or 8 bits, not at {bits}")
    return 8 // bits
