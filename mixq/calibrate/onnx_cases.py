"""Cases of ONNX Runtime: its kernels at sizes from one row to a thousand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

from mixq.calibrate import graphs
from mixq.calibrate.case import EMPTY, Case, weights_load
from mixq.export.onnx.session import OnnxSession
from mixq.formats import Format
from mixq.graph.work import Work

MATRICES: Final = ((256, 256), (768, 512), (512, 2048), (3072, 640))
"""Rows and columns of weights."""
ROWS: Final = (1, 4, 24, 100, 640)
FEW_ROWS: Final = (1, 24, 300)
BLOCKS: Final = {8: (16, 32, 64, 128), 4: (16, 32, 64, 128), 2: (16, 32, 64, 128)}
CONVOLUTIONS: Final = (
    *((48, 40, 3, 1), (64, 28, 3, 1), (160, 14, 3, 1), (160, 14, 3, 4), (256, 7, 3, 2)),
)
"""Channels, side, window, batch."""
POINTWISE: Final = (
    (24, 80, 1),
    (56, 56, 1),
    (128, 28, 1),
    (128, 28, 6),
    (384, 14, 2),
    (704, 7, 1),
)
"""Channels, side, batch."""
DEPTHWISE: Final = (
    (48, 80, 3, 1),
    (128, 28, 3, 1),
    (128, 28, 5, 6),
    (384, 14, 5, 2),
    (704, 7, 3, 1),
)
"""Channels, side, window, batch."""
LONG: Final = ((32, 128, 64, 1), (32, 128, 64, 6), (64, 20, 48, 4), (16, 256, 96, 1))
"""Channels, length, window, batch: convolutions of one axis."""
ELEMENTWISE: Final = {
    "elementwise": ("Add",),
    "transcendental": ("Sigmoid", "Tanh"),
    "gelu": ("Gelu",),
    "biased gelu": ("BiasGelu",),
    "softmax": ("Softmax",),
    "normalization": ("LayerNormalization",),
    "transpose": ("Transpose",),
}
FLOATS: Final = Format(32)
FORMATS: Final = {bits: Format(bits, 64, "zero-point") for bits in (8, 4, 2)}


def onnx_cases(threads: int) -> Iterator[Case]:
    """Every case of ONNX Runtime, loaded.

    Raises:
        MissingExtraError: without onnx or onnxruntime.
        ExportError: if ONNX Runtime does not load one.
    """
    yield _case(EMPTY, "", Work("elementwise"), threads, graphs.empty(), torch.ones(1))
    yield from _products(threads)
    yield from _convolutions(threads)
    yield from _moves(threads)


def _products(threads: int) -> Iterator[Case]:
    for rows, columns in MATRICES:
        matrix = (rows, columns)
        few = matrix in MATRICES[1:3]
        file = graphs.product(rows, columns)
        yield from _rows("MatMul", threads, file, matrix, (*ROWS, 2000) if few else ROWS)
        for bits in (8, 4, 2):
            for block in BLOCKS[bits]:
                if block != 64 and not few:
                    continue
                file = graphs.packed_product(rows, columns, bits, block, 4)
                name, counts = (
                    f"MatMulNBits {bits} block {block}",
                    ROWS if block == 64 else FEW_ROWS,
                )
                fmt = Format(bits, block, "zero-point")
                yield from _rows(name, threads, file, matrix, counts, fmt)
            file = graphs.packed_product(rows, columns, bits, 64, 0)
            name = f"MatMulNBits {bits} floats"
            yield from _rows(name, threads, file, matrix, FEW_ROWS, FORMATS[bits])
        for is_static in (False, True):
            name = "integer static" if is_static else "integer dynamic"
            file = graphs.integer_product(rows, columns, is_static=is_static)
            yield from _rows(name, threads, file, matrix, ROWS, Format(8))
        file, weight = graphs.product_of_inputs(rows, columns), torch.randn(rows, columns)
        yield from _rows("MatMul dequantized", threads, file, matrix, FEW_ROWS, FLOATS, weight)
    for groups, m, n, k in (
        (12, 48, 48, 32),
        (12, 48, 32, 48),
        (12, 200, 200, 64),
        (96, 100, 64, 100),
    ):
        work = Work("attention", m, n, k, groups, input_bytes=4 * groups * (m * k + n * k),
                    output_bytes=4 * groups * m * n)  # fmt: skip
        file = graphs.batched_product(m, n, k)
        inputs = torch.randn(groups, m, k), torch.randn(groups, k, n)
        yield _case("attention", f"{groups}x{m}x{n}x{k}", work, threads, file, *inputs)
    for hidden, steps, batch in ((96, 20, 1), (96, 20, 8), (256, 20, 1), (256, 20, 8)):
        # The input's weights and the state's are two products of one size.
        work = Work("recurrent", batch, 4 * hidden, hidden, repeats=steps,
                    input_bytes=2 * steps * batch * hidden, output_bytes=2 * steps * batch * hidden)  # fmt: skip
        file, x = graphs.recurrent(hidden), torch.randn(steps, batch, hidden)
        yield _case("LSTM", f"{hidden} by {batch}", work, threads, file, x, calls=2,
                    matrix=(4 * hidden, hidden))  # fmt: skip


def _rows(
    routine: str,
    threads: int,
    file: bytes,
    matrix: tuple[int, int],
    counts: tuple[int, ...],
    fmt: Format = FLOATS,
    *others: Tensor,
) -> Iterator[Case]:
    """One loaded product at several row counts."""
    rows, columns = matrix
    session = OnnxSession(file, threads=threads)
    for m in counts:
        work = Work(
            "gemm", m, rows, columns, input_bytes=4 * m * columns, output_bytes=4 * m * rows
        )
        batch = (torch.randn(m, columns), *others)
        yield Case(
            routine, f"{m} x {rows} x {columns}", work, weights_load(work, fmt, matrix),
            lambda batch=batch: session.run(batch),
        )  # fmt: skip


def _convolutions(threads: int) -> Iterator[Case]:
    dense = [(c, (s, s), (w, w), b) for c, s, w, b in CONVOLUTIONS]
    dense += [(c, (length, 1), (w, 1), b) for c, length, w, b in LONG]
    for channels, sides, window, batch in dense:
        routine = "column" if window[1] == 1 else "conv"
        yield from _convolution(routine, channels, sides, window, batch, 1, threads)
    for channels, side, batch in POINTWISE:
        yield from _convolution("pointwise", channels, (side, side), (1, 1), batch, 1, threads)
    for channels, side, window, batch in DEPTHWISE:
        yield from _convolution(
            "depthwise", channels, (side, side), (window, window), batch, channels, threads
        )
    for inputs, outputs, side, w, step in ((3, 48, 160, 3, 2), (3, 32, 256, 5, 2)):
        file = graphs.strided_convolution(inputs, outputs, (w, w), (step, step))
        m, k = (side // step) ** 2, inputs * w * w
        work = Work("conv", m, outputs, k, input_bytes=4 * inputs * side**2,
                    output_bytes=4 * m * outputs, window=(w, w), stride=(step, step))  # fmt: skip
        yield _case("conv", f"{inputs} to {outputs}, {side}", work, threads, file,
                    torch.randn(1, inputs, side, side), matrix=(outputs, k))  # fmt: skip


def _convolution(
    routine: str,
    channels: int,
    sides: tuple[int, int],
    window: tuple[int, int],
    batch: int,
    groups: int,
    threads: int,
) -> Iterator[Case]:
    """With constant weights in a chain, and with weights that were made on the call."""
    m, k = batch * sides[0] * sides[1], channels // groups * window[0] * window[1]
    moved = 4 * m * channels
    work = Work("conv", m, channels // groups, k, groups, input_bytes=moved, output_bytes=moved,
                window=window)  # fmt: skip
    name = f"{channels} channels, {sides[0]}x{sides[1]}, {window[0]}x{window[1]}, batch {batch}"
    x, matrix = torch.randn(batch, channels, *sides), (channels, k)
    file = graphs.convolutions(channels, window, groups=groups)
    yield _case(routine, name, work, threads, file, x, calls=4, matrix=matrix)
    file = graphs.convolution_of_inputs(channels, window, groups=groups)
    weight = torch.randn(channels, channels // groups, *window)
    yield _case(f"{routine} dequantized", name, work, threads, file, x, weight, matrix=matrix)


def _moves(threads: int) -> Iterator[Case]:
    for rows, columns in ((64, 500), (256, 1024), (1024, 960)):
        for bits in (8, 4, 2):
            columns_ = columns // 4 * 4
            matrix = (rows, columns_)
            work = Work("elementwise", output_bytes=4 * rows * columns_)
            file = graphs.dequantized(rows, columns_, bits, 64)
            yield _case(f"dequantize {bits}", f"{rows} x {columns_}", work, threads, file,
                        torch.ones(1, 1), fmt=FORMATS[bits], matrix=matrix)  # fmt: skip
    for columns in (320, 768):
        for bits in (32, 8, 4, 2):
            session = OnnxSession(graphs.gathered(6000, columns, bits), threads=threads)
            fmt = FLOATS if bits == 32 else FORMATS[bits]
            for m in (8, 128, 1500):
                work = Work("gather", m, columns, input_bytes=8 * m, output_bytes=4 * m * columns)
                batch = torch.randint(0, 6000, (m,))
                yield Case(
                    f"gather {bits}", f"{m} of {columns}", work,
                    weights_load(work, fmt, (m, columns)),
                    lambda session=session, batch=batch: session.run(batch),
                )  # fmt: skip
    for routine, kinds in ELEMENTWISE.items():
        for kind in kinds:
            times = 1 if kind == "Transpose" else 4
            session = OnnxSession(graphs.elementwise(kind, 96, times), threads=threads)
            for m in (40, 600, 8000, 60000):
                numbers = 96 * m
                inputs = 2 if kind == "Add" else 1
                work = Work(
                    "elementwise", input_bytes=4 * inputs * numbers, output_bytes=4 * numbers
                )
                batch = tuple(torch.randn(m, 96) for _ in range(inputs))
                yield Case(
                    routine, f"{kind} of {numbers}", work, weights_load(work, FLOATS, (0, 0)),
                    lambda session=session, batch=batch: session.run(batch), times,
                )  # fmt: skip


def _case(
    routine: str,
    name: str,
    work: Work,
    threads: int,
    file: bytes,
    *inputs: Tensor,
    calls: int = 1,
    fmt: Format = FLOATS,
    matrix: tuple[int, int] = (0, 0),
) -> Case:
    session = OnnxSession(file, threads=threads)
    batch: Any = inputs
    return Case(
        routine, name, work, weights_load(work, fmt, matrix), lambda: session.run(batch), calls
    )
