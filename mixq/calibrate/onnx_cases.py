"""Cases of ONNX Runtime: its kernels as mixq's exporter writes them, at many sizes."""

from __future__ import annotations

from collections.abc import Iterator

from mixq.calibrate.case import Case
from mixq.calibrate.convolution_cases import convolution_cases
from mixq.calibrate.other_cases import other_cases
from mixq.calibrate.product_cases import product_cases


def onnx_cases(threads: int) -> Iterator[Case]:
    """Every case, loaded.

    Raises:
        MissingExtraError: without onnx or onnxruntime.
        ExportError: if ONNX Runtime does not load one.
    """
    yield from other_cases(threads)
    yield from product_cases(threads)
    yield from convolution_cases(threads)
