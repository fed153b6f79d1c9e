"""Terms: times of a whole model's operations on perfect kernels, which efficiencies scale.

Every operation's arithmetic and traffic come from `mixq.cost.law`, asked about a kernel that
reaches every peak; the runtime's `Efficiency` then says what share of the peaks it reaches. So the
same sums serve predicting, fitting and a plain roofline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from mixq.cost.law import Load, parts
from mixq.cost.machine import Machine
from mixq.cost.roofline import SHARPNESS
from mixq.predict.jobs import Job, job_of
from mixq.predict.models.workload import Operation
from mixq.predict.row import Row
from mixq.predict.threads import shared, threads_of
from mixq.profiles import Kernel, Profile

CLASSES: Final = ("gemm", "conv", "window", "depthwise", "attention", "norm", "plain", "fused")
"""Kinds of operations whose kernels reach different shares of the peaks; `window` is a convolution
of 3x3 with stride 1, which runtimes have routines of their own for."""
FUSED: Final = CLASSES.index("fused")
TOUCHING: Final = ("gemm", "conv", "window")
MATRIX_RUNTIMES: Final = ("onnx", "tensorflow", "pytorch", "ipex", "mxnet")
"""What multiplies in matrix units (AMX) where there are any; taken as twice the vector rate,
since filling and draining them keeps small layers from more."""
GPU_TILE: Final = 64
"""Rows and columns of a tile of the smallest kernels that GPU libraries pick."""
PARAMETERS: Final = (
    "gemm", "conv", "window", "depthwise", "attention", "memory", "norm", "plain", "fused",
    "touch", "overhead_s", "call_s", "parallel",
)  # fmt: skip
"""Numbers of an `Efficiency`, in the order of its vector."""


@dataclass(frozen=True, slots=True)
class Efficiency:
    """How well a runtime runs whole models on a chip in one precision.

    Attributes:
        gemm, conv, window, depthwise, attention: attained shares of the peak rate.
        memory: attained share of the bandwidth by products and convolutions.
        norm: the same by norms, softmax and activations, which stay in floats.
        plain: the same by pooling, concatenating, looking up and everything else.
        fused: share of the elementwise work behind products that is not fused into them.
        touch: multiply-accumulates that packing, rounding or storing one number of a product's
            input or output takes as long as; it makes small layers less efficient than large ones.
        overhead_s: time of one operation with nothing to do.
        call_s: time of one forward pass beside its operations.
        parallel: share of a second core's work that comes on top of the first's.
    """

    gemm: float
    conv: float
    window: float
    depthwise: float
    attention: float
    memory: float
    norm: float
    plain: float
    fused: float
    touch: float
    overhead_s: float
    call_s: float
    parallel: float


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operations of a job take on perfect kernels.

    Attributes:
        compute_s, memory_s: of one operation, alone.
        touch_s: of one multiply-accumulate for each number that a product reads or writes.
        kinds: index into `CLASSES` of each.
        counts: how often each runs.
        calls: forward passes.
        threads: of the machine.
        things: samples or tokens of the whole machine, all instances counted.
    """

    job: Job
    compute_s: np.ndarray
    touch_s: np.ndarray
    memory_s: np.ndarray
    kinds: np.ndarray
    counts: np.ndarray
    calls: float
    threads: int
    things: float
    gpu: bool

    def seconds(self, efficiency: Efficiency) -> float:
        """Time of the job with kernels of that efficiency."""
        return float(Sums([self]).seconds(efficiency)[0])

    @property
    def roofline_s(self) -> float:
        """Time of the job if every peak were reached and all elementwise work fused."""
        times = np.maximum(self.compute_s, self.memory_s)
        return float(np.where(self.kinds == FUSED, 0.0, times) @ self.counts)


class Sums:
    """Many jobs, added up at once."""

    def __init__(self, jobs: Sequence[Terms]) -> None:
        """Lay the operations of all jobs end to end."""
        sizes = [len(job.counts) for job in jobs]
        self._jobs = np.repeat(np.arange(len(jobs)), sizes)
        self._compute_s = np.concatenate([job.compute_s for job in jobs])
        self._touch_s = np.concatenate([job.touch_s for job in jobs])
        self._memory_s = np.concatenate([job.memory_s for job in jobs])
        self._kinds = np.concatenate([job.kinds for job in jobs])
        self._counts = np.concatenate([job.counts for job in jobs])
        self._threads = np.repeat([job.threads for job in jobs], sizes)
        self._calls = np.array([job.calls for job in jobs])

    def seconds(self, efficiency: Efficiency) -> np.ndarray:
        """Time of each job with kernels of that efficiency; the law of `mixq.cost.law`."""
        of = efficiency
        rates = np.array([of.gemm, of.conv, of.window, of.depthwise, of.attention, *[1.0] * 3])
        shares = np.array([*[of.memory] * 5, of.norm, of.plain, of.plain])
        side_by_side = (1 + (self._threads - 1) * of.parallel) / self._threads
        worked = self._compute_s + of.touch * self._touch_s
        compute = worked / (rates[self._kinds] * side_by_side)
        memory = self._memory_s / shares[self._kinds]
        high = np.maximum(compute, memory)
        low = np.minimum(compute, memory)
        busy = high * (1 + (low / np.maximum(high, 1e-30)) ** SHARPNESS) ** (1 / SHARPNESS)
        times = np.where(self._kinds == FUSED, of.fused, 1.0) * (busy + of.overhead_s)
        sums = np.bincount(self._jobs, times * self._counts, minlength=len(self._calls))
        return sums + self._calls * of.call_s


