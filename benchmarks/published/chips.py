"""The profile of a published row's chip."""

from __future__ import annotations

from mixq.predict.chips import chip_of
from mixq.predict.row import Row
from mixq.profiles import Profile, load


def profile_of(row: Row) -> Profile:
    """The profile that names the row's chip."""
    return load(chip_of(row.chip).profile)
