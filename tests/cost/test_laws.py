"""Laws of the price of one operation over every shipped profile, and which kernel is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mixq.cost.kernels import kernel_for, price, weight_matrix
from mixq.cost.machine import Machine
from mixq.formats import Format
from mixq.graph.work import Work
from mixq.profiles import Profile, available, load
from mixq.testing import ProfileContract


def test_every_shipped_profile_has_its_contract() -> None:
    tested = {suite.source for suite in ProfileContract.__subclasses__()}
    assert tested >= set(available())


class TestAppleM2(ProfileContract):
    source = "apple_m2"


class TestArmMobile(ProfileContract):
    source = "arm_mobile"


class TestGraviton3(ProfileContract):
    source = "graviton3"


class TestIntelAmx(ProfileContract):
    source = "intel_amx"


class TestIntelCpu(ProfileContract):
    source = "intel_cpu"


class TestJetsonOrin(ProfileContract):
    source = "jetson_orin"


class TestNvidiaA100(ProfileContract):
    source = "nvidia_a100"


class TestNvidiaA10040Gb(ProfileContract):
    source = "nvidia_a100_40gb"


class TestNvidiaH100(ProfileContract):
    source = "nvidia_h100"


class TestNvidiaH200(ProfileContract):
    source = "nvidia_h200"


class TestRaspberryPi4(ProfileContract):
    source = "raspberry_pi_4"


class TestRaspberryPi5(ProfileContract):
    source = "raspberry_pi_5"


def profile_of(name: str) -> Profile:
    return load(name)


def latency_s(machine: Machine, work: Work, fmt: Format) -> float:
    return price(machine, work, fmt, weight_matrix(work)).latency_s


def gemm(m: int, n: int, k: int) -> Work:
    return Work("gemm", m=m, n=n, k=k, input_bytes=4 * m * k, output_bytes=4 * m * n)


CONV = Work("conv", m=3136, n=64, k=576, input_bytes=802816, output_bytes=802816)


@pytest.mark.parametrize(
    ("profile", "work", "fmt", "kernel", "reason"),
    [
        ("intel_cpu", gemm(1, 2048, 2048), "w4g64", "MatMulNBits 4-bit", "memory-bound"),
        ("intel_cpu", gemm(512, 2048, 2048), "w4g64", "MatMulNBits 4-bit", "compute-bound"),
        ("intel_cpu", gemm(1, 8, 8), "w32", "MLAS sgemm", "launch-bound"),
        ("intel_cpu", gemm(1, 999, 999), "w2g16", "MatMulNBits 2-bit slow path", "unpack-bound"),
        ("intel_cpu", gemm(1, 99, 99), "w8", None, "reads one scale per channel"),
        ("intel_cpu", gemm(1, 99, 99), "w8g48", None, "reads groups of 48"),
        ("intel_cpu", gemm(1, 99, 99), "w16", None, "no 16-bit gemm kernel"),
        ("intel_cpu", CONV, "w8", None, "no 8-bit conv kernel"),
        ("intel_cpu", CONV, "w2g64", None, "no 2-bit conv kernel"),
        ("intel_cpu", Work("recurrent"), "w8g64", None, "no 8-bit recurrent kernel"),
        ("intel_cpu", Work("gather", m=9, n=9), "w4g64", "GatherBlockQuantized 4-bit", "launch"),
        ("nvidia_a100", gemm(1, 4096, 4096), "w4g64", "MatMulNBits 4-bit GEMV", "launch-bound"),
        (
            "nvidia_a100",
            gemm(512, 4096, 4096),
            "w4g64",
            "MatMulNBits 4-bit dequantize + cuBLAS",
            "compute-bound",
        ),
        ("nvidia_a100", CONV, "w2g64", None, "no 2-bit conv kernel"),
        ("nvidia_a100", CONV, "w16", "cuDNN fp16 convolution", "launch-bound"),
        ("arm_mobile", gemm(9, 99, 99), "w2g64", "MatMulNBits 2-bit slow path", "unpack-bound"),
    ],
)
def test_dispatch(profile: str, work: Work, fmt: str, kernel: str | None, reason: str) -> None:
    found, why = kernel_for(profile_of(profile), None, work, Format.parse(fmt))
    assert (found.name if found else None) == kernel
    assert reason in why


@pytest.mark.parametrize(
    ("fmt", "served", "reason"),
    [
        ("w8", True, "-bound"),
        ("w8g64", False, "reads groups of 64 (it reads channels)"),
        ("w8-zp", False, "reads zero-point grids"),
    ],
)
def test_kernel_of_symmetric_channels(fmt: str, served: bool, reason: str) -> None:
    xeon = profile_of("intel_cpu")
    runtime = xeon.runtime()
    changes: dict[str, Any] = {"per_channel": True, "group_sizes": (), "grids": ("symmetric",)}
    kernels = tuple(
        replace(kernel, **changes) if kernel.bits == 8 else kernel for kernel in runtime.kernels
    )
    profile = replace(xeon, runtimes={"onnxruntime": replace(runtime, kernels=kernels)})
    kernel, why = kernel_for(profile, None, gemm(1, 512, 512), Format.parse(fmt))
    assert (kernel is not None) == served
    assert reason in why


@pytest.mark.parametrize(
    ("work", "matrix"),
    [
        (Work("gemm", m=7, n=5, k=3), (5, 3)),
        (Work("conv", m=7, n=5, k=3, groups=4), (20, 3)),
        (Work("recurrent", m=7, n=5, k=3, repeats=9), (5, 3)),
        (Work("gather", m=7, n=5), (7, 5)),
        (Work("attention", m=7, n=5, k=3, groups=4), (0, 0)),
        (Work("elementwise"), (0, 0)),
    ],
    ids=lambda value: value.kind if isinstance(value, Work) else "",
)
def test_weights_that_one_pass_reads(work: Work, matrix: tuple[int, int]) -> None:
    assert weight_matrix(work) == matrix


def ratio(profile: str, work: Work, fmt: str, threads: int | None = None) -> float:
    machine = Machine.of(profile_of(profile), threads=threads)
    return latency_s(machine, work, Format.parse(fmt)) / latency_s(machine, work, Format(32))


def test_weight_only_convolution_as_measured() -> None:
    """ONNX Runtime 1.31, AVX2, one thread, 64x64x3x3 at 56x56: 1.30 to 1.33 times fp32."""
    for fmt in ("w8", "w4", "w2"):
        assert 1.25 < ratio("intel_cpu", CONV, fmt, threads=1) < 1.40


@pytest.mark.parametrize("fmt", ["w4g64", "w2g64"])
def test_low_bits_pay_on_a_gpu_only_while_memory_bound(fmt: str) -> None:
    assert ratio("nvidia_a100", gemm(1, 8192, 8192), fmt) < 0.5
    assert ratio("nvidia_a100", gemm(2048, 8192, 8192), fmt) > 1


def test_two_bits_are_slow_without_a_kernel_on_arm() -> None:
    assert ratio("arm_mobile", gemm(1, 2048, 2048), "w2g64") > 2
    assert ratio("arm_mobile", gemm(1, 2048, 2048), "w4g64") < 0.5


def test_gather_without_a_kernel_unpacks_the_whole_table() -> None:
    machine = Machine.of(profile_of("intel_cpu"))
    work = Work("gather", m=8, n=384, output_bytes=8 * 384 * 4)
    rows = price(machine, work, Format(8), (8, 384))
    table = price(machine, work, Format(8), (8, 384), 4, (30522, 384))
    weights = (30522 - 8) * 384
    unpack_s = machine.runtime.dequantize_s_per_weight * weights / machine.threads
    assert table.latency_s - rows.latency_s >= 0.99 * unpack_s