def terms_of(profile: Profile, row: Row) -> Terms:
    """The terms of what `row` runs on the chip of `profile`.

    Raises:
        UsageError: if the model is unknown or cannot do what is asked; one line.
    """
    job = job_of(row)
    ran = threads_of(row.cores_or_threads, profile)
    machine = Machine(shared(profile, ran.instances), profile.runtime(), ran.count)
    costs, kinds, counts = [], [], []
    calls = 0.0
    for workload, times in job.passes:
        calls += times
        for operation in workload.operations:
            costs.append(_cost(machine, operation, row, job))
            kinds.append(CLASSES.index(_class(operation)))
            counts.append(operation.count * times)
    return Terms(
        job=job,
        compute_s=np.array([cost[0] for cost in costs]),
        touch_s=np.array([cost[1] for cost in costs]),
        memory_s=np.array([cost[2] for cost in costs]),
        kinds=np.array(kinds),
        counts=np.array(counts, dtype=float),
        calls=calls,
        threads=machine.threads,
        things=job.things * ran.instances,
        gpu=profile.units_per_core > 1,
    )


def compute_type(row: Row) -> str:
    """The arithmetic that a row's kernel multiplies in."""
    wide = row.activation_bits or 16
    if "TF32" in row.kernel:
        return "tf32"
    if wide > 16:
        return "fp32"
    if wide > 8:
        return "bf16" if "bf" in row.kernel.lower() else "fp16"
    return "int8" if wide > 4 else "int4"


def _cost(
    machine: Machine, operation: Operation, row: Row, job: Job
) -> tuple[float, float, float]:
    """Seconds of arithmetic, of touching each number once and of traffic of one operation."""
    gpu = machine.profile.units_per_core > 1
    kind = _class(operation)
    weight_bits = row.weight_bits
    if operation.role == "head" and not _rounds_head(row):
        weight_bits = max(weight_bits, 16 if gpu else 6.5625)
    if operation.kind == "gather":
        weight_bits = max(weight_bits, 16)
    wide = _activation_bytes(row, operation, gpu=gpu)
    if operation.kind == "attention" and job.phase == "serving":
        wide = job.cache_bits / 8
    work = operation.work(wide)
    load = Load(
        weight_bytes=operation.weights * weight_bits / 8,
        weights=operation.weights,
        activation_bytes=work.input_bytes + work.output_bytes,
    )
    rate, capped = _rate(machine, row, kind)
    worth = _winograd(row) and operation.k >= 9 * 16 and operation.n >= 16
    perfect = replace(_perfect(machine.profile), compute=rate, winograd=worth)
    if gpu and kind == "gemm" and work.m >= GPU_TILE:
        perfect = replace(perfect, tile_m=GPU_TILE, tile_n=GPU_TILE)
    found = parts(machine, perfect, work, load)
    touch_s = 0.0
    if kind in TOUCHING:
        touch_s = 2 * (operation.read + operation.written) / machine.ops_per_s(rate)
    return found.compute_s * capped, touch_s * capped, found.memory_s


def _rate(machine: Machine, row: Row, kind: str) -> tuple[str, float]:
    """Which peak rate bounds an operation, and by how much what runs falls short of it."""
    peaks = machine.profile.core_ops_per_s
    compute = compute_type(row)
    gpu = machine.profile.units_per_core > 1
    if kind == "attention" and compute in ("int8", "int4"):
        # Scores and sums stay in floats beside rounded weights.
        compute = "fp16" if gpu else "fp32"
    if compute not in peaks:
        compute = "fp16" if compute in ("bf16", "fp16") and "fp16" in peaks else "fp32"
    if compute != "int8" or gpu:
        return compute, 1.0
    matrix = any(name in row.runtime.lower() for name in MATRIX_RUNTIMES)
    most = peaks["fp32"] * (2 if matrix else 1) * 4
    return compute, max(1.0, peaks["int8"] / most)


def _class(operation: Operation) -> str:
    if operation.kind == "elementwise":
        return operation.role if operation.role in ("fused", "norm") else "plain"
    if operation.kind == "gather":
        return "plain"
    if operation.kind == "attention":
        return "attention"
    if operation.kind != "conv":
        return "gemm"
    if operation.work(4).algorithm == "depthwise":
        return "depthwise"
    return "window" if operation.window == (3, 3) and operation.stride == (1, 1) else "conv"


def _winograd(row: Row) -> bool:
    return row.runtime.lower().startswith("ncnn")


def _activation_bytes(row: Row, operation: Operation, *, gpu: bool) -> float:
    """Bytes of one activation: norms and softmax of rounded transformers stay in floats."""
    wide = row.activation_bits or 16
    floats = 2.0 if gpu else 4.0
    if "integerops" in row.kernel or "dynamic" in row.kernel.lower():
        return floats
    stays = operation.role == "norm" or operation.kind in ("attention", "gather")
    if wide < 16 and (row.weight_bits < 8 or stays):
        return floats
    return max(wide, 8) / 8


def _rounds_head(row: Row) -> bool:
    return row.runtime.startswith(("gpt-fast", "torchao"))


def _perfect(profile: Profile) -> Kernel:
    """A kernel that reaches every peak at once; what else it can say is taken as usual."""
    usual = profile.runtime().kernels[0]
    return replace(
        usual, compute_efficiency=1.0, memory_efficiency=1.0, overhead_s=0.0,
        unpack_s_per_weight=0.0, tile_m=1, tile_n=1, unpack_rows=0, full_columns=0, winograd=False,
    )  # fmt: skip
