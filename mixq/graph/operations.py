"""The work of the operations that torch dispatches, by their names and shapes.

The keys are names of ATen operators; an operator that is not here counts as elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from mixq.graph.work import Work

Units = tuple[str, ...]
Part = tuple[Work, Units]
"""One kernel's work and the units that it reads."""
Constants = Mapping[int, Units]
"""`id(tensor)` of every argument that depends on no input, to the units it is made of."""

FACTORS = {
    "mm": (0, 1),
    "addmm": (1, 2),
    "mv": (0, 1),
    "addmv": (1, 2),
    "dot": (0, 1),
    "bmm": (0, 1),
    "baddbmm": (1, 2),
    "addbmm": (1, 2),
}
"""Positions of the two factors of a matrix product among the arguments."""
SHAPED_LIKE = frozenset(
    (
        *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
        *("new_zeros", "new_ones", "new_empty", "new_full"),
    )
)
"""Operators that read the shape of a tensor and none of its numbers."""


def describe(func: Any, args: tuple[Any, ...], output: Any, constants: Constants) -> list[Part]:
    """The kernels of one call that are more than elementwise, with the units that they read.

    Args:
        func: the ATen operator.
        args: positional arguments of the call.
        output: what it returned.
        constants: its arguments that depend on no input.
    """
    name = operator_name(func)
    if name in FACTORS:
        left, right = (args[i] for i in FACTORS[name])
        return [_product(left, right, constants)]
    describer = _DESCRIBERS.get(name)
    return [] if describer is None else describer(args, output, constants)


def operator_name(func: Any) -> str:
    """`addmm` of `aten::addmm.default`; operators of other libraries keep their prefix."""
    return str(func._schema.name).removeprefix("aten::")


def _product(left: Tensor, right: Tensor, constants: Constants) -> Part:
    """([batch,] m, k) x ([batch,] k, n), turned so that n belongs to the weights."""
    batch = left.shape[0] if left.dim() == 3 else 1
    k = left.shape[-1]
    m = left.numel() // max(batch * k, 1)
    n = right.shape[-1] if right.dim() > 1 else 1
    weight, activation = right, left
    if id(left) in constants and not constants.get(id(right)):
        weight, activation, m, n = left, right, n, m
    if id(weight) not in constants:
        return Work("attention", m=m, n=n, k=k, groups=batch), ()
    if batch > 1 and weight.stride(0) == 0:  # one matrix, expanded over the batch
        m, batch = m * batch, 1
    units = (*constants[id(weight)], *constants.get(id(activation), ()))
    return Work("gemm", m=m, n=n, k=k, groups=batch), tuple(dict.fromkeys(units))


def _grouped_mm(args: tuple[Any, ...], output: Any, constants: Constants) -> list[Part]:
    """(tokens, k) x (experts, k, n): every token meets one expert's matrix."""
    left, right = args[0], args[1]
    if left.dim() != 2 or right.dim() != 3:
        return []
    experts, k, n = right.shape
    tokens = left.shape[0]
    groups = experts if tokens % experts == 0 else 1  # the mean load, where it is a whole number
    work = Work("gemm", m=tokens // groups, n=n, k=k, groups=groups)
    return [(work, constants.get(id(right), ()))]


def _convolution(args: tuple[Any, ...], output: Any, constants: Constants) -> list[Part]:
    weight, transposed, groups = args[1], bool(args[6]), int(args[8])
    # A transposed convolution does the same products as the convolution it is the gradient of.
    source = args[0] if transposed else output
    work = Work(
        "conv",
        m=source.numel() // max(source.shape[1], 1),
        n=weight.shape[0] // groups,
        k=math.prod(weight.shape[1:]),
        groups=groups,
        window=_two(weight.shape[2:]),
        stride=(1, 1) if transposed else _two(args[3]),
    )
    return [(work, constants.get(id(weight), ()))]


def _two(sizes: Sequence[int]) -> tuple[int, int]:
    """Sizes of a window in one, two or three dimensions, the leading ones multiplied."""
    padded = (1, 1, *(int(size) for size in sizes))
    return math.prod(padded[:-1]), padded[-1]


def _lookup(args: tuple[Any, ...], output: Any, constants: Constants) -> list[Part]:
    """`embedding`, `_embedding_bag`: rows of the first argument by the second."""
    return _gather(args[0], args[1].numel(), constants)


def _index_select(args: tuple[Any, ...], output: Any, constants: Constants) -> list[Part]:
    return _gather(args[0], args[2].numel(), constants) if args[1] == 0 else []


def _index(args: tuple[Any, ...], output: Any, constants: Constants) -> list[Part]:
    table, indices = args[0], args[1]
    if table.dim() < 2 or len(indices) != 1 or indices[0] is None:
        return []
    return _gather(table, output.numel() // max(math.prod(table.shape[1:]), 1), constants)


def _gather(table: Tensor, rows: int, constants: Constants) -> list[Part]:
    units = constants.get(id(table), ())
    # Looking up activations moves numbers like any elementwise operation.
    return [(Work("gather", m=rows, n=math.prod(table.shape[1:])), units)] if units else []


def _attention(args: tuple[Any, ...], output: Any, constants: Constants) -> list[Part]:
    """Scores = query x key^T, then scores x value; every head by itself."""
    query, key, value = args[0], args[1], args[2]
    scores = Work(
        "attention",
        m=query.shape[-2],
        n=key.shape[-2],
        k=query.shape[-1],
        groups=math.prod(query.shape[:-2]),
        repeats=2,
    )
    if value.shape[-1] == query.shape[-1]:
        return [(scores, ())]
    sums = replace(scores, n=value.shape[-1], k=key.shape[-2], repeats=1)
    return [(replace(scores, repeats=1), ()), (sums, ())]


def _recurrent(args: tuple[Any, ...], output: Any, constants: Constants) -> list[Part]:
    """One layer and direction of an LSTM; input of shape (steps, batch, features)."""
    steps, batch = args[0].shape[:2]
    return [
        (
            Work("recurrent", m=batch, n=weight.shape[0], k=weight.shape[1], repeats=steps),
            constants.get(id(weight), ()),
        )
        for weight in (args[1], args[2])
    ]


def _bilinear(args: tuple[Any, ...], output: Any, constants: Constants) -> list[Part]:
    """nn.Bilinear: weight of shape (out, in1, in2) as the second of three factors."""
    weight = args[1]
    if id(weight) not in constants or weight.dim() != 3:
        return []
    outputs = weight.shape[0]
    work = Work("gemm", m=output.numel() // outputs, n=outputs, k=weight.numel() // outputs)
    return [(work, constants[id(weight)])]


_DESCRIBERS: dict[str, Callable[[tuple[Any, ...], Any, Constants], list[Part]]] = {
    "_grouped_mm": _grouped_mm,
    "convolution": _convolution,
    "embedding": _lookup,
    "_embedding_bag": _lookup,
    "_embedding_bag_forward_only": _lookup,
    "index_select": _index_select,
    "index": _index,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "mkldnn_rnn_layer": _recurrent,
    "_trilinear": _bilinear,
}


def shared_out(work: Work, sizes: list[int]) -> list[Work] | None:
    """`work` divided among weights of `sizes` that were joined into its matrix, if it can be.

    Stacked matrices divide the groups, concatenated ones the columns n.
    """
    total = sum(sizes)
    for whole in (work.groups, work.n):
        if total and all(whole * size % total == 0 for size in sizes):
            shares = [whole * size // total for size in sizes]
            if whole == work.groups:
                return [replace(work, groups=share) for share in shares]
            return [replace(work, n=share) for share in shares]
    return None
