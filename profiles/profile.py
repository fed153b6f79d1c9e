"""Profile: a chip and the kernels that its runtimes really have, in SI units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mixq.errors import ProfileError, UsageError
from mixq.formats import Activation, Format

WeightsAs: TypeAlias = Literal["stored", "loaded", "dequantized"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One routine of a runtime.

    Attributes:
        ops: kinds of `Work` that it serves.
        bits: width of the weights that it reads; 32 and 16 are floats. Widths that no Format has
            (3, or 4.5 with its scales) belong to kernels that are predicted, not searched.
        activation_bits: width of the activations that it multiplies by.
        grids: grids that it reads; empty for floats.
        group_sizes: group sizes that it reads.
        per_channel: whether it also reads one scale per row.
        activations: of the formats that it serves; `none` takes inputs as they are.
        compute: which of the chip's peak rates bounds it.
        compute_efficiency: attained share of that rate, 0..1.
        memory_efficiency: attained share of the bandwidth, 0..1.
        overhead_s: time of one call with nothing to do.
        unpack_s_per_weight: one core's time to unpack one weight; 0 if it multiplies them packed.
        dequantized_slowdown: factor on the time of a 32-bit kernel whose weights are no constants
            because they were dequantized just before; at least 1.
        least_rows, most_rows: rows of activations between which the runtime picks it.
        tile_m, tile_n: block of the output that one unit computes at a time; 1 is no rounding up.
        unpack_rows: rows that one unpacking of the weights serves; 0 is all of them.
        full_columns: output columns at which it draws the whole bandwidth; 0 is any number.
        fill: exponent of the bandwidth's loss below that, 0..1.
        sharpness: exponent of the soft maximum of computing and moving.
        winograd: whether it multiplies 3x3 windows of stride 1 in fewer operations.
        spread: standard deviation of log(measured / predicted).
        points: measurements that its numbers were fitted to; 0 if they are assumed.
        origin: profile of the chip that its numbers were written for.
        scaling: exponent of the threads in the rate of computing, 0..1; 1 is that two threads
            compute twice as much.
        scale_weights: weights that take as long as applying one scale to them does.
        lookup: whether it looks sums up by groups of bits, so that its rate is that of `compute`
            at 4 bits, twice that at 2, a half at 8.
        weights_as: how it meets its weights: `stored` as the format packs them, `loaded` as floats
            that the runtime made of them once, while it loaded the file, or `dequantized` as
            floats that a node before it makes on every call; the last serves 32 bits alone.
        finish_s_per_output: one core's time to begin and finish one sum of products, however long
            it is: to round its inputs, to scale it and to store it.
        per_image: whether a convolution begins anew for every sample of a batch.
        block: columns that share one range of the activations, which it rounds; 0 if it does not.
    """

    name: str
    ops: tuple[str, ...]
    bits: float
    activation_bits: float
    grids: tuple[str, ...]
    group_sizes: tuple[int, ...]
    per_channel: bool
    activations: tuple[Activation, ...]
    compute: str
    compute_efficiency: float
    memory_efficiency: float
    overhead_s: float
    unpack_s_per_weight: float
    dequantized_slowdown: float
    least_rows: int
    most_rows: int
    tile_m: int
    tile_n: int
    unpack_rows: int
    full_columns: int
    fill: float
    sharpness: float
    winograd: bool
    spread: float
    points: int
    origin: str = ""
    scaling: float = 1.0
    scale_weights: float = 0.0
    lookup: bool = False
    weights_as: WeightsAs = "stored"
    finish_s_per_output: float = 0.0
    per_image: bool = False
    block: int = 0

    def reads(self, fmt: Format) -> bool:
        """Whether this kernel reads weights in `fmt` and rounds inputs as `fmt` says."""
        if fmt.bits != self.bits or fmt.activation not in self.activations:
            return False
        if fmt.is_float:
            return True
        grouped = (
            self.per_channel if fmt.group_size is None else fmt.group_size in self.group_sizes
        )
        return grouped and fmt.grid in self.grids


