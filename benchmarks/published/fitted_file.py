"""profiles/fitted/NAME.toml: kernels as a profile's file has them, each number with its source."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mixq.files import atomic_path
from mixq.profiles import Kernel, Runtime
from published.kinds import ALL_ROWS

HEAD: Final = (
    "# Written by benchmarks/fit_published.py from benchmarks/data/published.csv; do not edit.\n"
)
LONGEST_SOURCE: Final = 900
_QUANTITIES: Final[tuple[tuple[str, str, Callable[[Kernel], float], str], ...]] = (
    ("compute_efficiency", "compute_efficiency", lambda kernel: 1.0, "1"),
    ("memory_efficiency", "memory_efficiency", lambda kernel: 1.0, "1"),
    ("overhead", "overhead_s", lambda kernel: 1e6, "us"),
    ("unpack", "unpack_s_per_weight", lambda kernel: 1e12, "ps/weight"),
    ("spread", "spread", lambda kernel: 1.0, "1"),
)
_PLAIN: Final[tuple[tuple[str, object], ...]] = (
    ("least_rows", 1), ("most_rows", ALL_ROWS), ("tile_m", 1), ("tile_n", 1), ("unpack_rows", 0),
    ("full_columns", 0), ("fill", 0.0), ("sharpness", 4.0), ("winograd", False),
    ("scaling", 1.0), ("scale_weights", 0.0), ("lookup", False), ("points", 0),
)  # fmt: skip
"""Fields without a unit, and what a file that leaves them out means."""


@dataclass(frozen=True)
class Written:
    """A kernel to write.

    Attributes:
        runtime: of which only name, title and description are written.
        source: where its points come from, in words.
    """

    runtime: Runtime
    kernel: Kernel
    source: str


def write_fitted(folder: Path, profile: str, kernels: Sequence[Written]) -> Path:
    """Write the fitted kernels of one profile; the path of the file."""
    runtimes: dict[str, list[Written]] = {}
    for written in kernels:
        runtimes.setdefault(written.runtime.name, []).append(written)
    lines = [HEAD]
    for name, parts in sorted(runtimes.items()):
        runtime = parts[0].runtime
        lines.append(f"[runtime.{name}]")
        lines.append(f"title = {_text(runtime.title)}")
        lines.append(f"description = {_text(runtime.description)}\n")
        for written in parts:
            lines += [f"[[runtime.{name}.kernel]]", *_kernel_lines(written), ""]
    path = folder / f"{profile}.toml"
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines).rstrip("\n") + "\n", encoding="utf-8")
    return path


def rounded(value: float) -> float:
    """To four significant digits: the points do not say more."""
    return float(f"{value:.4g}")


def _kernel_lines(written: Written) -> list[str]:
    kernel = written.kernel
    lines = [
        f"name = {_text(kernel.name)}",
        f"ops = {json.dumps(list(kernel.ops))}",
        f"bits = {kernel.bits:g}",
        f"activation_bits = {kernel.activation_bits:g}",
        f'compute = "{kernel.compute}"',
    ]
    source = _text(written.source[:LONGEST_SOURCE])
    for key, field, factor, unit in _QUANTITIES:
        value = rounded(getattr(kernel, field) * factor(kernel))
        if value:
            lines.append(f'{key} = {{ value = {value!r}, unit = "{unit}", source = {source} }}')
    for field, usual in _PLAIN:
        value = getattr(kernel, field)
        if value != usual:
            lines.append(
                f"{field} = {json.dumps(rounded(value) if isinstance(value, float) else value)}"
            )
    return lines


def _text(text: str) -> str:
    # A basic string of TOML escapes what JSON escapes, in the same way.
    return json.dumps(text, ensure_ascii=False)
