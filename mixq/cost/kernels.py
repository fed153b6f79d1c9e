"""Which kernel an operation gets in a format, and why; and what one call of it costs.

The runtime is assumed to take the cheapest of the kernels that can read the format. Where none
can, the weights are dequantized to fp32 on every pass and multiplied by the fp32 kernel, which
therefore never is cheaper than leaving the weights in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from mixq.cost import roofline
from mixq.cost.algorithm import algorithms
from mixq.cost.fusion import Read
from mixq.cost.law import Load, parts
from mixq.cost.machine import Machine
from mixq.formats import FLOAT_WIDTHS, Format
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

    @property
    def read(self) -> Read:
        """How the kernel meets its weights."""
        if self.kernel is None:
            return "dequantized"
        return "float" if self.kernel.bits in FLOAT_WIDTHS else "packed"


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
    *,
    op: str = "",
    working_set_bytes: float | None = None,
    images: int = 1,
    fine: bool = False,
    block: int | None = None,
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
        op: what torch calls the operation, or a kind of elementwise work, see `algorithms`.
        working_set_bytes: what passes through the caches before the weights are read again, by
            default more than they hold.
        images: samples of a convolution, of which some kernels take one after the other.
        fine: whether kernels that round activations do so in their smallest blocks.
        block: columns of those blocks, where they are known; 0 if activations stay floats.
    """
    kernels = _serving(machine, work, op)
    makers = _serving(machine, work, op, dequantized=True)

    def call(kernel: Kernel, fmt: Format) -> Call:
        own = one_by_one(work, images) if kernel.per_image else work
        return _with_kernel(machine, kernel, own, fmt, matrix, element_bytes, working_set_bytes)

    reading = [kernel for kernel in kernels if kernel.reads(fmt)]
    if block == 0 and work.kind == "gemm":
        exact = machine.with_floats()
        beside = [] if exact is None else _serving(exact, work, op)
        reading = [kernel for kernel in beside if kernel.reads(fmt)] or reading
    readers = _of_block(reading, fine=fine, block=block)
    calls = [call(kernel, fmt) for kernel in readers]
    if calls:
        return min(calls, key=lambda call: call.latency_s)
    floats = [kernel for kernel in kernels if kernel.bits == W32.bits]
    plain_s = min(call(kernel, W32).latency_s for kernel in floats)
    latency_s, name = min(
        (call(kernel, W32).latency_s * kernel.dequantized_slowdown, kernel.name)
        for kernel in makers or floats
    )
    unpacked_s = _dequantize_s(machine, fmt, whole or matrix, element_bytes)
    return Call(
        # A fit may err; weights that have to be made first are never multiplied faster.
        latency_s=max(latency_s, plain_s) + unpacked_s,
        kernel=None,
        name=f"dequantize + {name}",
        reason=f"{_why_none(machine, kernels, work, fmt)}: dequantized to fp32 on every pass",
    )


def _of_block(kernels: list[Kernel], *, fine: bool, block: int | None = None) -> list[Kernel]:
    """Of the kernels that round activations in blocks those with the largest, or the smallest.

    Where the block is known, those of that block.
    """
    blocks = [kernel.block for kernel in kernels if kernel.block]
    wanted = block if block in blocks else (min if fine else max)(blocks, default=0)
    return [kernel for kernel in kernels if kernel.block in (0, wanted)]


def one_by_one(work: Work, images: int) -> Work:
    """A convolution of a batch as one of a sample that is repeated."""
    if work.kind != "conv" or work.m % images:
        return work
    return replace(work, m=work.m // images, repeats=work.repeats * images)


def _serving(
    machine: Machine, work: Work, op: str = "", *, dequantized: bool = False
) -> list[Kernel]:
    """The kernels of the operation: its algorithm's own where the runtime has them.

    Args:
        machine: with the runtime.
        work: the operation.
        op: as for `price`.
        dequantized: those for weights that a node has just dequantized, in place of the others.
    """
    kernels: list[Kernel] = []
    for name in algorithms(work, op):
        kernels = [
            kernel for kernel in machine.runtime.kernels
            if name in kernel.ops and (kernel.weights_as == "dequantized") == dequantized
        ]  # fmt: skip
        if kernels:
            break
    fitting = [k for k in kernels if k.least_rows <= work.m <= k.most_rows]
    return fitting or kernels


def _with_kernel(
    machine: Machine,
    kernel: Kernel,
    work: Work,
    fmt: Format,
    matrix: tuple[int, int],
    element_bytes: int,
    working_set_bytes: float | None = None,
) -> Call:
    rows, columns = matrix
    weights = rows * columns
    weight_bytes = fmt.stored_bytes(rows, columns, element_bytes) if weights else 0
    if kernel.weights_as != "stored":
        weight_bytes = 4 * weights
    if work.kind == "elementwise" and not weights:
        weights = work.output_bytes // 4  # numbers, which are computed one by one
    load = Load(
        weight_bytes=weight_bytes,
        weights=weights,
        activation_bytes=work.input_bytes + work.output_bytes,
        working_set_bytes=working_set_bytes,
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
    packed_bytes = fmt.stored_bytes(rows, columns, element_bytes)
    for kernel in machine.runtime.kernels:
        if "dequantize" in kernel.ops and kernel.bits == fmt.bits:
            written = Work("elementwise", output_bytes=4 * rows * columns)
            load = Load(packed_bytes, rows * columns, written.output_bytes)
            return parts(machine, kernel, written, load).latency_s
    moved_bytes = packed_bytes + 4 * rows * columns
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
