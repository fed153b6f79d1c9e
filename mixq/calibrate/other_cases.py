"""Cases of ONNX Runtime beside products and convolutions: what moves, looks up and repeats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from mixq.calibrate import graphs
from mixq.calibrate.case import EMPTY, Case, loaded, weights_load
from mixq.export.onnx.session import OnnxSession
from mixq.formats import Format
from mixq.graph.work import Work

KINDS: Final = {
    "elementwise": ("Add",),
    "transcendental": ("Sigmoid", "Tanh"),
    "gelu": ("Gelu",),
    "biased gelu": ("BiasGelu",),
    "softmax": ("Softmax",),
    "normalization": ("LayerNormalization",),
    "transpose": ("Transpose",),
}
"""Operators by routine."""
ROWS: Final = (40, 600, 8000, 60000)
"""Of 96 columns."""
COLUMNS: Final = 96
TABLES: Final = ((64, 500), (256, 1024), (1024, 960))
"""Rows and columns of weights that are dequantized."""
FLOATS: Final = Format(32)
FORMATS: Final = {bits: Format(bits, 64, "zero-point") for bits in (8, 4, 2)}


def other_cases(threads: int) -> Iterator[Case]:
    """The empty call, elementwise operators, look-ups, LSTMs and dequantizing."""
    nothing = Work("elementwise")
    run = loaded(OnnxSession(graphs.empty(), threads=threads), torch.ones(1))
    yield Case(EMPTY, "", nothing, weights_load(nothing, FLOATS, (0, 0)), run)
    yield from _dequantizing(threads)
    yield from _lookups(threads)
    yield from _recurrent(threads)
    for routine, kinds in KINDS.items():
        for kind in kinds:
            yield from _elementwise(routine, kind, threads)


def _dequantizing(threads: int) -> Iterator[Case]:
    for rows, columns in TABLES:
        for bits in (8, 4, 2):
            work = Work("elementwise", output_bytes=4 * rows * columns)
            session = OnnxSession(graphs.dequantized(rows, columns, bits, 64), threads=threads)
            load = weights_load(work, FORMATS[bits], (rows, columns))
            run = loaded(session, torch.ones(1, 1))
            yield Case(f"dequantize {bits}", f"{rows} x {columns}", work, load, run)


def _lookups(threads: int) -> Iterator[Case]:
    for columns in (320, 768):
        for bits in (32, 8, 4, 2):
            session = OnnxSession(graphs.gathered(6000, columns, bits), threads=threads)
            for m in (8, 128, 1500):
                work = Work("gather", m, columns, input_bytes=8 * m, output_bytes=4 * m * columns)
                load = weights_load(work, FORMATS.get(bits, FLOATS), (m, columns))
                run = loaded(session, torch.randint(0, 6000, (m,)))
                yield Case(f"gather {bits}", f"{m} of {columns}", work, load, run)


def _recurrent(threads: int) -> Iterator[Case]:
    steps = 20
    for hidden, batch in ((96, 1), (96, 8), (256, 1), (256, 8)):
        # The input's weights and the state's are two products of one size.
        moved = 2 * steps * batch * hidden
        work = Work("recurrent", batch, 4 * hidden, hidden, repeats=steps, input_bytes=moved,
                    output_bytes=moved)  # fmt: skip
        session = OnnxSession(graphs.recurrent(hidden), threads=threads)
        load = weights_load(work, FLOATS, (4 * hidden, hidden))
        run = loaded(session, torch.randn(steps, batch, hidden))
        yield Case("LSTM", f"{hidden} by {batch}", work, load, run, 2)


def _elementwise(routine: str, kind: str, threads: int) -> Iterator[Case]:
    times = 1 if kind == "Transpose" else 4
    session = OnnxSession(graphs.elementwise(kind, COLUMNS, times), threads=threads)
    inputs = len(session.input_names)
    for m in ROWS:
        moved = 4 * COLUMNS * m
        work = Work("elementwise", input_bytes=inputs * moved, output_bytes=moved)
        run = loaded(session, *(torch.randn(m, COLUMNS) for _ in range(inputs)))
        load = weights_load(work, FLOATS, (0, 0))
        yield Case(routine, f"{kind} of {COLUMNS * m}", work, load, run, times)
