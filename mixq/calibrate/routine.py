"""Routine: what is fitted to the cases of one key, and which formats its kernel serves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from mixq.export.onnx.kernel import kernels
from mixq.export.onnxruntime import MARGIN
from mixq.export.runtime import INT8_TOLERANCE, UNIT_ERROR
from mixq.formats import GROUP_SIZES, Format

SIGNED: Final = ("symmetric", "signed", "zero-point")
INTEGER: Final = ("symmetric", "reduced")
WIDE: Final = 1 << 14
"""Columns of a matrix that is wider than any group."""
COARSE_PRODUCTS: Final = round((MARGIN * INT8_TOLERANCE / UNIT_ERROR) ** 2)
"""Products whose rounded activations together stay below what the exporter aims at: squares of
their errors add up."""
TILES_M: Final = (1, 4, 8)
TILES_N: Final = (1, 16, 64)


@dataclass(frozen=True)
class Routine:
    """One kernel of a runtime before its numbers are known.

    Attributes:
        name: as the runtime calls it.
        ops, bits, compute, grids, group_sizes, per_channel, activations: as of `Kernel`.
        weights_as, per_image, block: as of `Kernel`.
        unpacks: whether a time per weight is fitted; for elementwise operations, per number.
        tiles_m, tiles_n, unpack_rows: values that are tried; the one that fits best is kept.
        also_16: whether 16-bit weights, which are floats once a file is loaded, run the same.
    """

    name: str
    ops: tuple[str, ...]
    bits: int = 32
    compute: str = "fp32"
    grids: tuple[str, ...] = ()
    group_sizes: tuple[int, ...] = ()
    per_channel: bool = False
    activations: tuple[str, ...] = ("none",)
    weights_as: str = "stored"
    per_image: bool = False
    block: int = 0
    unpacks: bool = False
    tiles_m: tuple[int, ...] = (1,)
    tiles_n: tuple[int, ...] = (1,)
    unpack_rows: tuple[int, ...] = (0,)
    also_16: bool = False


def _groups(bits: int, block: int) -> tuple[int, ...]:
    """Group sizes that MatMulNBits can run in blocks of so many, as the exporter offers them."""
    low, high = GROUP_SIZES
    found = []
    for size in range(low, high + 1):
        offered = [kernel for kernel in kernels(Format(bits, size), WIDE) if kernel.rounds]
        # 256 is timed as 128, from which it differs by a hundredth.
        if block in (min(kernel.block, 128) for kernel in offered):
            found.append(size)
    return tuple(found)


def _packed(bits: int) -> dict[str, Routine]:
    return {
        f"MatMulNBits {bits} block {block}": Routine(
            f"MatMulNBits {bits}-bit, blocks of {block}", ("gemm",), bits, "int8",
            grids=(*SIGNED, "reduced") if bits == 8 else SIGNED,
            group_sizes=_groups(bits, block), per_channel=bits != 2 or block != 16,
            activations=("none", "dynamic") if bits == 8 else ("none",),
            block=block, unpacks=True, tiles_m=TILES_M, unpack_rows=(0, 1, 4),
        )
        for block in (16, 32, 64, 128)
    }  # fmt: skip


def _dense(name: str, ops: tuple[str, ...]) -> Routine:
    per_image = name != "MatMul" and name != "LSTM"
    return Routine(name, ops, per_image=per_image, tiles_m=TILES_M, tiles_n=TILES_N, also_16=True)


def _made(name: str, ops: tuple[str, ...]) -> Routine:
    return Routine(
        f"{name} of dequantized weights", ops, weights_as="dequantized",
        per_image=name != "MatMul", unpacks=True,
        tiles_m=TILES_M, tiles_n=TILES_N, unpack_rows=(0, 64, 256),
    )  # fmt: skip


ONNX: Final = {
    "MatMul": _dense("MatMul", ("gemm",)),
    "MatMul dequantized": _made("MatMul", ("gemm", "recurrent")),
    **_packed(8), **_packed(4), **_packed(2),
    "integer dynamic": Routine(
        "DynamicQuantizeMatMul", ("gemm",), 8, "int8", INTEGER, per_channel=True,
        activations=("dynamic",), unpacks=True, tiles_m=TILES_M,
    ),
    "integer static": Routine(
        "QuantizeLinear + MatMulIntegerToFloat", ("gemm",), 8, "int8", INTEGER, per_channel=True,
        activations=("static",), unpacks=True, tiles_m=TILES_M,
    ),
    "conv": _dense("Conv in blocks of channels", ("conv",)),
    "conv dequantized": _made("Conv", ("conv",)),
    "column": _dense("Conv of one column", ("column",)),
    "column dequantized": _made("Conv of one column", ("column",)),
    "pointwise": _dense("Conv 1x1 in blocks of channels", ("pointwise",)),
    "pointwise dequantized": _made("Conv 1x1", ("pointwise",)),
    "depthwise": _dense("depthwise Conv in blocks of channels", ("depthwise",)),
    "depthwise dequantized": _made("depthwise Conv", ("depthwise",)),
    "strided depthwise dequantized": _made(
        "depthwise Conv of every other pixel", ("strided_depthwise",)
    ),
    "LSTM": _dense("LSTM", ("recurrent",)),
    "attention": Routine(
        "MatMul of activations", ("attention",), tiles_m=TILES_M, tiles_n=TILES_N
    ),
    "gather 32": Routine("Gather", ("gather",), also_16=True),
    **{
        f"gather {bits}": Routine(
            f"GatherBlockQuantized {bits}-bit", ("gather",), bits,
            grids=(*SIGNED, "reduced") if bits == 8 else SIGNED,
            group_sizes=tuple(range(GROUP_SIZES[0], GROUP_SIZES[1] + 1, 16)), per_channel=True,
            unpacks=True,
        )
        for bits in (8, 4, 2)
    },
    **{
        f"dequantize {bits}": Routine(
            f"DequantizeLinear {bits}-bit", ("dequantize",), bits, grids=(*SIGNED, "affine"),
            group_sizes=tuple(range(GROUP_SIZES[0], GROUP_SIZES[1] + 1)), per_channel=True,
            unpacks=True,
        )
        for bits in (8, 4, 2)
    },
    "elementwise": Routine("elementwise", ("elementwise",), unpacks=True),
    "transcendental": Routine("Sigmoid, Tanh", ("transcendental",), unpacks=True),
    "gelu": Routine("Gelu", ("gelu",), unpacks=True),
    "biased gelu": Routine("BiasGelu", ("biased_gelu",), unpacks=True),
    "softmax": Routine("Softmax", ("softmax",), unpacks=True),
    "normalization": Routine("LayerNormalization", ("normalization",), unpacks=True),
    "transpose": Routine("Transpose", ("transpose",), unpacks=True),
}  # fmt: skip
"""Routines of ONNX Runtime by the key of their cases."""

FLOAT_ACTIVATIONS: Final = {
    f"MatMulNBits {bits} floats": Routine(
        f"MatMulNBits {bits}-bit, float activations", ("gemm",), bits, "fp32",
        grids=SIGNED, group_sizes=tuple(range(GROUP_SIZES[0], GROUP_SIZES[1] + 1, 16)),
        per_channel=True, unpacks=True, tiles_m=TILES_M,
    )
    for bits in (8, 4, 2)
}  # fmt: skip
"""What a unit gets whose activations must not be rounded; no format asks for it by itself."""

_ANY: Final = tuple(range(GROUP_SIZES[0], GROUP_SIZES[1] + 1))
TORCH: Final = {
    "Linear": Routine("linear", ("gemm",), also_16=True),
    "conv": Routine("conv2d", ("conv",), tiles_n=TILES_N, also_16=True),
    "attention": Routine("bmm", ("attention",)),
    "gather": Routine("index", ("gather",), also_16=True),
    "LSTM": Routine("lstm", ("recurrent",), also_16=True),
    "elementwise": Routine("elementwise", ("elementwise",)),
    **{
        f"dequantize {bits}": Routine(
            f"unpack {bits}-bit", ("dequantize",), bits, grids=(*SIGNED, "affine"),
            group_sizes=_ANY, per_channel=True, unpacks=True,
        )
        for bits in (8, 4, 2)
    },
}  # fmt: skip
"""Routines of torch on any device: weights are dequantized at every use."""
TORCH_CUDA: Final = {
    **{key: replace(routine, also_16=False) for key, routine in TORCH.items()},
    "Linear fp16": Routine("linear fp16", ("gemm",), 16, "fp16"),
    "Linear bf16": Routine("linear bf16", ("gemm",), 16, "bf16"),
    "tinygemm 4": Routine(
        "tinygemm int4", ("gemm",), 4, "bf16", (*SIGNED, "affine"), (32, 64, 128, 256),
        unpacks=True, unpack_rows=(0, 16, 64),
    ),
    "tinygemm 8": Routine(
        "tinygemm int8", ("gemm",), 8, "bf16", ("symmetric", "signed"), per_channel=True,
        unpacks=True, unpack_rows=(0, 16, 64),
    ),
}  # fmt: skip
"""And on a GPU, where products take 16-bit floats and read packed weights."""
