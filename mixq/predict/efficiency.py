"""Which numbers a group of rows shares, and what is expected before anything was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mixq.cost.fit import Prior
from mixq.predict.row import Row
from mixq.predict.terms import Efficiency

FAMILIES: Final = (
    ("onnx", "onnxruntime"), ("tensorflow op", "fastertransformer"),
    ("fastertransformer", "fastertransformer"), ("tensorrt-llm", "trt-llm"),
    ("trt-llm", "trt-llm"), ("tensorrt", "tensorrt"),
    ("ipex", "ipex"), ("torchao", "torchao"), ("gpt-fast", "torchao"),
    ("pytorch", "pytorch"), ("tensorflow", "tensorflow"), ("mxnet", "mxnet"), ("ncnn", "ncnn"),
    ("xnnpack", "xnnpack"), ("paddle", "paddle-lite"), ("t-mac", "t-mac"),
    ("ik_llama", "llama.cpp"),
    ("llamafile", "llama.cpp"), ("ollama", "llama.cpp"), ("llama.cpp", "llama.cpp"),
    ("neural-speed", "neural-speed"), ("tinychat", "tinychat"), ("qserve", "qserve"),
    ("bitnet", "bitnet"), ("vllm", "vllm"), ("marlin", "marlin"),
)  # fmt: skip
"""What a runtime's name contains, and its family."""
EAGER: Final = ("pytorch",)
"""Families that fuse little in floats."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share their numbers, in four circles, the widest first.

    Attributes:
        kind: device, precision and phase under any runtime.
        family: runtime and precision on any chip.
        chip: the same on one chip.
        kernel: the same with one kernel, as the table names it.
    """

    kind: str
    family: str
    chip: str
    kernel: str

    @property
    def circles(self) -> tuple[str, str, str, str]:
        """Names of the circles."""
        chip = f"{self.family} @ {self.chip}"
        return self.kind, self.family, chip, f"{chip} # {self.kernel}"

    @property
    def shelves(self) -> tuple[str, str, str]:
        """Where models may differ from their operations: all devices, the family, the chip."""
        device = "gpu" if " gpu " in self.family else "cpu"
        return f"any {device}", self.family, f"{self.family} @ {self.chip}"


def group_of(row: Row, phase: str, profile_name: str, *, gpu: bool) -> Group:
    """The group of a row."""
    runtime = row.runtime.lower()
    family = next((name for part, name in FAMILIES if part in runtime), runtime or "unknown")
    wide = row.activation_bits or 16
    weights = "float" if row.weight_bits >= 16 else "int8" if row.weight_bits >= 7 else "few"
    sums = (
        "t32"
        if "TF32" in row.kernel
        else "32"
        if wide > 16
        else "16"
        if wide > 8
        else "8"
        if wide > 4
        else "4"
    )
    kernel = re.sub(r"\s+", " ", re.sub(r"\(.*?\)", "", row.kernel)).strip().lower()
    step = "tokens" if phase in ("decode", "generate", "serving", "linear") else phase
    device = "gpu" if gpu else "cpu"
    if not gpu:
        kernel += f" x{row.cores_or_threads}"
    kind = f"{device} w-{weights} a{sums} {step}"
    return Group(f"any {kind}", f"{family} {kind}", profile_name, kernel)


def expectations(row: Row, *, gpu: bool) -> Mapping[str, Prior]:
    """What the numbers of a row's family are expected to be."""
    runtime = row.runtime.lower()
    eager = any(name in runtime for name in EAGER) and row.weight_bits >= 16
    narrow = (row.activation_bits or 16) <= 8
    return {
        "gemm": Prior(0.45 if narrow else 0.6, 0.5),
        "conv": Prior(0.4 if narrow else 0.5, 0.5),
        "window": Prior(0.4 if narrow else 0.5, 0.5),
        "depthwise": Prior(0.08 if narrow else 0.2, 0.6),
        "attention": Prior(0.3, 0.6),
        "memory": Prior(0.7, 0.4),
        "norm": Prior(0.4, 0.7),
        "plain": Prior(0.4, 0.7),
        "fused": Prior(0.5 if eager else 0.05, 0.7),
        "touch": Prior(2.0, 0.5),
        "overhead_s": Prior(3e-6 if gpu else 4e-6, 0.7),
        "call_s": Prior(20e-6, 0.8),
        "parallel": Prior(0.85, 0.15),
    }


def expected_efficiency(row: Row, *, gpu: bool) -> Efficiency:
    """The middle of what is expected."""
    return Efficiency(**{name: prior.centre for name, prior in expectations(row, gpu=gpu).items()})
