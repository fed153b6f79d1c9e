"""Cases of torch: products of floats, weights dequantized at every use, tinygemm on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixq.calibrate.case import EMPTY, Case, weights_load
from mixq.export.tinygemm import INNER_TILES
from mixq.formats import Format
from mixq.graph.work import Work
from mixq.quantize.weights import pack_weight

FLOATS: Final = Format(32)
FORMATS: Final = {bits: Format(bits, 64, "zero-point") for bits in (8, 4, 2)}
GROUP: Final = 64


@dataclass(frozen=True)
class Sizes:
    """What is timed.

    Attributes:
        matrices: rows and columns of weights.
        rows: of activations.
        numbers: of elementwise operations.
    """

    matrices: Sequence[tuple[int, int]]
    rows: Sequence[int]
    numbers: Sequence[int]


ON_CPU: Final = Sizes(((512, 768), (1536, 512)), (1, 16, 128, 640), (4096, 65536, 1 << 20))
ON_CUDA: Final = Sizes(
    ((1024, 1024), (4096, 4096), (4096, 14336)), (1, 16, 128, 1024, 4096),
    (1 << 16, 1 << 22, 1 << 26),
)  # fmt: skip


def torch_cases(device: str, sizes: Sizes) -> Iterator[Case]:
    """Every case of torch on a device."""
    x = torch.ones(1, device=device)
    yield _case(EMPTY, "", Work("elementwise"), lambda: torch.neg(x))
    yield from _products(device, sizes)
    yield from _others(device, sizes)
    for rows, columns in sizes.matrices:
        weight = torch.randn(rows, columns)
        for bits, fmt in FORMATS.items():
            packed = pack_weight(weight, fmt, rows, columns)
            there = {name: tensor.to(device) for name, tensor in packed.tensors.items()}
            moved = replace(packed, tensors=there)
            work = Work("elementwise", output_bytes=4 * rows * columns)
            yield _case(f"dequantize {bits}", f"{rows} x {columns}", work, moved.unpacked, fmt,
                        (rows, columns))  # fmt: skip


def _products(device: str, sizes: Sizes) -> Iterator[Case]:
    for rows, columns in sizes.matrices:
        weight = torch.randn(rows, columns, device=device)
        for m in sizes.rows:
            x = torch.randn(m, columns, device=device)
            yield from _floats("Linear", x, weight, 4)
            if torch.device(device).type == "cuda":
                yield from _floats("Linear fp16", x.half(), weight.half(), 2)
                yield from _floats("Linear bf16", x.bfloat16(), weight.bfloat16(), 2)
                yield from _tinygemm(x.bfloat16(), weight)


def _floats(routine: str, x: Tensor, weight: Tensor, size: int) -> Iterator[Case]:
    (rows, columns), m = weight.shape, x.shape[0]
    work = Work("gemm", m, rows, columns, input_bytes=size * m * columns,
                output_bytes=size * m * rows)  # fmt: skip
    fmt = FLOATS if size == 4 else Format(16)

    def run() -> object:
        return functional.linear(x, weight)

    yield _case(routine, f"{m} x {rows} x {columns}", work, run, fmt, (rows, columns))


def _tinygemm(x: Tensor, weight: Tensor) -> Iterator[Case]:
    """Aten's 4-bit and 8-bit products of bfloat16, as `mixq.export.tinygemm` calls them."""
    (rows, columns), m = weight.shape, x.shape[0]
    work = Work("gemm", m, rows, columns, input_bytes=2 * m * columns, output_bytes=2 * m * rows)
    bytes_ = torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8, device=x.device)
    codes = torch.ops.aten._convert_weight_to_int4pack(bytes_, INNER_TILES)
    steps = torch.ones(columns // GROUP, rows, 2, dtype=torch.bfloat16, device=x.device)
    multiply: Any = torch.ops.aten._weight_int4pack_mm
    name = f"{m} x {rows} x {columns}"
    yield _case("tinygemm 4", name, work, lambda: multiply(x, codes, GROUP, steps), FORMATS[4],
                (rows, columns))  # fmt: skip
    small = torch.zeros(rows, columns, dtype=torch.int8, device=x.device)
    scales = torch.ones(rows, dtype=torch.bfloat16, device=x.device)
    product: Any = torch.ops.aten._weight_int8pack_mm
    yield _case("tinygemm 8", name, work, lambda: product(x, small, scales), Format(8),
                (rows, columns))  # fmt: skip


def _others(device: str, sizes: Sizes) -> Iterator[Case]:
    for numbers in sizes.numbers:
        left, right = (torch.randn(numbers, device=device) for _ in range(2))
        work = Work("elementwise", input_bytes=8 * numbers, output_bytes=4 * numbers)
        yield _case("elementwise", f"{numbers} sums", work, partial(torch.add, left, right))
    for groups, m, k in ((12, 64, 64), (48, 128, 64), (96, 256, 64)):
        left = torch.randn(groups, m, k, device=device)
        right = torch.randn(groups, k, m, device=device)
        work = Work("attention", m, m, k, groups, input_bytes=8 * groups * m * k,
                    output_bytes=4 * groups * m * m)  # fmt: skip
        yield _case("attention", f"{groups} x {m}", work, partial(torch.bmm, left, right))
    table = torch.randn(20_000, 512, device=device)
    for m in (8, 256, 2048):
        index = torch.randint(0, 20_000, (m,), device=device)
        work = Work("gather", m, 512, input_bytes=8 * m, output_bytes=4 * m * 512)
        yield _case(
            "gather",
            f"{m} rows",
            work,
            partial(torch.index_select, table, 0, index),
            FLOATS,
            (m, 512),
        )
    for channels, side, batch in ((48, 40, 1), (128, 28, 4), (256, 14, 8)):
        x = torch.randn(batch, channels, side, side, device=device)
        weight = torch.randn(channels, channels, 3, 3, device=device)
        moved = 4 * x.numel()
        work = Work("conv", batch * side * side, channels, 9 * channels, input_bytes=moved,
                    output_bytes=moved, window=(3, 3))  # fmt: skip
        yield _case("conv", f"{channels} channels, {side}", work,
                    partial(functional.conv2d, x, weight, padding=1), FLOATS,
                    (channels, 9 * channels))  # fmt: skip
    for hidden, batch in ((128, 1), (128, 8), (512, 8)):
        layer = nn.LSTM(hidden, hidden).to(device)
        x = torch.randn(20, batch, hidden, device=device)
        moved = 40 * batch * hidden
        work = Work("recurrent", batch, 4 * hidden, hidden, 1, 20, moved, moved)
        yield _case("LSTM", f"{hidden} by {batch}", work, partial(layer, x),
                    FLOATS, (4 * hidden, hidden), 2)  # fmt: skip


def _case(
    routine: str,
    name: str,
    work: Work,
    run: Callable[[], object],
    fmt: Format = FLOATS,
    matrix: tuple[int, int] = (0, 0),
    calls: int = 1,
) -> Case:
    def quiet() -> object:
        with torch.no_grad():
            return run()

    return Case(routine, name, work, weights_load(work, fmt, matrix), quiet, calls)
