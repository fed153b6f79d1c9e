"""Prices where the exporter's choice of kernels is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mixq.cost.kernels import price, weight_matrix
from mixq.cost.machine import Machine
from mixq.formats import Format
from mixq.graph.work import Work
from mixq.profiles import Kernel, load

WORK = Work("gemm", m=4, n=512, k=512, input_bytes=8192, output_bytes=8192)
FMT = Format.parse("w8g64")


def machine(*, floats: bool = True) -> Machine:
    """Eight-bit products in blocks of 16 and 64, the finer ones dearer, and one with floats."""
    xeon = load("intel_cpu")
    runtime = xeon.runtime()
    (usual,) = [k for k in runtime.kernels if k.reads(FMT) and "gemm" in k.ops]
    others = [k for k in runtime.kernels if k is not usual]

    def of(name: str, block: int, overhead_s: float) -> Kernel:
        return replace(usual, name=name, block=block, overhead_s=overhead_s)

    kernels = (*others, of("coarse", 64, 1e-6), of("fine", 16, 2e-6))
    runtimes = {"onnxruntime": replace(runtime, kernels=kernels)}
    if floats:
        exact = replace(
            runtime, name="onnxruntime-float", searchable=False, kernels=(of("float", 0, 1e-3),)
        )
        runtimes["onnxruntime-float"] = exact
    return Machine.of(replace(xeon, runtimes=runtimes))


@pytest.mark.parametrize(
    ("block", "fine", "expected"),
    [
        (None, False, "coarse"),
        (None, True, "fine"),
        (64, True, "coarse"),
        (16, False, "fine"),
        (32, False, "coarse"),  # of no kernel: the rule of thumb
        (0, False, "float"),
    ],
)
def test_the_kernel_that_was_chosen_is_priced(
    block: int | None, fine: bool, expected: str
) -> None:
    call = price(machine(), WORK, FMT, weight_matrix(WORK), block=block, fine=fine)
    assert call.name == expected


def test_floats_that_nobody_measured_are_priced_as_usual() -> None:
    call = price(machine(floats=False), WORK, FMT, weight_matrix(WORK), block=0)
    assert call.name == "coarse"


def test_32_bits_have_no_choice() -> None:
    usual = price(machine(), WORK, Format(32), weight_matrix(WORK))
    assert price(machine(), WORK, Format(32), weight_matrix(WORK), block=0) == usual
