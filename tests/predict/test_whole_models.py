"""Whole models on chips: sums of the law, laws of those sums, intervals, refusals."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixq.cost.law import Load, parts
from mixq.cost.machine import Machine
from mixq.errors import UsageError
from mixq.graph.work import Work
from mixq.predict.efficiency import expected_efficiency, group_of
from mixq.predict.fitted import Fitted, fitted
from mixq.predict.row import Row
from mixq.predict.terms import PARAMETERS, Efficiency, Sums, Terms, terms_of
from mixq.predict.whole_models import predict_model
from mixq.profiles import load

EFFICIENCY = Efficiency(
    gemm=0.5,
    conv=0.4,
    window=0.6,
    depthwise=0.1,
    attention=0.3,
    memory=0.7,
    norm=0.2,
    plain=0.3,
    fused=0.1,
    touch=2.0,
    overhead_s=3e-6,
    call_s=2e-5,
    parallel=0.8,
)
NOTHING = Fitted({}, {})


def row(
    model: str = "ResNet50 V1.5",
    *,
    batch: int | None = 1,
    bits: float = 32,
    activation_bits: float = 32,
    seq: str = "",
    threads: str = "4",
    metric: str = "latency",
    unit: str = "ms",
    runtime: str = "ONNX Runtime 1.17.1",
    kernel: str = "FP32",
    chip: str = "a chip",
) -> Row:
    return Row(
        line=7,
        chip=chip,
        cores_or_threads=threads,
        runtime=runtime,
        kernel=kernel,
        model_or_op=model,
        m=None,
        n=None,
        k=None,
        batch=batch,
        seq=seq,
        weight_bits=bits,
        activation_bits=activation_bits,
        group_size=None,
        metric=metric,
        value=None,
        unit=unit,
        note="",
        cells=(),
    )


def seconds(asked: Row, profile: str = "intel_cpu", efficiency: Efficiency = EFFICIENCY) -> float:
    return terms_of(load(profile), asked).seconds(efficiency)


def test_one_product_costs_what_the_law_says() -> None:
    # One operation whose kernel reaches half of the peak and all else of nothing.
    profile = load("intel_cpu")
    machine = Machine(profile, profile.runtime(), 4)
    work = Work("gemm", m=64, n=256, k=512)
    load_ = Load(weight_bytes=4 * 256 * 512, weights=256 * 512, activation_bytes=1e5)
    usual = replace(
        profile.runtime().kernels[0],
        compute_efficiency=1.0,
        memory_efficiency=1.0,
        overhead_s=0.0,
        unpack_s_per_weight=0.0,
        tile_m=1,
        tile_n=1,
    )
    perfect = parts(machine, usual, work, load_)
    plain = replace(EFFICIENCY, gemm=0.5, memory=0.5, touch=0.0, overhead_s=1e-5, call_s=0.0)
    template = terms_of(profile, row())
    terms = replace(
        template,
        compute_s=_array(perfect.compute_s),
        touch_s=_array(0.0),
        memory_s=_array(perfect.memory_s),
        kinds=_array(0).astype(int),
        counts=_array(1.0),
        threads=1,
    )
    kernel = replace(usual, compute_efficiency=0.5, memory_efficiency=0.5, overhead_s=1e-5)
    assert terms.seconds(plain) == pytest.approx(parts(machine, kernel, work, load_).latency_s)


def _array(value: float) -> np.ndarray:
    return np.array([value])


def test_many_jobs_at_once_are_each_by_itself() -> None:
    jobs: list[Terms] = [
        terms_of(load("intel_cpu"), row(name))
        for name in ("ResNet18", "BERT base MRPC", "MobileNet V2")
    ]
    together = Sums(jobs).seconds(EFFICIENCY)
    assert list(together) == pytest.approx([job.seconds(EFFICIENCY) for job in jobs], rel=1e-12)


@given(
    name=st.sampled_from(list(PARAMETERS)),
    factor=st.floats(1.01, 3.0),
    model=st.sampled_from(["ResNet18", "MobileNet V3", "BERT base MRPC", "Llama-2-7B decode"]),
)
def test_better_kernels_are_never_slower(name: str, factor: float, model: str) -> None:
    metric = "decode_latency_per_token" if "decode" in model else "latency"
    asked = row(model, metric=metric)
    worse_up = name in ("fused", "touch", "overhead_s", "call_s")
    value = asdict(EFFICIENCY)[name]
    changed = value / factor if worse_up else min(1.0, value * factor)
    better = replace(EFFICIENCY, **{name: changed})
    assert 0 < seconds(asked, efficiency=better) <= seconds(asked) * (1 + 1e-12)


@pytest.mark.parametrize("profile", ["intel_cpu", "nvidia_a100", "raspberry_pi_5"])
@pytest.mark.parametrize("model", ["ResNet50", "MobileNet V2", "BERT base MRPC"])
def test_no_faster_than_the_silicon(profile: str, model: str) -> None:
    asked = row(model, threads="1")
    terms = terms_of(load(profile), asked)
    perfect = Efficiency(**dict.fromkeys(PARAMETERS, 1.0))
    perfect = replace(perfect, fused=0.0, touch=0.0, overhead_s=0.0, call_s=0.0)
    assert terms.roofline_s <= terms.seconds(perfect) * (1 + 1e-12)
    assert terms.seconds(perfect) < terms.seconds(EFFICIENCY)


@pytest.mark.parametrize("profile", ["intel_amx", "jetson_orin"])
def test_more_of_everything_takes_longer(profile: str) -> None:
    one, two = (seconds(row("ResNet50", batch=batch), profile) for batch in (1, 8))
    assert one < two < 9 * one  # more than 8 times where activations leave the caches
    short, long = (seconds(row(f"BERT base {task}"), profile) for task in ("MRPC", "SQuAD"))
    assert 2.5 * short < long
    few, many = (seconds(row("ResNet50", threads=t), profile) for t in ("1", "4"))
    assert many < few < 4 * many


def test_fewer_bits_decode_faster_where_memory_is_the_limit() -> None:
    asked = row(
        "Llama-2-7B decode", metric="decode_latency_per_token", threads="1 GPU", activation_bits=16
    )
    times = [
        seconds(replace(asked, weight_bits=bits), "nvidia_a100") for bits in (16.0, 8.0, 4.0, 2.0)
    ]
    assert times == sorted(times, reverse=True)
    # 6.6 of 6.7 billion weights in 16 bits at 70% of 2039 GB/s are 9.3 ms.
    assert times[0] == pytest.approx(2 * 6.6e9 / (0.7 * 2.039e12), rel=0.1)


def test_instances_share_the_memory_and_add_up() -> None:
    alone = terms_of(load("intel_cpu"), row("AlexNet", threads="4"))
    shared = terms_of(load("intel_cpu"), row("AlexNet", threads="40c: 10 inst x 4c"))
    assert (alone.things, shared.things) == (1, 10)
    # 244 MB of weights at a tenth of 204.8 GB/s.
    assert shared.memory_s.sum() > 0.9 * 4 * 60.9e6 / 20.48e9
    assert shared.memory_s.sum() > alone.memory_s.sum()


def test_what_nobody_measured_is_expected_and_wide() -> None:
    found = predict_model(load("intel_cpu"), row(), known=NOTHING)
    assert found.low < found.predicted < found.high
    assert found.high / found.low > 4
    assert "nothing alike was measured" in found.note


def test_numbers_come_from_the_narrowest_circle() -> None:
    asked = row()
    terms = terms_of(load("intel_cpu"), asked)
    group = group_of(asked, terms.job.phase, "intel_cpu", gpu=False)
    expected = expected_efficiency(asked, gpu=False)
    values = {
        name: tuple(float(i) for i in range(1, len(PARAMETERS) + 3)) for name in group.circles[:2]
    }
    known = Fitted(values, {}).known(group, "resnet50", expected)
    assert known.depth == 2
    assert known.efficiency == Efficiency(*range(1, len(PARAMETERS) + 1))
    assert known.points == len(PARAMETERS) + 2
    other = Fitted(values | {group.circles[2]: (0.5,) * len(PARAMETERS) + (0.1, 3)}, {})
    assert other.known(group, "resnet50", expected).efficiency.gemm == 0.5
    assert other.known(group, "resnet50", expected).spread < known.spread


def test_a_model_measured_elsewhere_keeps_its_offset() -> None:
    asked = row()
    terms = terms_of(load("intel_cpu"), asked)
    group = group_of(asked, terms.job.phase, "intel_cpu", gpu=False)
    circle = {group.circles[0]: (0.5,) * len(PARAMETERS) + (0.2, 9)}
    plain = predict_model(load("intel_cpu"), asked, known=Fitted(circle, {}))
    offsets = {f"{group.shelves[1]} | resnet50": math.log(2)}
    slower = predict_model(load("intel_cpu"), asked, known=Fitted(circle, offsets))
    assert slower.predicted == pytest.approx(2 * plain.predicted)
    assert slower.high / slower.low < plain.high / plain.low


def test_shipped_numbers_are_legal() -> None:
    found = fitted()
    assert len(found.circles) > 100
    for name, values in found.circles.items():
        of = dict(zip(PARAMETERS, values, strict=False))
        assert len(values) == len(PARAMETERS) + 2, name
        assert all(value > 0 for value in values), name
        shares = {
            key: value for key, value in of.items() if not key.endswith("_s") and key != "touch"
        }
        assert max(shares.values()) <= 1, name


@pytest.mark.parametrize(
    ("chip", "asked", "measured"),
    [
        (
            "intel_amx",
            row(
                "ResNet50 V1.5", threads="56c: 14 inst x 4c", metric="throughput", unit="samples/s"
            ),
            734.33,
        ),
        (
            "raspberry_pi_5",
            row(
                "googlenet",
                bits=8,
                activation_bits=8,
                runtime="ncnn",
                kernel="int8 winograd/sgemm",
            ),
            24.0,
        ),
        (
            "nvidia_a100",
            row(
                "Llama-2-7B decode",
                bits=4,
                activation_bits=16,
                threads="1 GPU",
                metric="decode_throughput",
                unit="tok/s",
                runtime="gpt-fast (torch.compile)",
                kernel="weight-only",
            ),
            202.14,
        ),
    ],
    ids=["throughput of instances", "latency", "tokens"],
)
def test_units_of_published_rows(chip: str, asked: Row, measured: float) -> None:
    # Fitted to these rows among others; a unit that is off would be off by far more.
    found = predict_model(load(chip), asked)
    assert found.predicted == pytest.approx(measured, rel=0.35)
    assert found.low < measured < found.high


def test_speed_up_is_of_the_same_model_in_16_bits() -> None:
    asked = row(
        "Llama-13B all linear layers",
        bits=4,
        activation_bits=16,
        metric="speedup_vs_fp16",
        unit="x",
        threads="1 GPU",
        runtime="Marlin",
        kernel="W4A16 Marlin",
        batch=16,
    )
    found = predict_model(load("nvidia_a100"), asked)
    assert 1 < found.predicted < 4.2
    assert "against fp16" in found.note


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (row("gemm of something"), "is not one that can be built"),
        (
            row(
                "Llama-2-70B serving",
                bits=16,
                activation_bits=16,
                batch=None,
                seq="1024+512",
                metric="max_throughput",
                unit="tok/s",
                threads="1 GPU",
            ),
            "leaves no room for one text",
        ),
        (row("ResNet50", threads="many"), "is not understood"),
    ],
    ids=["model", "memory", "threads"],
)
def test_refusals(asked: Row, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        predict_model(load("nvidia_a100"), asked)
    assert "\n" not in str(caught.value)