@dataclass(frozen=True, slots=True)
class Runtime:
    """An inference runtime on one chip.

    Attributes:
        title: what published measurements call it.
        call_overhead_s: time of one forward pass beside its kernels.
        searchable: whether it describes a whole runtime; one that lists measured kernels alone
            can be predicted from, not searched.
        memory_bytes: memory that it takes whatever the model is.
        dequantize_s_per_weight: one core's time to turn one packed weight into fp32.
        dequantize_overhead_s: time of one such call with nothing to do.
        coarse_products: products of a model up to which activations are rounded in the largest
            blocks; a model of more has so many roundings that the smallest are taken.
        parallel: whether it runs branches of a graph side by side; else one operation at a time.
    """

    name: str
    title: str
    description: str
    searchable: bool
    call_overhead_s: float
    memory_bytes: int
    dequantize_s_per_weight: float
    dequantize_overhead_s: float
    kernels: tuple[Kernel, ...]
    coarse_products: int = 2**40
    parallel: bool = False


@dataclass(frozen=True, slots=True)
class Cache:
    """One level, the smallest first.

    Attributes:
        size_bytes: of one core if it is private, of the chip if it is shared.
        core_bytes_per_s: bandwidth to one core.
    """

    name: str
    size_bytes: int
    core_bytes_per_s: float
    private: bool


@dataclass(frozen=True, slots=True)
class Profile:
    """A chip: peak rates, bandwidths, cache, runtimes.

    Attributes:
        fingerprint: `sha256:...` over everything that a price of a search depends on, in SI units;
            comments, descriptions, sources, spreads, the order of keys and runtimes that cannot
            be searched do not count.
        core_ops_per_s: peak operations per second of one core by compute type; a
            multiply-accumulate is two operations.
        dram_bytes_per_s: peak memory bandwidth of the chip.
        core_dram_bytes_per_s: what one core can draw of it.
        chips: names of the chip in published measurements.
        units_per_core: what a core computes tiles with: 1, or a GPU's multiprocessors.
        caches: levels between the registers and the memory, the smallest first.
    """

    name: str
    description: str
    fingerprint: str
    chips: tuple[str, ...]
    cores: int
    units_per_core: int
    core_ops_per_s: Mapping[str, float]
    dram_bytes_per_s: float
    core_dram_bytes_per_s: float
    caches: tuple[Cache, ...]
    default_runtime: str
    default_threads: int
    runtimes: Mapping[str, Runtime]

    @property
    def searchable(self) -> tuple[str, ...]:
        """Names of the runtimes that can be searched, the default one first."""
        names = [name for name, runtime in self.runtimes.items() if runtime.searchable]
        return tuple(sorted(names, key=lambda name: (name != self.default_runtime, name)))

    def searched_runtime(self, name: str | None = None) -> Runtime:
        """The runtime of that name, or the default one, if plans can be searched for it.

        Raises:
            ProfileError: if the profile has no such runtime, or lists only measured kernels of it.
        """
        runtime = self.runtime(name)
        if not runtime.searchable:
            raise ProfileError(
                f"runtime {runtime.name!r} of profile {self.name!r} lists measured kernels alone: "
                "it can be predicted (mixq hardware predict) and not searched; "
                f"choose one of {', '.join(self.searchable)}"
            )
        return runtime

    def runtime(self, name: str | None = None) -> Runtime:
        """The runtime of that name, or the default one.

        Raises:
            ProfileError: if the profile has no such runtime.
        """
        chosen = self.default_runtime if name is None else name
        if chosen not in self.runtimes:
            raise ProfileError(
                f"runtime {chosen[:40]!r} is not in profile {self.name!r}; "
                f"choose one of {', '.join(self.runtimes)}"
            )
        return self.runtimes[chosen]

    def threads(self, count: int | None = None) -> int:
        """A thread count that the chip can serve, by default the profile's own.

        Raises:
            UsageError: if there are fewer than one or more than the cores.
        """
        chosen = self.default_threads if count is None else count
        if not 1 <= chosen <= self.cores:
            raise UsageError(
                f"threads is {chosen}, but {self.name!r} has {self.cores} cores; "
                f"choose 1 to {self.cores}"
            )
        return chosen

    def ops_per_s(self, compute: str, threads: int) -> float:
        """Peak rate of that many cores."""
        return self.core_ops_per_s[compute] * threads

    def memory_bytes_per_s(self, threads: int) -> float:
        """Memory bandwidth that many cores can draw."""
        return min(self.dram_bytes_per_s, self.core_dram_bytes_per_s * threads)

    def bytes_per_s_holding(self, held_bytes: float, threads: int) -> float:
        """Bandwidth of the smallest level that holds so many bytes, or of the memory."""
        for level in self.caches:
            if held_bytes <= level.size_bytes * (threads if level.private else 1):
                return max(level.core_bytes_per_s * threads, self.memory_bytes_per_s(threads))
        return self.memory_bytes_per_s(threads)
