"""Pasted output against what is printed: words exactly, figures nearly."""

from __future__ import annotations

import re

NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*\w)")
TOLERANCE = 0.02
"""Another processor sums in another order; what follows differs by less than this share."""


def skeleton(line: str) -> tuple[str, list[float]]:
    """A line's words, blanks and rules of tables apart, and its figures."""
    figures = [float(found.replace(",", "")) for found in NUMBER.findall(line)]
    return re.sub(r"[\s─━│┃]+", " ", NUMBER.sub("#", line)).strip(), figures


def alike(expected: str, printed: str) -> bool:
    """Whether two lines say the same, figures within `TOLERANCE`."""
    words, figures = skeleton(expected)
    other_words, others = skeleton(printed)
    return words == other_words and all(
        abs(a - b) <= TOLERANCE * max(abs(a), abs(b)) for a, b in zip(figures, others, strict=True)
    )


def missing_lines(expected: str, printed: str) -> str | None:
    """The first line of `expected` that `printed` lacks, in order; others may lie between.

    A line of three points says that something was left out, and is always there.
    """
    rest = iter(printed.splitlines())
    for line in expected.splitlines():
        if line.strip() in ("", "..."):
            continue
        if not any(alike(line, candidate) for candidate in rest):
            return line
    return None
