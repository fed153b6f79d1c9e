"""Cases of ONNX Runtime's products, from one row to two thousand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import torch

from mixq.calibrate import graphs
from mixq.calibrate.case import Case, loaded, weights_load
from mixq.calibrate.graph import Graph
from mixq.export.onnx.session import OnnxSession
from mixq.formats import Format
from mixq.graph.work import Work

CHAINS: Final = ((256, 24), (512, 16), (1120, 14))
"""Columns of square matrices, and how many stand in a row: 6, 16 and 67 MiB of floats."""
MIDDLE: Final = CHAINS[1:2]
MATRICES: Final = ((768, 512), (512, 2048), (3072, 640))
"""Rows and columns of weights that are timed alone, by many rows."""
ROWS: Final = (1, 8, 48, 160)
FEW_ROWS: Final = (1, 16, 120)
MANY_ROWS: Final = (100, 640)
FLOATS: Final = Format(32)
Step = Callable[[Graph, str], str]


def product_cases(threads: int) -> Iterator[Case]:
    """Products with weights of every width, and of activations with activations."""

    def float_step(rows: int, columns: int) -> Step:
        return graphs.product(rows, columns)

    yield from _chains("MatMul", float_step, FLOATS, threads, CHAINS, ROWS)
    yield from _alone("MatMul", float_step, FLOATS, threads, (*MANY_ROWS, 2000))
    for bits in (8, 4, 2):
        for block in (16, 32, 64, 128):
            fmt, usual = Format(bits, block, "zero-point"), block == 64

            def packed_step(rows: int, columns: int, bits: int = bits, block: int = block) -> Step:
                return graphs.packed_product(rows, columns, bits, block, 4)

            name = f"MatMulNBits {bits} block {block}"
            if bits == 2 and block == 16:  # dequantized, and 200 times as slow by one row
                yield from _alone(name, packed_step, fmt, threads, FEW_ROWS)
                continue
            yield from _chains(name, packed_step, fmt, threads, CHAINS if usual else MIDDLE,
                               ROWS if usual else FEW_ROWS)  # fmt: skip
            yield from _alone(name, packed_step, fmt, threads, MANY_ROWS if usual else (240,))

        def exact_step(rows: int, columns: int, bits: int = bits) -> Step:
            return graphs.packed_product(rows, columns, bits, 64, 0)

        name = f"MatMulNBits {bits} floats"
        yield from _alone(name, exact_step, Format(bits, 64, "zero-point"), threads, FEW_ROWS)
    for is_static in (False, True):

        def integer_step(rows: int, columns: int, is_static: bool = is_static) -> Step:
            return graphs.integer_product(rows, columns, is_static=is_static)

        name = "integer static" if is_static else "integer dynamic"
        yield from _chains(name, integer_step, Format(8), threads, CHAINS, ROWS)
        yield from _alone(name, integer_step, Format(8), threads, MANY_ROWS)
    yield from _dequantized(threads)
    yield from _attention(threads)


def _chains(
    routine: str,
    step: Callable[[int, int], Step],
    fmt: Format,
    threads: int,
    chains: Sequence[tuple[int, int]],
    counts: Sequence[int],
) -> Iterator[Case]:
    for size, times in chains:
        session = OnnxSession(graphs.chain(size, times, step(size, size)), threads=threads)
        held = times * fmt.stored_bytes(size, size)
        for m in counts:
            work = _product(m, size, size)
            load = replace(weights_load(work, fmt, (size, size)), working_set_bytes=held)
            name = f"{m} x {size} x {size} of {held / 2**20:.0f} MiB"
            yield Case(routine, name, work, load, loaded(session, torch.randn(m, size)), times)


def _alone(
    routine: str,
    step: Callable[[int, int], Step],
    fmt: Format,
    threads: int,
    counts: Sequence[int],
) -> Iterator[Case]:
    for rows, columns in MATRICES:
        session = OnnxSession(graphs.chain(columns, 1, step(rows, columns)), threads=threads)
        for m in counts:
            work = _product(m, rows, columns)
            load = weights_load(work, fmt, (rows, columns))
            run = loaded(session, torch.randn(m, columns))
            yield Case(routine, f"{m} x {rows} x {columns}", work, load, run)


def _dequantized(threads: int) -> Iterator[Case]:
    for rows, columns in MATRICES:
        session = OnnxSession(graphs.product_of_inputs(rows, columns), threads=threads)
        weight = torch.randn(rows, columns)
        for m in FEW_ROWS:
            work = _product(m, rows, columns)
            load = weights_load(work, FLOATS, (rows, columns))
            run = loaded(session, torch.randn(m, columns), weight)
            yield Case("MatMul dequantized", f"{m} x {rows} x {columns}", work, load, run)


def _attention(threads: int) -> Iterator[Case]:
    sizes = ((12, 48, 48, 32), (12, 48, 32, 48), (12, 200, 200, 64), (96, 100, 64, 100))
    for groups, m, n, k in sizes:
        work = Work("attention", m, n, k, groups, input_bytes=4 * groups * (m * k + n * k),
                    output_bytes=4 * groups * m * n)  # fmt: skip
        session = OnnxSession(graphs.batched_product(m, n, k), threads=threads)
        run = loaded(session, torch.randn(groups, m, k), torch.randn(groups, k, n))
        load = weights_load(work, FLOATS, (0, 0))
        yield Case("attention", f"{groups} x {m} x {n} x {k}", work, load, run)


def _product(m: int, rows: int, columns: int) -> Work:
    return Work("gemm", m, rows, columns, input_bytes=4 * m * columns, output_bytes=4 * m * rows)
