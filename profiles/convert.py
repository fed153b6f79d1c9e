"""From the tables of a checked file to a Profile in SI units."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from mixq.profiles.profile import Cache, Kernel, Profile, Runtime
from mixq.profiles.schema import KernelFile, ProfileFile, RuntimeFile

ASSUMED_SPREAD: Final = 0.4
"""Of a kernel that was never compared with a measurement: a factor of 1.5."""
_ACTIVATION_BITS: Final = {
    "fp32": 32.0, "tf32": 32.0, "fp16": 16.0, "bf16": 16.0, "int8": 8.0, "int4": 4.0,
}  # fmt: skip
_UNPRICED: Final = {"description", "title", "spread", "points", "origin", "chips", "fingerprint"}
"""What says how far a price can be trusted, and not what it is."""


def convert(file: ProfileFile, origins: Mapping[str, Sequence[str]] | None = None) -> Profile:
    """The profile that `file` describes.

    Args:
        file: a checked file.
        origins: for each runtime the profile in whose file each kernel stands; by default this.
    """
    chip = file.chip
    clock_hz = chip.clock.si()
    profile = Profile(
        name=file.name,
        description=file.description,
        fingerprint="",
        cores=int(chip.cores.value),
        core_ops_per_s={name: rate.si(clock_hz) for name, rate in sorted(chip.core_peak.items())},
        dram_bytes_per_s=chip.dram_bandwidth.si(clock_hz),
        core_dram_bytes_per_s=chip.core_dram_bandwidth.si(clock_hz),
        chips=chip.names,
        units_per_core=1 if chip.units_per_core is None else int(chip.units_per_core.value),
        caches=tuple(
            Cache(
                name=level.name,
                size_bytes=round(level.size.si()),
                core_bytes_per_s=level.core_bandwidth.si(clock_hz),
                private=level.private,
            )
            for level in chip.cache
        ),
        default_runtime=file.default_runtime,
        default_threads=int(file.default_threads.value),
        runtimes={
            name: _runtime(name, part, (origins or {}).get(name, [file.name] * len(part.kernel)))
            for name, part in sorted(file.runtime.items())
        },
    )
    return replace(profile, fingerprint=_fingerprint(profile))


def _runtime(name: str, file: RuntimeFile, origins: Sequence[str]) -> Runtime:
    return Runtime(
        name=name,
        title=file.title or name,
        description=file.description,
        searchable=file.dequantize is not None,
        call_overhead_s=0.0 if file.call_overhead is None else file.call_overhead.si(),
        memory_bytes=0 if file.memory is None else round(file.memory.si()),
        dequantize_s_per_weight=(
            0.0 if file.dequantize is None else file.dequantize.per_weight.si()
        ),
        dequantize_overhead_s=0.0 if file.dequantize is None else file.dequantize.overhead.si(),
        kernels=tuple(
            _kernel(kernel, origin) for kernel, origin in zip(file.kernel, origins, strict=True)
        ),
        coarse_products=file.coarse_products,
        parallel=file.parallel,
    )


def _kernel(file: KernelFile, origin: str) -> Kernel:
    return Kernel(
        name=file.name,
        ops=file.ops,
        bits=file.bits,
        activation_bits=(
            _ACTIVATION_BITS[file.compute]
            if file.activation_bits is None
            else file.activation_bits
        ),
        grids=file.grids,
        group_sizes=file.group_sizes,
        per_channel=file.per_channel,
        activations=file.activations,
        compute=file.compute,
        compute_efficiency=file.compute_efficiency.value,
        memory_efficiency=file.memory_efficiency.value,
        overhead_s=file.overhead.si(),
        unpack_s_per_weight=0.0 if file.unpack is None else file.unpack.si(),
        dequantized_slowdown=(
            1.0 if file.dequantized_slowdown is None else file.dequantized_slowdown.value
        ),
        least_rows=file.least_rows,
        most_rows=file.most_rows,
        tile_m=file.tile_m,
        tile_n=file.tile_n,
        unpack_rows=file.unpack_rows,
        full_columns=file.full_columns,
        fill=file.fill,
        sharpness=file.sharpness,
        winograd=file.winograd,
        spread=ASSUMED_SPREAD if file.spread is None else file.spread.value,
        points=file.points,
        scaling=file.scaling,
        scale_weights=file.scale_weights,
        lookup=file.lookup,
        origin=origin,
        weights_as=file.weights_as,
        per_image=file.per_image,
        block=file.block,
        finish_s_per_output=0.0 if file.finish is None else file.finish.si(),
    )


def _fingerprint(profile: Profile) -> str:
    searchable = {name: one for name, one in profile.runtimes.items() if one.searchable}
    content = _priced(asdict(replace(profile, runtimes=searchable)))
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def _priced(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _priced(value) for key, value in node.items() if key not in _UNPRICED}
    return [_priced(value) for value in node] if isinstance(node, list | tuple) else node
