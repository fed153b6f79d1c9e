"""Which profile a published row's chip is, or which known chip is nearest to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from mixq.errors import UsageError
from mixq.predict.nearest import NEAREST
from mixq.profiles import available, load


@dataclass(frozen=True, slots=True)
class Chip:
    """The profile to predict a row with.

    Attributes:
        profile: its name.
        spread: standard deviation that the chip being another one adds to log(time); squares add.
        note: that it is another one, empty if it is not.
    """

    profile: str
    spread: float = 0.0
    note: str = ""


@cache
def chip_of(text: str) -> Chip:
    """The profile of the chip that a published table calls `text`.

    A profile's own name and the names that it lists come first, then the same but for case and
    punctuation, then the nearest known chip.

    Raises:
        UsageError: if nothing in the text names a chip that mixq knows or one like it.
    """
    names = _names()
    if text in names:
        return Chip(names[text])
    plain = _plain(text)
    alike = {_plain(name): profile for name, profile in names.items()}
    if plain in alike:
        return Chip(alike[plain])
    for words, profile, spread in NEAREST:
        if re.search(rf"(?<![a-z0-9])(?:{words})(?![a-z0-9])", plain):
            note = f"{text[:60]!r} taken for {profile}, the nearest known chip"
            return Chip(profile, spread, note)
    raise UsageError(
        f"chip {text[:60]!r} is not known and not like a known one; "
        "name a profile (mixq hardware list --all) or give --hardware"
    )


@cache
def _names() -> dict[str, str]:
    """Every name of every shipped profile."""
    profiles = [load(name) for name in available(published=True)]
    return {
        **{name: profile.name for profile in profiles for name in profile.chips},
        **{profile.name: profile.name for profile in profiles},
    }


def _plain(text: str) -> str:
    """Lower case, and one space for everything that is neither letter, digit nor plus."""
    return " ".join(re.sub(r"[^a-z0-9+]+", " ", text.lower()).split())
