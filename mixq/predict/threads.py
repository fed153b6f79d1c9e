"""How many threads a published row ran on, from what its table says of cores or threads."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from mixq.errors import UsageError
from mixq.profiles import Profile

UNSAID_SPREAD: Final = 0.4
"""Assumed spread of log(time) for a row that does not say its threads: a factor of 1.5."""
INFERRED_SPREAD: Final = 0.1
"""Assumed, for threads that the table inferred."""

_INSTANCES: Final = re.compile(r"(?:\d+\s*c(?:ores?)?\s*:\s*)?(\d+)\s*inst\w*\s*x\s*(\d+)\s*c?\w*")
_COUNT: Final = re.compile(r"(\d+)\s*(?:threads?|cores?|t|c)?")
_STARTS: Final = re.compile(r"(\d+)(?=[a-z ,+])")
"""`8P+4E`: a chip of two kinds of cores computes on the first."""
_GPUS: Final = re.compile(r"(\d+)?\s*(?:x\s*)?gpus?")
_ALL: Final = re.compile(r"all(?: \w+)?(?: cores| threads)?")
_UNSAID: Final = ("", "see source", "unspecified", "unknown", "n/a", "-", "?")


@dataclass(frozen=True, slots=True)
class Threads:
    """What one row ran on.

    Attributes:
        count: threads of one instance of the model.
        instances: copies of the model that ran side by side and share memory and caches.
        spread: standard deviation that not knowing better adds to log(time); squares add.
        note: what was assumed, empty if nothing was.
    """

    count: int
    instances: int = 1
    spread: float = 0.0
    note: str = ""


def threads_of(text: str, profile: Profile) -> Threads:
    """The threads that `text`, a cell of `cores_or_threads`, means on the chip of `profile`.

    Raises:
        UsageError: if the text is none of the ways in which tables say it.
    """
    plain = " ".join(text.lower().split())
    inferred = plain.endswith("(inferred)")
    plain = plain.removesuffix("(inferred)").strip()
    if plain in _UNSAID and profile.units_per_core > 1:
        return Threads(1)
    if plain in _UNSAID:
        count = profile.default_threads
        return Threads(count, 1, UNSAID_SPREAD, f"threads not said, {count} assumed")
    # Digits beyond any machine; Python refuses to read thousands of them.
    if re.search(r"\d{10}", plain):
        raise UsageError(f"cores_or_threads is {text[:40]!r}; no machine has as many")
    if gpus := _GPUS.fullmatch(plain):
        if int(gpus[1] or 1) != 1:
            raise UsageError(f"cores_or_threads is {text[:40]!r}; one GPU is what is predicted")
        return Threads(1)
    if _ALL.fullmatch(plain):
        return Threads(profile.cores)
    if found := _INSTANCES.fullmatch(plain):
        return _within(Threads(int(found[2]), int(found[1])), profile)
    if found := _COUNT.fullmatch(plain):
        read = Threads(int(found[1]))
        if inferred:
            read = replace(read, spread=INFERRED_SPREAD, note="threads as the table infers them")
        return _within(read, profile)
    if found := _STARTS.match(plain):
        note = f"{text[:40]!r} taken for {found[1]} threads"
        return _within(Threads(int(found[1]), 1, INFERRED_SPREAD, note), profile)
    raise UsageError(
        f"cores_or_threads {text[:40]!r} is not understood; write a number of threads, "
        "`1 GPU`, `56c: 14 inst x 4c`, `all` or nothing"
    )


def shared(profile: Profile, instances: int) -> Profile:
    """What one of so many equal instances has of a chip: its part of memory and shared caches."""
    if instances == 1 or profile.units_per_core > 1:
        return profile
    dram = profile.dram_bytes_per_s / instances
    return replace(
        profile,
        dram_bytes_per_s=dram,
        core_dram_bytes_per_s=min(dram, profile.core_dram_bytes_per_s),
        caches=tuple(
            level
            if level.private
            else replace(level, size_bytes=max(1, level.size_bytes // instances))
            for level in profile.caches
        ),
    )


def _within(threads: Threads, profile: Profile) -> Threads:
    """No more threads than the profile has cores: it may leave a chip's small cores out."""
    if threads.count < 1 or threads.instances < 1:
        raise UsageError("cores_or_threads is 0; write at least 1 thread")
    if threads.count <= profile.cores:
        return threads
    note = f"{threads.count} threads taken for the {profile.cores} cores of {profile.name}"
    return replace(
        threads,
        count=profile.cores,
        spread=max(threads.spread, INFERRED_SPREAD),
        note="; ".join(part for part in (threads.note, note) if part),
    )
