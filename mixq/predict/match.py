"""Which kernel of a profile a published row speaks of, or the nearest one, and how near."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Final

from mixq.errors import UsageError
from mixq.predict.row import Row
from mixq.profiles import Kernel, Profile, Runtime

ROWS_PART: Final = re.compile(r" \[rows [^\]]*\]$")
"""What the profile adds to the name of a kernel that a runtime leaves as the rows grow."""
OTHER_RUNTIME: Final = 0.3
OTHER_NAME: Final = 0.3
OTHER_BITS: Final = 0.25
OTHER_ACTIVATIONS: Final = 0.2
"""How far a step away from the row's own kernel is; words and halvings of bits count singly."""
STRANGER: Final = 0.5
"""What another name adds to the spread of log(measured / predicted), whatever its words. With
kernels left out whole, their stand-ins were off by 0.45 in the middle, other widths of the same
kernel by 0.16; intervals so widened held 79% (benchmarks/cost_published.py)."""
UNFITTED: Final = 0.2
OTHER_CHIP: Final = 0.2
"""How much further a kernel is that was assumed, or measured on the chip that this one extends;
its own spread is wide already."""


@dataclass(frozen=True, slots=True)
class Match:
    """A kernel that stands for the row's.

    Attributes:
        kernel: with the row's own width, where it was another.
        distance: 0 for the row's own kernel if it was measured.
        widening: standard deviation that the differences add to log(time); squares add.
        note: what differs, in words.
    """

    runtime: Runtime
    kernel: Kernel
    distance: float
    widening: float
    note: str

    @property
    def name(self) -> str:
        """Runtime and kernel."""
        return f"{self.runtime.title}: {self.kernel.name}"

    @property
    def spread(self) -> float:
        """Standard deviation of log(measured / predicted)."""
        return math.hypot(self.kernel.spread, self.widening)


def nearest_kernels(profile: Profile, row: Row) -> list[Match]:
    """The kernels of `profile` that come nearest to what the row names, all equally near.

    There are several where the row names none; a runtime takes the fastest.

    Raises:
        UsageError: if the row names no runtime and a kernel like none that is known here, or the
            kernel refuses the rows or groups asked for.
    """
    known = [
        _match(profile, runtime, kernel, row)
        for runtime in profile.runtimes.values()
        for kernel in runtime.kernels
        if "gemm" in kernel.ops
    ]
    if not known:
        raise UsageError(f"line {row.line}: profile {profile.name!r} has no kernel for products")
    # A table that names its runtime measured something; whoever names a kernel alone means it.
    if (
        row.kernel
        and not row.runtime
        and not any(_likeness(match.kernel.name, row.kernel) for match in known)
    ):
        names = sorted({base_name(match.kernel) for match in known})
        raise UsageError(
            f"line {row.line}: kernel {row.kernel[:40]!r} is like none of {profile.name!r}; "
            f"choose one of {', '.join(names)[:400]}"
        )
    own = [match for match in known if base_name(match.kernel) == row.kernel]
    rows = row.m or 1
    if own and not any(_takes(match.kernel, rows) for match in own):
        limits = ", ".join(f"{m.kernel.least_rows} to {m.kernel.most_rows}" for m in own)
        raise UsageError(
            f"line {row.line}: kernel {row.kernel[:40]!r} takes {limits} rows, not {rows}; "
            "name another kernel"
        )
    group = row.group_size
    if own and group and not any(_reads(match.kernel, group) for match in own):
        sizes = sorted({size for match in own for size in match.kernel.group_sizes})
        raise UsageError(
            f"line {row.line}: kernel {row.kernel[:40]!r} reads groups of "
            f"{', '.join(map(str, sizes))}, not {group}"
        )
    fitting = [match for match in known if _takes(match.kernel, rows)] or known
    least = min(match.distance for match in fitting)
    return [match for match in fitting if match.distance == least]


def base_name(kernel: Kernel) -> str:
    """The kernel's name as published tables have it."""
    return ROWS_PART.sub("", kernel.name)


def _match(profile: Profile, runtime: Runtime, kernel: Kernel, row: Row) -> Match:
    # A row that names nothing asks for the profile's own runtime, one that names a kernel for it.
    if row.runtime:
        named = row.runtime == runtime.name
        other_runtime = 0.0 if named else 1 - _likeness(runtime.title, row.runtime)
    else:
        other_runtime = float(runtime.name != profile.default_runtime and not row.kernel)
    other_name = 1 - _likeness(base_name(kernel), row.kernel) if row.kernel else 0.0
    wide = row.activation_bits or kernel.activation_bits
    differs = {
        f"runtime is {runtime.title}": OTHER_RUNTIME * other_runtime,
        f"kernel is {base_name(kernel)}": OTHER_NAME * other_name,
        f"fitted at {kernel.bits:g} bits": OTHER_BITS
        * abs(math.log2(kernel.bits / row.weight_bits)),
        f"fitted at {kernel.activation_bits:g}-bit activations": OTHER_ACTIVATIONS
        * abs(math.log2(kernel.activation_bits / wide)),
    }
    distance = math.hypot(*differs.values())
    widening = math.hypot(distance, STRANGER if other_name else 0.0)
    notes = [what for what, much in differs.items() if much]
    foreign = kernel.origin != profile.name
    if kernel.points == 0:
        notes.append("never measured")
    elif foreign:
        notes.append(f"measured on {kernel.origin}")
    return Match(
        runtime=runtime,
        kernel=replace(kernel, bits=row.weight_bits),
        distance=math.hypot(distance, UNFITTED * (kernel.points == 0), OTHER_CHIP * foreign),
        widening=widening,
        note="; ".join(notes),
    )


def _likeness(first: str, second: str) -> float:
    """Share of words that two names have in common, 0..1."""
    if first == second:
        return 1.0
    ours, theirs = (set(re.findall(r"[a-z0-9_]+", name.lower())) for name in (first, second))
    return len(ours & theirs) / max(1, len(ours | theirs))


def _takes(kernel: Kernel, rows: int) -> bool:
    return kernel.least_rows <= rows <= kernel.most_rows


def _reads(kernel: Kernel, group: int) -> bool:
    return not kernel.group_sizes or group in kernel.group_sizes
