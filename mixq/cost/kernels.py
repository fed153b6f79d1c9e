"""Which kernel an operation gets in a format, and why; and what one call of it costs.

The runtime is assumed to take the cheapest of the kernels that can read the format. Where none
can, the weights are dequantized to fp32 on every pass and multiplied by the fp32 kernel, which
therefore never is cheaper than leaving the weights in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mixq.cost import roofline
from mixq.cost.law import Load, parts
from mixq.cost.machine import Machine
from mixq.formats import Format
from mixq.graph.work import Work
from mixq.profiles import Kernel, Profile

W32: Final = Format(32)
NO_WEIGHTS: Final = (0, 0)


@dataclass(frozen=True, slots=True)
class Call:
    """One priced operation.

    Attributes:
        kernel: the kernel that reads the format; None if the weights are dequantized.
        name: what runs, in words.
        reason: why that, in words.
    """

    latency_s: float
    kernel: Kernel | None
    name: str
    reason: str


def weight_matrix(work: Work) -> tuple[int, int]:
    """Rows and columns of the weights that one pass over `work` reads.

    A gather reads the rows that it is asked for and not the table. Attention and elementwise
    operations say nothing of weights: (0, 0).
    """
    if work.kind in ("gemm", "conv", "recurrent"):
        return work.n * work.groups, work.k
    return (work.m, work.n) if work.kind == "gather" else NO_WEIGHTS


def kernel_for(
    profile: Profile,
    runtime: str | None,
    work: Work,
    fmt: Format,
    *,
    threads: int | None = None,
) -> tuple[Kernel | None, str]:
    """The kernel that `work` gets with weights in `fmt`, or None, and why.

    Raises:
        ProfileError: if the profile has no such runtime.
        UsageError: if the chip has not that many cores.
    """
    call = price(Machine.of(profile, runtime, threads), work, fmt, weight_matrix(work))
    return call.kernel, call.reason


def price(
    machine: Machine,
    work: Work,
    fmt: Format,
    matrix: tuple[int, int],
    element_bytes: int = 4,
    whole: tuple[int, int] | None = None,
) -> Call:
    """The price of one pass over `work`.

    Args:
        machine: the chip, runtime and threads.
        work: the operation.
        fmt: how its weights are stored.
        matrix: rows and columns of the weights that are read, (0, 0) if there are none.
        element_bytes: bytes of one weight as the model holds it.
        whole: rows and columns of the parameter, by default `matrix`. A dequantize node stands
            before the operation, so it unpacks a whole table even where few rows are gathered.
    """
    kernels = _serving(machine, work)
    calls = [
        _with_kernel(machine, kernel, work, fmt, matrix, element_bytes)
        for kernel in kernels
        if kernel.reads(fmt)
    ]
    if calls:
        return min(calls, key=lambda call: call.latency_s)
    latency_s, name = min(
        (call.latency_s * kernel.dequantized_slowdown, kernel.name)
        for kernel in kernels
        if kernel.bits == W32.bits
        for call in [_with_kernel(machine, kernel, work, W32, matrix, element_bytes)]
    )
    return Call(
        latency_s=latency_s + _dequantize_s(machine, fmt, whole or matrix, element_bytes),
        kernel=None,
        name=f"dequantize + {name}",
        reason=f"{_why_none(machine, kernels, work, fmt)}: dequantized to fp32 on every pass",
    )


def _serving(machine: Machine, work: Work) -> list[Kernel]:
    """The kernels of the operation: its algorithm's own where the runtime has them."""
    kernels = [kernel for kernel in machine.runtime.kernels if work.algorithm in kernel.ops]
    kernels = kernels or [kernel for kernel in machine.runtime.kernels if work.kind in kernel.ops]
    fitting = [k for k in kernels if k.least_rows <= work.m <= k.most_rows]
    return fitting or kernels


def _with_kernel(
    machine: Machine,
    kernel: Kernel,
    work: Work,
    fmt: Format,
    matrix: tuple[int, int],
    element_bytes: int,
) -> Call:
    rows, columns = matrix
    weight_bytes = fmt.stored_bytes(rows, columns, element_bytes) if rows * columns else 0
    load = Load(
        weight_bytes=weight_bytes,
        weights=rows * columns,
        activation_bytes=work.input_bytes + work.output_bytes,
    )
    call = parts(machine, kernel, work, load)
    return Call(
        latency_s=call.latency_s, kernel=kernel, name=kernel.name, reason=f"{call.bound}-bound"
    )


def _dequantize_s(
    machine: Machine, fmt: Format, matrix: tuple[int, int], element_bytes: int
) -> float:
    """Time to read packed weights and write them as fp32; the kernel then reads those [s]."""
    rows, columns = matrix
    if rows * columns == 0:
        return machine.runtime.dequantize_overhead_s
    moved_bytes = fmt.stored_bytes(rows, columns, element_bytes) + 4 * rows * columns
    return roofline.call_s(
        compute_s=0.0,
        unpack_s=machine.runtime.dequantize_s_per_weight * rows * columns / machine.threads,
        memory_s=roofline.memory_s(moved_bytes, machine.memory_bytes_per_s),
        overhead_s=machine.runtime.dequantize_overhead_s,
    )


def _why_none(machine: Machine, kernels: list[Kernel], work: Work, fmt: Format) -> str:
    """Why no kernel reads `fmt`: the width and activations, the grid or the groups."""
    same_width = [
        kernel
        for kernel in kernels
        if kernel.bits == fmt.bits and fmt.activation in kernel.activations
    ]
    inputs = "" if fmt.activation == "none" else f" with {fmt.activation} inputs"
    kind = f"{fmt.bits}-bit {work.kind} kernel{inputs} of {machine.runtime.name}"
    if not same_width:
        return f"no {kind}"
    if not any(fmt.grid in kernel.grids for kernel in same_width):
        return f"no {kind} reads {fmt.grid} grids"
    sizes = sorted({size for kernel in same_width for size in kernel.group_sizes})
    asked = "one scale per channel" if fmt.group_size is None else f"groups of {fmt.group_size}"
    read = f"groups of {', '.join(map(str, sizes))}" if sizes else "channels"
    return f"no {kind} reads {asked} (it reads {read})"
