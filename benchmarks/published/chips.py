"""The profile of a published row's chip."""

from __future__ import annotations

from functools import cache

from mixq.predict.row import Row
from mixq.profiles import Profile, available, load


def profile_of(row: Row) -> Profile:
    """The profile that names the row's chip."""
    return load(_named()[row.chip])


@cache
def _named() -> dict[str, str]:
    names = available(published=True)
    return {chip: name for name in names for chip in load(name).chips}
