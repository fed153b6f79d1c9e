"""From what a published table calls a network to the network."""

from __future__ import annotations

import difflib
import html
import re
from functools import lru_cache

from mixq.errors import UsageError
from mixq.predict.models.catalogue import network_names, transformer_names

SHORT = 5
"""Names up to this many letters count only as a whole word or at the beginning."""


def canonical(name: str) -> str:
    """The network that `name` means.

    Case, spaces, punctuation, entities and what stands around the name (tasks, `decode`, `(ONNX
    Model Zoo)`) do not matter: the longest known name inside wins.

    Raises:
        UsageError: if no known name is inside; one line with near names.
    """
    plain = html.unescape(name).lower().replace("\xa0", " ")
    letters = squeezed(plain)
    # 1.3B and 13B are two networks.
    points = squeezed(re.sub(r"(?<=\d)\.(?=\d)", "p", plain))
    words = {squeezed(word) for word in re.split(r"[\s/()]+", plain)}
    known = names()
    found = [
        alias
        for alias in known
        if (alias in letters or alias in points)
        and (len(alias) > SHORT or alias in words or letters.startswith(alias))
    ]
    best = max(found, key=len, default="")
    if not best:
        near = difflib.get_close_matches(letters, known, n=5, cutoff=0.5)
        hint = (
            f"near are {', '.join(near)}"
            if near
            else f"known are {', '.join(sorted(known)[:8])}, ..."
        )
        raise UsageError(f"model {name[:60]!r} is not one that can be built; {hint}")
    return known[best]


def squeezed(text: str) -> str:
    """Letters and digits alone."""
    return re.sub(r"[^a-z0-9]", "", text)


@lru_cache(maxsize=1)
def names() -> dict[str, str]:
    """Every known name, squeezed, to its network."""
    found = {}
    for source in (network_names(), transformer_names()):
        for network, aliases in source.items():
            found[squeezed(network)] = network
            for alias in aliases:
                found[alias] = network
    return found
