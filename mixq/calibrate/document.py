"""Document: the profile file of this machine, in the schema of `mixq.profiles.schema`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mixq.calibrate.sweep import Memory
from mixq.profiles import Kernel

NAME: Final = "host"
RUNTIME: Final = "onnxruntime"


@dataclass(frozen=True)
class Chip:
    """What is known of this machine.

    Attributes:
        model: of the processor.
        core_ops_per_s: highest rate of one core that was seen, by compute type.
        threads: that everything was measured with.
        source: of every number, in words.
    """

    model: str
    cores: int
    threads: int
    memory: Memory
    core_ops_per_s: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class RuntimePart:
    """One runtime of the file.

    Attributes:
        call_s: what one call takes beside its kernels.
        dequantize: time per weight and of a call [s], where weights can be dequantized on a
            call; None makes a runtime that is predicted and not searched.
        coarse_products: as of `Runtime`.
    """

    name: str
    description: str
    kernels: Sequence[Kernel]
    call_s: float
    memory_bytes: int
    dequantize: tuple[float, float] | None
    coarse_products: int | None = None


def written(chip: Chip, runtimes: Sequence[RuntimePart]) -> str:
    """The file as TOML."""
    lines = [
        "# Written by `mixq hardware calibrate`; docs/profiles.md describes the keys.",
        "schema_version = 2",
        f"name = {_text(NAME)}",
        f"description = {_text(f'{chip.model}, measured with {chip.threads} threads')}",
        f"default_runtime = {_text(runtimes[0].name)}",
        f"default_threads = {_quantity(chip.threads, 'threads', chip.source)}",
        "",
        "[chip]",
        f"cores = {_quantity(chip.cores, 'cores', chip.source)}",
        # Rates are measured and none is counted in cycles.
        f"clock = {_quantity(1, 'GHz', 'a placeholder: no rate here is counted in cycles')}",
        f"dram_bandwidth = {_rate(chip.memory.bytes_per_s, chip)}",
        f"core_dram_bandwidth = {_rate(chip.memory.core_bytes_per_s, chip)}",
    ]
    for level in chip.memory.caches:
        lines += [
            "",
            "[[chip.cache]]",
            f"name = {_text(level.name)}",
            f"size = {_quantity(level.size_bytes, 'B', chip.source)}",
            f"core_bandwidth = {_rate(level.core_bytes_per_s, chip)}",
            f"private = {str(level.private).lower()}",
        ]
    lines += ["", "[chip.core_peak]"]
    lines += [
        f"{kind} = {_quantity(_short(rate / 1e9), 'Gop/s', chip.source)}"
        for kind, rate in sorted(chip.core_ops_per_s.items())
    ]
    for runtime in runtimes:
        lines += _runtime(runtime, chip)
    return "\n".join(lines) + "\n"


def _runtime(runtime: RuntimePart, chip: Chip) -> list[str]:
    lines = [
        "",
        f"[runtime.{runtime.name}]",
        f"description = {_text(runtime.description)}",
        f"call_overhead = {_time(runtime.call_s, chip)}",
        f"memory = {_quantity(runtime.memory_bytes, 'B', 'assumed: as the other CPU profiles')}",
    ]
    if runtime.coarse_products is not None:
        lines.append(f"coarse_products = {runtime.coarse_products}")
    if runtime.dequantize is not None:
        per_weight, overhead = runtime.dequantize
        lines += [
            "",
            f"[runtime.{runtime.name}.dequantize]",
            f"per_weight = {_quantity(_short(per_weight * 1e12), 'ps/weight', chip.source)}",
            f"overhead = {_time(overhead, chip)}",
        ]
    for kernel in runtime.kernels:
        lines += _kernel(kernel, runtime.name, chip)
    return lines


def _kernel(kernel: Kernel, runtime: str, chip: Chip) -> list[str]:
    lines = [
        "",
        f"[[runtime.{runtime}.kernel]]",
        f"name = {_text(kernel.name)}",
        f"ops = {_list(kernel.ops)}",
        f"bits = {kernel.bits:g}",
        f"compute = {_text(kernel.compute)}",
        f"compute_efficiency = {_quantity(_share(kernel.compute_efficiency), '1', chip.source)}",
        f"memory_efficiency = {_quantity(_share(kernel.memory_efficiency), '1', chip.source)}",
        f"overhead = {_time(kernel.overhead_s, chip)}",
    ]
    if kernel.unpack_s_per_weight:
        unpack = _quantity(_short(kernel.unpack_s_per_weight * 1e12), "ps/weight", chip.source)
        lines.append(f"unpack = {unpack}")
    if kernel.finish_s_per_output:
        finish = _quantity(_short(kernel.finish_s_per_output * 1e9), "ns", chip.source)
        lines.append(f"finish = {finish}")
    lines += [f"{name} = {_list(getattr(kernel, name))}"
              for name in ("grids", "group_sizes") if getattr(kernel, name)]  # fmt: skip
    if kernel.block:
        lines.append(f"block = {kernel.block}")
    if kernel.per_image:
        lines.append("per_image = true")
    if kernel.per_channel:
        lines.append("per_channel = true")
    if kernel.activations != ("none",):
        lines.append(f"activations = {_list(kernel.activations)}")
    if kernel.weights_as != "stored":
        lines.append(f"weights_as = {_text(kernel.weights_as)}")
    lines += [f"{name} = {getattr(kernel, name)}"
              for name in ("tile_m", "tile_n") if getattr(kernel, name) != 1]  # fmt: skip
    if kernel.unpack_rows:
        lines.append(f"unpack_rows = {kernel.unpack_rows}")
    lines += [
        f"sharpness = {_short(kernel.sharpness)}",
        f"spread = {_quantity(_short(kernel.spread), '1', chip.source)}",
        f"points = {kernel.points}",
    ]
    return lines


def as_16_bits(kernel: Kernel) -> Kernel:
    """The kernel for 16-bit weights that are floats once the file is loaded."""
    name = f"{kernel.name}, 16-bit weights"
    return replace(kernel, name=name, bits=16, weights_as="loaded")


def _rate(bytes_per_s: float, chip: Chip) -> str:
    return _quantity(_short(bytes_per_s / 1e9), "GB/s", chip.source)


def _time(seconds: float, chip: Chip) -> str:
    return _quantity(_short(max(seconds, 1e-9) * 1e6), "us", chip.source)


def _quantity(value: float, unit: str, source: str) -> str:
    return f"{{ value = {value!r}, unit = {_text(unit)}, source = {_text(source)} }}"


def _short(value: float) -> float:
    """Five digits; the rest is noise."""
    return float(f"{value:.5g}")


def _share(value: float) -> float:
    return min(_short(value), 1.0)


def _list(values: Sequence[object]) -> str:
    return f"[{', '.join(_text(v) if isinstance(v, str) else repr(v) for v in values)}]"


def _text(text: str) -> str:
    kept = "".join(c for c in text if c >= " " and c != "\x7f")
    escaped = kept.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
