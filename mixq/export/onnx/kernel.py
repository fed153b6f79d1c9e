"""Kernel: how finely MatMulNBits rounds the activations that meet a unit, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mixq.export.onnx.matmul import BLOCKS, INT8_ACTIVATIONS, block_size
from mixq.formats import Format

FLOAT_ACTIVATIONS: Final = 0
_SLOW_AT_2_BITS: Final = (16, 256)
"""Blocks that have no integer kernel at 2 bits and are dequantized (onnxruntime 1.31)."""


@dataclass(frozen=True)
class Kernel:
    """A way to run one product.

    Attributes:
        block: columns that share one range of the activations; divides the unit's groups.
        accuracy_level: 4 rounds activations to 8 bits, 0 keeps floats.
        cost: time of a product of one row over that of fp32, measured by `benchmarks/kernels.py`
            with onnxruntime 1.31 on 384 x 1536; it only orders the choices.
    """

    block: int
    accuracy_level: int
    cost: float

    @property
    def rounds(self) -> bool:
        """Whether activations are rounded."""
        return self.accuracy_level == INT8_ACTIVATIONS


def kernels(fmt: Format, columns: int) -> tuple[Kernel, ...]:
    """The kernels of a unit from the fastest to the most accurate; none if it has no product.

    Smaller blocks round activations more finely and hold more scales in memory. Floats have a
    kernel of their own at 4 bits; at 8 and 2 ONNX Runtime dequantizes on every call.
    """
    natural = block_size(fmt, columns)
    if natural is None:
        return ()
    blocks = [block for block in reversed(BLOCKS) if block <= natural and natural % block == 0]
    if fmt.bits == 2:
        blocks = [block for block in blocks if block not in _SLOW_AT_2_BITS] or blocks[:1]
    rounding = [Kernel(block, INT8_ACTIVATIONS, 0.3 * (1 + 16 / block) ** 0.7) for block in blocks]
    floats = Kernel(natural, FLOAT_ACTIVATIONS, 0.8 if fmt.bits == 4 else 12.0)
    return (*rounding, floats)


def usual_kernel(fmt: Format, columns: int) -> Kernel | None:
    """The kernel of a unit for which nobody chose one; None if it has no product.

    The fastest, unless the format rounds activations in another way, which the kernel would do
    a second time.
    """
    ladder = kernels(fmt, columns)
    if not ladder:
        return None
    by_blocks = fmt.activation == "dynamic" and fmt.group_size is not None
    return ladder[0] if fmt.activation == "none" or by_blocks else ladder[-1]
