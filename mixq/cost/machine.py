"""Machine: a profile with its runtime and thread count chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from mixq.profiles import Profile, Runtime


@dataclass(frozen=True, slots=True)
class Machine:
    """What a price is asked for: chip, runtime, threads."""

    profile: Profile
    runtime: Runtime
    threads: int

    @classmethod
    def of(cls, profile: Profile, runtime: str | None = None, threads: int | None = None) -> Self:
        """The machine with that runtime and thread count, by default the profile's own.

        Raises:
            ProfileError: if the profile has no such runtime.
            UsageError: if the chip has not that many cores.
        """
        return cls(profile, profile.runtime(runtime), profile.threads(threads))

    def with_floats(self) -> Self | None:
        """The same with kernels that leave activations floats, where they were measured."""
        runtime = self.profile.runtimes.get(f"{self.runtime.name}-float")
        return None if runtime is None else replace(self, runtime=runtime)

    def ops_per_s(self, compute: str) -> float:
        """Peak rate of the threads in use."""
        return self.profile.ops_per_s(compute, self.threads)

    @property
    def memory_bytes_per_s(self) -> float:
        """Memory bandwidth of the threads in use."""
        return self.profile.memory_bytes_per_s(self.threads)

    @property
    def units(self) -> int:
        """What computes tiles side by side: threads, or a GPU's multiprocessors."""
        return self.threads * self.profile.units_per_core

    def bytes_per_s_holding(self, held_bytes: float) -> float:
        """Bandwidth of the level that holds so many recently used bytes: a cache or the memory."""
        return self.profile.bytes_per_s_holding(held_bytes, self.threads)
