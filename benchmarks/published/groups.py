"""The published products by the kernel that made them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mixq.cost.fit import Prior
from mixq.predict.products import shaped
from mixq.predict.row import Row
from mixq.predict.rows import read_rows
from mixq.profiles import Kernel, Profile, Runtime
from published.kinds import UNPACK_BYTES_PER_S, Kind, kind_of

DATA: Final = Path(__file__).parent.parent / "data" / "published.csv"
Key = tuple[str, str, str, float, float]
"""Profile, runtime, kernel, weight bits, activation bits."""


@dataclass(frozen=True)
class Group:
    """Rows of one kernel on one chip."""

    key: Key
    profile: Profile
    runtime: Runtime
    kind: Kind
    start: Kernel
    rows: tuple[Row, ...]

    @property
    def priors(self) -> dict[str, Prior]:
        """What is expected of the kernel's parameters on this chip."""
        slower = UNPACK_BYTES_PER_S / self.profile.dram_bytes_per_s
        return {
            name: replace(prior, centre=prior.centre * slower)
            if name == "unpack_s_per_weight"
            else prior
            for name, prior in self.kind.priors.items()
        }


def products() -> list[Row]:
    """The published rows that are products."""
    return [row for row in map(shaped, read_rows(DATA)[1]) if row.is_product]


def groups_of(rows: Sequence[Row], profile_of: Callable[[Row], Profile]) -> list[Group]:
    """The rows by kernel, in the order of the table."""
    found: dict[Key, list[Row]] = {}
    places: dict[Key, tuple[Profile, Kind, Kernel]] = {}
    for row in rows:
        profile = profile_of(row)
        kind, start = kind_of(profile, row)
        key = (profile.name, row.runtime, start.name, row.weight_bits, start.activation_bits)
        found.setdefault(key, []).append(row)
        places.setdefault(key, (profile, kind, start))
    return [
        Group(key, profile, runtime_of(key[1]), kind, start, tuple(found[key]))
        for key, (profile, kind, start) in places.items()
    ]


def runtime_of(title: str) -> Runtime:
    """A runtime of that title without kernels."""
    slug = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:64]
    return Runtime(slug, title, f"{title}, as published", False, 0.0, 0, 0.0, 0.0, ())


def profile_with(
    profile: Profile, groups: Sequence[Group], kernels: Mapping[Key, Kernel]
) -> Profile:
    """`profile` with these for its own measured kernels.

    What it assumes of runtimes that can be searched stays, and what it has from the chip that it
    extends.
    """
    runtimes = {
        name: replace(
            runtime,
            kernels=tuple(k for k in runtime.kernels if not k.points or k.origin != profile.name),
        )
        for name, runtime in profile.runtimes.items()
    }
    for group in groups:
        if group.profile.name != profile.name or group.key not in kernels:
            continue
        kernel = kernels[group.key]
        runtime = runtimes.get(group.runtime.name, group.runtime)
        others = (k for k in runtime.kernels if identity(k) != identity(kernel))
        runtimes[group.runtime.name] = replace(runtime, kernels=(*others, kernel))
    return replace(profile, runtimes=runtimes)


def identity(kernel: Kernel) -> tuple[str, float, float]:
    """What makes a kernel take the place of one of the chip that a profile extends."""
    return kernel.name, kernel.bits, kernel.activation_bits
