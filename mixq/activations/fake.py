"""Fake quantization: activations rounded to 8 bits and back, number for number as runtimes do it.

Three ways exist in ONNX Runtime, and one in others:

- `static`: QuantizeLinear to uint8 with a scale and zero point known beforehand.
- `dynamic`, per tensor: DynamicQuantizeLinear, the same with the range of this very tensor. The
  fused kernel DynamicQuantizeMatMul computes the same numbers. One range for the whole batch: an
  error measured on a batch of 32 is that of a deployment that runs batches of 32.
- `dynamic`, per block: what MatMulNBits with accuracy_level 4 does to each block of a row, int8
  and symmetric.
- `dynamic`, per token: one range for each row over the last dimension, as ExecuTorch's XNNPACK
  delegate ("8da4w") and torchao have it; ONNX Runtime has no such kernel.

Source: ONNX operators QuantizeLinear and DynamicQuantizeLinear; ONNX Runtime,
core/util/qmath.h, core/mlas/lib/quantize.cpp and QuantizeARow_CompInt8 in
core/mlas/lib/sqnbitgemm_kernel_avx*; all compared in tests/activations/test_onnxruntime.py.

What is computed here ends at the layer's input. ONNX Runtime multiplies the integers exactly
where torch adds up float32 products, and differs by float32 rounding alone (MatMulIntegerToFloat,
DynamicQuantizeMatMul), with two exceptions that are not simulated here: int16 saturation on CPUs
without VNNI (`mixq.activations.saturation`), and QLinearConv and QLinearMatMul, which round
their *output* to 8 bits, and the bias to a multiple of input scale times weight scale. A Conv
whose output is not quantized is not fused at all: it runs in float32 on these very inputs.

NaN and infinity are passed on, so that a measurement sees them; ONNX Runtime would turn NaN into
code 0 and infinity into the end of a static range.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Granularity = Literal["tensor", "token"]

LEVELS = 255
"""Steps of uint8 codes from 0 to 255."""
BLOCK_LEVELS = 127
"""Largest code of a block; the smallest is -127."""


def input_steps(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point, float32 of the same shape, of ranges low..high stretched to zero.

    A range without width, or with one so small that float32 has no scale for it, gets scale 1
    and zero point 0: its codes are all zero, and so are the values that they stand for.
    """
    low = low.to(torch.float32).clamp(max=0)
    high = high.to(torch.float32).clamp(min=0)
    scale = (high - low) / LEVELS
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return scale, (-low / scale).round().clamp(0, LEVELS)


def input_codes(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The uint8 codes of `x` as float32 whole numbers, NaN where `x` is; half goes to even.

    Args:
        x: activations of any floating-point dtype.
        scale: float32 that broadcasts with `x`.
        zero: zero points 0..255 of the same shape.
    """
    codes = torch.div(x.to(torch.float32), scale).round_()
    return codes.add_(zero.to(torch.float32)).clamp_(0, LEVELS)


def fake_static(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """`x` on the uint8 grid of a fixed range, in the dtype of `x`.

    Inside the range the result is at most half a scale off, outside it is the nearer end; zero
    stays zero. In half precisions the result is rounded once more, to that dtype.
    """
    values = input_codes(x, scale, zero).sub_(zero.to(torch.float32)).mul_(scale)
    return torch.where(x.isinf(), x, values.to(x.dtype))


def fake_dynamic(x: Tensor, per: Granularity = "tensor") -> Tensor:
    """`x` on the uint8 grid of its own range, in the dtype of `x`.

    Args:
        x: activations; the last dimension of a "token" is what a Linear multiplies.
        per: one range for all of `x`, or one for each row over the last dimension.
    """
    if x.numel() == 0:
        return x.clone()
    wide = x.detach().to(torch.float32)
    if per == "tensor":
        low, high = wide.amin(), wide.amax()
    else:
        low, high = wide.amin(-1, keepdim=True), wide.amax(-1, keepdim=True)
    return fake_static(x, *input_steps(low, high))


def fake_blocks(x: Tensor, size: int) -> Tensor:
    """`x` on the symmetric int8 grid of each block of `size` numbers of a row, in its dtype.

    The last block of a row may be shorter. The codes come from a product with the reciprocal
    127 / max, as in MLAS, and not from a division by the scale.
    """
    if x.numel() == 0:
        return x.clone()
    columns = x.shape[-1]
    padded = functional.pad(x.to(torch.float32), (0, -columns % size))
    blocks = padded.reshape(*x.shape[:-1], -1, size)  # (..., blocks, size)
    largest = blocks.abs().amax(-1, keepdim=True)
    inverse = BLOCK_LEVELS / largest
    # Zeros have no reciprocal, nor has what is so small that float32 cannot hold it.
    inverse = torch.where(inverse.isinf(), torch.zeros_like(inverse), inverse)
    values = (blocks * inverse).round_().mul_(largest / BLOCK_LEVELS)
    return values.flatten(-2)[..., :columns].to(x.dtype)
