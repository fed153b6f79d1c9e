"""Products of published tables: which kernel answers, what it says, and what is refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from mixq.cost.law import parts
from mixq.errors import UsageError
from mixq.predict.products import find_kernel, predict_product, product_of, shaped
from mixq.predict.row import Row
from mixq.profiles import Kernel, Profile, load


def row(
    *,
    kernel: str = "LUT (bit-serial)",
    runtime: str = "T-MAC",
    m: int | None = 1,
    n: int | None = 4096,
    k: int | None = 4096,
    bits: float = 4,
    activation_bits: float | None = 8,
    threads: str = "1",
    group_size: int | None = None,
    unit: str = "ms",
    value: float | None = None,
) -> Row:
    return Row(
        line=7, chip="a chip", cores_or_threads=threads, runtime=runtime, kernel=kernel,
        model_or_op="gemm", m=m, n=n, k=k, batch=None, seq="", weight_bits=bits,
        activation_bits=activation_bits, group_size=group_size, metric="latency", value=value,
        unit=unit, note="", cells=(),
    )  # fmt: skip


CUBLAS = {
    "kernel": "cuBLAS fp16",
    "runtime": "PyTorch (Vidur/Sarathi profiler)",
    "threads": "1 GPU",
    "bits": 16,
    "activation_bits": 16,
}


def cublas(**changes: object) -> Row:
    return row(**{**CUBLAS, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "asked", "measured", "unit"),
    [
        # benchmarks/data/published.csv: nv-0274 ff., arm-0077, nv-0185, nv-0699
        ("nvidia_a100", cublas(n=12288, m=16, unit="us"), 64.0, "us"),
        ("nvidia_a100", cublas(n=12288, m=4096), 1.89875, "ms"),
        ("jetson_orin", row(n=11008), 2.4653, "ms"),
        ("jetson_orin", row(n=11008, m=256, threads="12 (inferred)"), 57.6613, "ms"),
        (
            "nvidia_a100",
            row(
                kernel="int8 W8A8 scaled GEMM vLLM CUTLASS",
                runtime="vLLM",
                m=2048,
                bits=8,
                threads="1 GPU",
                unit="GFLOP/s",
            ),
            419420.0,
            "GFLOP/s",
        ),
    ],
    ids=["gemv", "gemm", "look-up", "threads", "rate"],
)
def test_a_published_row_comes_out(name: str, asked: Row, measured: float, unit: str) -> None:
    found = predict_product(load(name), replace(asked, unit=unit))
    # The kernels were fitted to these rows among others: 30% is the project's "close".
    assert found.predicted == pytest.approx(measured, rel=0.3)
    assert found.low < found.predicted < found.high
    assert asked.kernel in found.kernel
    assert re.fullmatch(r"(compute|memory)-bound; \d+ points", found.note)


def test_the_answer_is_that_of_the_law() -> None:
    profile, asked = load("jetson_orin"), row(n=5120, k=13824, unit="s")
    match = find_kernel(profile, asked)
    product = product_of(profile, match.runtime, asked)
    law = parts(product.machine, match.kernel, product.work, product.load)
    assert predict_product(profile, asked).predicted == law.latency_s


def test_a_ratio_is_that_of_two_times() -> None:
    profile = load("nvidia_a100")
    asked = row(
        kernel="Marlin W4A16", runtime="Marlin", n=16384, k=16384, activation_bits=16,
        threads="1 GPU", unit="s",
    )  # fmt: skip
    ratio = predict_product(profile, replace(asked, metric="speedup_vs_cublas_fp16", unit="x"))
    base = predict_product(profile, cublas(n=16384, k=16384, unit="s"))
    assert ratio.predicted == pytest.approx(
        base.predicted / predict_product(profile, asked).predicted, rel=1e-12
    )
    assert ratio.low < ratio.predicted < ratio.high
    assert "against" in ratio.note


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, ""),
        ({"bits": 5}, "fitted at 4 bits"),
        ({"runtime": "T-MAC 2"}, "runtime is T-MAC"),
        ({"kernel": "LUT (new)"}, "kernel is LUT (bit-serial)"),
    ],
    ids=lambda value: str(value),
)
def test_a_relative_stands_in_with_a_wider_interval(changes: dict[str, object], note: str) -> None:
    profile = load("jetson_orin")
    own = find_kernel(profile, row())
    match = find_kernel(profile, row(**changes))  # type: ignore[arg-type]
    assert match.note == note
    assert (match.distance > 0) == bool(note)
    assert match.spread > match.kernel.spread or not note
    assert match.spread == own.spread or note
    assert match.kernel.bits == changes.get("bits", 4)


@pytest.mark.parametrize(
    ("rows", "kernel"),
    [(1, "MatMulNBits 4-bit GEMV"), (2000, "MatMulNBits 4-bit dequantize + cuBLAS")],
)
def test_a_row_that_names_nothing_gets_what_the_profiles_own_runtime_takes(
    rows: int, kernel: str
) -> None:
    asked = row(kernel="", runtime="", m=rows, activation_bits=None, threads="")
    found = predict_product(load("nvidia_a100"), asked)
    assert found.kernel.endswith(kernel)
    assert found.note.endswith("-bound; never measured")


def test_a_kernel_is_found_without_its_runtime() -> None:
    found = predict_product(load("nvidia_a100"), row(kernel="Marlin W4A16", runtime="", bits=4,
                                                     activation_bits=16, threads=""))  # fmt: skip
    assert (found.kernel, found.note) == ("Marlin: Marlin W4A16", "launch-bound; 5 points")


def test_every_row_count_has_its_kernel() -> None:
    profile = load("gpu_sm80")
    name = "existing path (GEMV small M; dequant+cuBLAS large M)"
    asked = row(
        kernel=name,
        runtime="ONNX Runtime CUDA",
        activation_bits=16,
        threads="1 GPU",
        n=3072,
        k=3072,
    )
    few, many = (find_kernel(profile, replace(asked, m=m)).kernel for m in (16, 17))
    assert (few.most_rows, many.least_rows) == (16, 17)


@pytest.mark.parametrize(("text", "threads"), [("1", 1), ("12 (inferred)", 12), ("", 12)])
def test_threads_are_those_of_the_row(text: str, threads: int) -> None:
    profile = load("jetson_orin")
    product = product_of(profile, profile.runtime(), row(threads=text))
    assert product.machine.threads == threads


def test_threads_that_nobody_named_widen_a_relative_only() -> None:
    profile = load("jetson_orin")

    def width(asked: Row) -> float:
        found = predict_product(profile, asked)
        return found.high / found.predicted

    assert width(row(threads="")) == width(row(threads="12"))
    assert width(row(threads="", bits=5)) > width(row(threads="12", bits=5))


def with_kernel(profile: Profile, **changes: object) -> Profile:
    """The profile with its first T-MAC kernel alone, changed."""
    runtime = next(part for part in profile.runtimes.values() if part.title == "T-MAC")
    kernel: Kernel = replace(runtime.kernels[0], **changes)  # type: ignore[arg-type]
    return replace(profile, runtimes={"t_mac": replace(runtime, kernels=(kernel,))})


@pytest.mark.parametrize(
    ("changes", "asked", "reason"),
    [
        ({}, row(m=None), "no product"),
        ({}, row(kernel="nonsense", runtime=""), "kernel 'nonsense' is like none of"),
        ({"ops": ("conv",)}, row(), "no kernel for products"),
        ({"most_rows": 4}, row(m=5), "takes 1 to 4 rows, not 5"),
        ({"group_sizes": (32, 64)}, row(group_size=48), "reads groups of 32, 64, not 48"),
    ],
    ids=["no product", "unknown kernel", "no kernel", "rows", "groups"],
)
def test_refusals_are_one_line(changes: dict[str, object], asked: Row, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        predict_product(with_kernel(load("jetson_orin"), **changes), asked)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "line 7" in str(caught.value)


def test_a_table_that_names_its_runtime_is_answered() -> None:
    asked = row(kernel="nonsense", runtime="another", bits=8)
    found = predict_product(load("jetson_orin"), asked)
    assert found.high / found.low > 2
    assert "runtime is" in found.note


def test_a_rate_without_a_shape_is_that_of_a_large_product() -> None:
    bare = row(kernel="int8 udot", runtime="rten", m=None, n=None, k=None, bits=8, unit="GOP/s")
    found = predict_product(load("graviton4"), shaped(replace(bare, metric="throughput")))
    # benchmarks/data/published.csv, arm-0584: 257 GOP/s on one Graviton4 core.
    assert found.predicted == pytest.approx(257, rel=0.1)
    assert shaped(replace(bare, unit="samples/s")).m is None
    assert shaped(replace(bare, model_or_op="BERT")).m is None
    assert shaped(row()) == row()


def test_one_column_is_read_as_weights_are() -> None:
    profile = load("intel_amx")
    asked = row(kernel="avx512 gemv cold", runtime="oneDNN", m=32768, n=1, k=256, bits=32)
    product = product_of(profile, find_kernel(profile, asked).runtime, asked)
    assert (product.work.m, product.work.n, product.load.weights) == (1, 32768, 32768 * 256)
    assert product.load.working_set_bytes is None


def test_scales_are_counted_once() -> None:
    profile = load("jetson_orin")
    runtime = find_kernel(profile, row()).runtime

    def stored_bits(asked: Row) -> float:
        return product_of(profile, runtime, asked).load.weight_bytes * 8 / 4096**2

    assert stored_bits(row()) == 4
    assert stored_bits(row(group_size=32)) == 4.5
    assert stored_bits(row(bits=4.5, group_size=32)) == 4.5
    assert math.isclose(stored_bits(row(bits=16, group_size=32)), 16)
