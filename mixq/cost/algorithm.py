"""Algorithm: which kind of kernel an operation asks for, from the most special to the plain one.

Runtimes have routines of their own for some convolutions and for some elementwise operations. A
runtime that names none runs them with the routine of their kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mixq.graph.work import Work

NORMALIZATIONS: Final = frozenset({"native_layer_norm", "native_group_norm", "_fused_rms_norm"})
CHANNEL_NORMALIZATIONS: Final = frozenset(
    {"_native_batch_norm_legit_no_training", "native_batch_norm", "_native_batch_norm_legit"}
)
"""A factor and an addend for each channel, once training is over."""
SPECIAL: Final[Mapping[str, str]] = {
    **dict.fromkeys(NORMALIZATIONS, "normalization"),
    "gelu": "gelu",
    **dict.fromkeys(("_softmax", "_log_softmax"), "softmax"),
    **dict.fromkeys(("clone", "permute", "contiguous"), "transpose"),
    **dict.fromkeys(
        (
            *("sigmoid", "tanh", "silu", "erf", "exp", "log", "elu", "mish", "softplus"),
            *("hardswish", "sin", "cos", "pow", "rsqrt", "sqrt"),
        ),
        "transcendental",
    ),
}
"""Of ATen operators that only move numbers: what their arithmetic is like."""


def operator(op: str) -> str:
    """`gelu` of `aten.gelu.default`, as a graph's nodes name what torch ran."""
    return op.removeprefix("aten.").partition(".")[0].rstrip("_")


def algorithms(work: Work, op: str = "") -> tuple[str, ...]:
    """Names of kernels' ops that serve `work`, the best first.

    Args:
        work: the operation.
        op: what torch calls it, as in the nodes of a `ModelGraph`, or one of `SPECIAL`'s values.
    """
    if work.kind == "conv":
        rows, columns = work.window
        if work.algorithm == "depthwise":
            plain = ("depthwise", "conv")
            return plain if work.stride == (1, 1) else ("strided_depthwise", *plain)
        if rows == columns == 1 and work.groups == 1:
            return "pointwise", "conv"
        return ("column", "conv") if rows > 1 == columns else ("conv",)
    if work.kind == "elementwise":
        special = SPECIAL.get(operator(op), op)
        return (special, "elementwise") if special else ("elementwise",)
    return (work.kind,)
