"""The work of the operations that torch dispatches, by their names and shapes.

The keys are names of ATen operators; an operator that is not here counts as elementwise, unless
it reads a weight matrix, in which case it is priced as the matrix product that it must contain.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from mixq.graph.work import Work

Part = tuple[Work, tuple[str, ...]]
"""One kernel's work and the units that it reads."""

# Positions of the two factors of a plain matrix product.
_FACTORS = {"mm": (0, 1), "addmm": (1, 2), "mv": (0, 1), "addmv": (1, 2), "linear": (0, 1)}
_BATCHED_FACTORS = {"bmm": (0, 1), "baddbmm": (1, 2)}
_CONVOLUTIONS = ("convolution", "_convolution", "conv1d", "conv2d", "conv3d")
_GATHERS = ("embedding", "_embedding_bag", "index_select")
_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "scaled_dot_product_attention",
)


def describe(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
    units: tuple[str, ...],
    weights: dict[int, tuple[str, ...]],
) -> list[Part] | None:
    """The kernels of one call, or None if it only moves or maps numbers.

    Args:
        func: the ATen operator.
        args, kwargs, output: of the call.
        units: names of all the units that the call reads.
        weights: `id(tensor)` of each argument that is made of weights, to its units.
    """
    name = func._schema.name.removeprefix("aten::")
    if name in _FACTORS:
        left, right = (args[i] for i in _FACTORS[name])
        return [(_product(left, right, weights, transposed=name == "linear"), units)]
    if name in _BATCHED_FACTORS:
        left, right = (args[i] for i in _BATCHED_FACTORS[name])
        batch, m, k = left.shape
        n = right.shape[2]
        if id(left) in weights and id(right) not in weights:
            m, n = n, m
        kind = "gemm" if units else "attention"
        return [(Work(kind, m=m, n=n, k=k, groups=batch), units)]
    if name in _CONVOLUTIONS:
        return [(_convolution(args, output), units)]
    if name in _GATHERS and units:
        rows = output if isinstance(output, Tensor) else output[0]
        columns = rows.shape[-1] if rows.dim() else 1
        return [(Work("gather", m=rows.numel() // max(columns, 1), n=columns), units)]
    if name in _ATTENTION:
        query, key = args[0], args[1]
        heads = math.prod(query.shape[:-2])
        # Two products of the same size: scores, then the weighted sum of the values.
        work = Work(
            "attention", m=query.shape[-2], n=key.shape[-2], k=query.shape[-1], groups=heads,
            repeats=2,
        )  # fmt: skip
        return [(work, units)]
    if name == "mkldnn_rnn_layer":
        steps, batch = args[0].shape[0], args[0].shape[1]
        return [
            (Work("recurrent", m=batch, n=w.shape[0], k=w.shape[1], repeats=steps), readers)
            for w in (args[1], args[2])
            for readers in (weights.get(id(w), ()),)
        ]
    matrices = [
        arg for arg in args if isinstance(arg, Tensor) and id(arg) in weights and arg.dim() >= 3
    ]
    if name == "_trilinear" and matrices:
        weight = matrices[0]
        rows = output.numel() // weight.shape[0]
        work = Work("gemm", m=rows, n=weight.shape[0], k=weight.numel() // weight.shape[0])
        return [(work, units)]
    return None


def _product(
    left: Tensor, right: Tensor, weights: dict[int, tuple[str, ...]], *, transposed: bool
) -> Work:
    """(m, k) x (k, n), turned so that n belongs to the weights: m counts activation rows."""
    k = left.shape[-1]
    m = left.numel() // max(k, 1)
    if right.dim() == 1:
        n = 1
    else:
        n = right.shape[0] if transposed else right.shape[1]
    if id(left) in weights and id(right) not in weights:
        m, n = n, m
    return Work("gemm", m=m, n=n, k=k)


def _convolution(args: tuple[Any, ...], output: Tensor) -> Work:
    weight = args[1]
    transposed, groups = (bool(args[6]), int(args[8])) if len(args) > 8 else (False, 1)
    source = args[0] if transposed else output
    kernel = math.prod(weight.shape[2:])
    # A transposed convolution does the same products as the convolution it is the gradient of.
    channels_of_source = source.shape[1]
    pixels = source.numel() // max(channels_of_source, 1)
    return Work(
        "conv", m=pixels, n=weight.shape[0] // groups, k=weight.shape[1] * kernel, groups=groups
    )
