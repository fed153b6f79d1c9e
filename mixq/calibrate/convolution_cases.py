"""Cases of ONNX Runtime's convolutions: constant weights, and weights made on the call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from mixq.calibrate import graphs
from mixq.calibrate.case import Case, loaded, weights_load
from mixq.export.onnx.session import OnnxSession
from mixq.formats import Format
from mixq.graph.work import Work

DENSE: Final = (
    *((48, 40, 3, 1), (64, 28, 3, 1), (160, 14, 3, 1)),
    *((160, 14, 3, 4), (256, 7, 3, 2), (48, 56, 3, 8)),
)
"""Channels, side, window, batch."""
COLUMN: Final = ((32, 128, 64, 1), (32, 128, 64, 6), (64, 20, 48, 4), (16, 256, 96, 1))
"""Channels, length, window, batch: convolutions of one axis."""
POINTWISE: Final = (
    *((24, 80, 1), (56, 56, 1), (128, 28, 1), (128, 28, 6)),
    *((384, 14, 2), (704, 7, 1), (48, 112, 4), (120, 56, 12)),
)
"""Channels, side, batch."""
DEPTHWISE: Final = (
    *((48, 80, 3, 1), (128, 28, 3, 1), (128, 28, 5, 6), (384, 14, 5, 2)),
    *((704, 7, 3, 1), (704, 7, 5, 10), (48, 112, 3, 4), (120, 56, 5, 12)),
)
"""Channels, side, window, batch."""
STEMS: Final = ((3, 48, 160, 3, 1), (3, 32, 256, 5, 1), (3, 24, 192, 3, 8))
"""Channels in and out, side, window, batch; every other pixel."""
SHRINKING: Final = ((96, 56, 3, 1), (160, 28, 5, 8), (64, 96, 3, 8), (480, 14, 5, 2))
"""Channels, side, window, batch of depthwise convolutions of every other pixel."""
FLOATS: Final = Format(32)


def convolution_cases(threads: int) -> Iterator[Case]:
    """Dense, pointwise, depthwise, and of one axis."""
    for channels, side, width, batch in DENSE:
        yield from _pair("conv", channels, (side, side), (width, width), batch, 1, threads)
    for channels, length, width, batch in COLUMN:
        yield from _pair("column", channels, (length, 1), (width, 1), batch, 1, threads)
    for channels, side, batch in POINTWISE:
        yield from _pair("pointwise", channels, (side, side), (1, 1), batch, 1, threads)
    for channels, side, width, batch in DEPTHWISE:
        window = (width, width)
        yield from _pair("depthwise", channels, (side, side), window, batch, channels, threads)
    for inputs, outputs, side, width, batch in STEMS:
        file = graphs.strided_convolution(inputs, outputs, (width, width), (2, 2))
        yield _shrinking("conv", file, inputs, outputs, side, width, batch, 1, threads)
        file = graphs.convolution_of_inputs(inputs, outputs, (width, width), step=2)
        yield _shrinking("conv dequantized", file, inputs, outputs, side, width, batch, 1, threads)
    for channels, side, width, batch in SHRINKING:
        file = graphs.convolution_of_inputs(
            channels, channels, (width, width), groups=channels, step=2
        )
        routine = "strided depthwise dequantized"
        yield _shrinking(routine, file, channels, channels, side, width, batch, channels, threads)


def _pair(
    routine: str,
    channels: int,
    sides: tuple[int, int],
    window: tuple[int, int],
    batch: int,
    groups: int,
    threads: int,
) -> Iterator[Case]:
    """With constant weights in a chain, and with weights that were made on the call."""
    m, k = sides[0] * sides[1], channels // groups * window[0] * window[1]
    moved = 4 * batch * m * channels
    work = Work("conv", m, channels // groups, k, groups, batch, moved, moved, window)
    name = f"{channels} channels, {sides[0]}x{sides[1]}, {window[0]}x{window[1]}, batch {batch}"
    x, load = torch.randn(batch, channels, *sides), weights_load(work, FLOATS, (channels, k))
    file = graphs.convolutions(channels, window, groups=groups)
    yield Case(routine, name, work, load, loaded(OnnxSession(file, threads=threads), x), 4)
    file = graphs.convolution_of_inputs(channels, channels, window, groups=groups)
    weight = torch.randn(channels, channels // groups, *window)
    run = loaded(OnnxSession(file, threads=threads), x, weight)
    yield Case(f"{routine} dequantized", name, work, load, run)


def _shrinking(
    routine: str,
    file: bytes,
    inputs: int,
    outputs: int,
    side: int,
    width: int,
    batch: int,
    groups: int,
    threads: int,
) -> Case:
    """One convolution of every other pixel, with its weights as a second input if it has one."""
    session = OnnxSession(file, threads=threads)
    m, k = (side // 2) ** 2, inputs // groups * width * width
    work = Work("conv", m, outputs // groups, k, groups, batch,
                input_bytes=4 * batch * inputs * side**2, output_bytes=4 * batch * m * outputs,
                window=(width, width), stride=(2, 2))  # fmt: skip
    tensors = [torch.randn(batch, inputs, side, side)]
    if len(session.input_names) > 1:
        tensors.append(torch.randn(outputs, inputs // groups, width, width))
    name = f"{inputs} to {outputs} channels, {side}x{side}, {width}x{width}, batch {batch}"
    load = weights_load(work, FLOATS, (outputs, k))
    return Case(routine, name, work, load, loaded(session, *tensors))
