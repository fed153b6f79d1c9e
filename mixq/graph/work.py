"""Work: what one operation of the network computes and moves, without torch.

The cost models read these numbers; nothing here knows about tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

OpKind = Literal["gemm", "conv", "gather", "recurrent", "attention", "elementwise"]


@dataclass(frozen=True, slots=True)
class Work:
    """One operation as a kernel sees it.

    A `gemm` multiplies (m, k) activations by (k, n) weights. A `conv` is the same after
    im2col, per group: m = batch x output pixels, n = output channels / groups,
    k = input channels / groups x kernel area; `groups` of them (depthwise: groups = channels).
    A `recurrent` is a gemm of m = batch rows repeated `repeats` times, once per time step, with
    the same weights. A `gather` reads m rows of n numbers. `attention` is a batched product of
    activations with activations (no weights): `groups` products. Everything else is
    `elementwise`: only its bytes count.

    Attributes:
        window: rows and columns of a convolution's window; (1, 1) for everything else.
        stride: steps of a convolution's window.
        input_bytes: activation bytes read, weights not included.
        output_bytes: activation bytes written.
    """

    kind: OpKind
    m: int = 1
    n: int = 1
    k: int = 1
    groups: int = 1
    repeats: int = 1
    input_bytes: int = 0
    output_bytes: int = 0
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations; a gather and an elementwise operation have none."""
        if self.kind in ("gather", "elementwise"):
            return 0
        return self.m * self.n * self.k * self.groups * self.repeats

    @property
    def algorithm(self) -> str:
        """`depthwise` for a convolution of one channel with one window, else `kind`."""
        one_channel = self.groups > 1 and self.n == 1 and self.k == math.prod(self.window)
        return "depthwise" if self.kind == "conv" and one_channel else self.kind
