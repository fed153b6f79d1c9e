"""Saturation: what x86 CPUs without VNNI make of products of 8-bit numbers.

VPMADDUBSW multiplies uint8 activations by int8 weights and adds two adjacent products in int16
with saturation. ONNX Runtime's MLAS uses it for u8 x s8 on AVX2, AVX-512 and, for lack of
anything better, wherever VNNI is missing; there a sum beyond 32767 is cut off, silently. It pairs
inputs 2i and 2i + 1 of a dot product (QgemmU8S8KernelAvx2, QgemvU8S8KernelAvx2 and
ConvSymKernelAvx2 in core/mlas/lib/amd64, whose convolutions go kernel position by kernel
position, channels innermost). CPUs with AVX-VNNI, AVX512-VNNI or AMX add in int32 and are exact;
so is u8 x u8 anywhere, which widens to int16 first (VPMADDWD), and depthwise convolution, which
has a kernel of its own.

Two weights of one sign pass the limit when 255 (|w1| + |w2|) > 32767, that is from
|w1| + |w2| = 129 on. So codes within -64..64, as the `reduced` grid has and all of 4 bits and
less, are safe, and so is the `zero-point` grid, whose codes are stored as uint8.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 2, PMADDUBSW.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from mixq.errors import FormatError
from mixq.formats import Format

X_MAX = 255
"""Largest activation code."""
_INT16 = torch.iinfo(torch.int16)


class SaturationWarning(UserWarning):
    """Integer weights that give wrong sums on CPUs without VNNI."""


def saturating_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """int32 (m, n): what VPMADDUBSW, VPMADDWD and VPADDD make of x times the weights transposed.

    Args:
        x: uint8 of shape (m, k).
        weight: int8 of shape (n, k).
    """
    odd = x.shape[1] % 2
    x = torch.nn.functional.pad(x.to(torch.int32), (0, odd))
    weight = torch.nn.functional.pad(weight.to(torch.int32), (0, odd))
    pairs = x.shape[1] // 2
    total = torch.zeros(x.shape[0], weight.shape[0], dtype=torch.int32)
    # Pair by pair: all of them at once would take m x n x k numbers.
    for pair in range(pairs):
        a, b = x[:, 2 * pair : 2 * pair + 2], weight[:, 2 * pair : 2 * pair + 2]
        products = a[:, None, 0] * b[None, :, 0] + a[:, None, 1] * b[None, :, 1]
        total += products.clamp_(_INT16.min, _INT16.max)
    return total


def kernel_order(codes: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Codes (rows, columns) of a weight of `shape` in the order in which kernels pair them.

    That of the columns for a matrix. A convolution's (out, in / groups, *kernel) becomes
    (out, *kernel x in / groups), as ONNX Runtime's QLinearConv lays it out.
    """
    if len(shape) <= 2:
        return codes
    return codes.reshape(shape).movedim(1, -1).reshape(shape[0], -1)


def saturating_share(codes: Tensor, x_max: int = X_MAX) -> float:
    """Share of the adjacent pairs of weights whose products can pass int16 for some activations.

    Args:
        codes: int8 of shape (rows, columns), columns in the order of `kernel_order`.
        x_max: largest code that activations can take; 127 makes all weights safe.
    """
    wide = codes.to(torch.int32)
    wide = torch.nn.functional.pad(wide, (0, wide.shape[1] % 2))
    # Full activations are the worst: one product alone stays below, 255 x 128 = 32640, and so do
    # two of opposite signs.
    sums = wide.unflatten(1, (-1, 2)).sum(2) * x_max  # (rows, pairs)
    passes = (sums > _INT16.max) | (sums < _INT16.min)
    return float(passes.double().mean()) if passes.numel() else 0.0


def saturates(codes: Tensor, x_max: int = X_MAX) -> bool:
    """Whether any activations 0..x_max make a pair of adjacent products pass int16."""
    return saturating_share(codes, x_max) > 0


def may_saturate(fmt: Format) -> bool:
    """Whether there are weights in `fmt` that saturate, with activations of 8 bits."""
    if fmt.activation == "none" or fmt.bits != 8:
        return False
    return fmt.grid in ("symmetric", "signed")


def check_saturation(
    codes: Tensor, what: str, x_max: int = X_MAX, *, on_fault: Literal["raise", "warn"] = "raise"
) -> None:
    """Refuse, or warn of, weights that a CPU without VNNI multiplies wrongly.

    Args:
        codes: int8 of shape (rows, columns), columns in the order of `kernel_order`.
        what: whose weights they are, for the message.
        x_max: largest code that activations can take.
        on_fault: whether to raise or to warn.

    Raises:
        FormatError: if some activations make a sum saturate and `on_fault` is "raise".
    """
    share = saturating_share(codes, x_max)
    if share == 0:
        return
    message = (
        f"{what}: {share:.2%} of the pairs of 8-bit weights have |w1| + |w2| over "
        f"{_INT16.max // x_max}, so that a CPU without VNNI, which adds two products in int16, "
        "gives wrong results without a word; choose the reduced or zero-point grid"
    )
    if on_fault == "raise":
        raise FormatError(message)
    warnings.warn(message, SaturationWarning, stacklevel=2)
