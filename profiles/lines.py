"""The line of a TOML file on which a key stands; tomllib says it for broken syntax only."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

Path = tuple[str | int, ...]
"""Keys from the root; a number is the place in an array of tables."""

_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEYS: Final = rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*"
_ARRAY: Final = re.compile(rf"\s*\[\[{_KEYS}\]\]")
_TABLE: Final = re.compile(rf"\s*\[{_KEYS}\]\s*(?:#.*)?$")
_VALUE: Final = re.compile(rf"{_KEYS}=")
_LONG_TEXT: Final = re.compile(r'"""|' + r"'''")


def line_of(text: str, path: Path) -> int:
    """The line, from 1, of the longest part of `path` that `text` spells out.

    `text` has to be valid TOML. Keys of tables that are written within one value
    (`{ value = 1 }`) stand on the line of that value.
    """
    lines = _key_lines(text)
    return next(
        lines[path[:length]] for length in range(len(path), -1, -1) if path[:length] in lines
    )


def _key_lines(text: str) -> dict[Path, int]:
    found: dict[Path, int] = {(): 1}
    elements: Counter[Path] = Counter()
    table: Path = ()
    within: str | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        if within is not None:
            if line.count(within) % 2:
                within = None
            continue
        if array := _ARRAY.match(line):
            name = _last_elements(_names(array[1]), elements)
            table = (*name, elements[name])
            elements[name] += 1
            found.setdefault(name, number)
            found.setdefault(table, number)
        elif header := _TABLE.match(line):
            table = _last_elements(_names(header[1]), elements, whole=True)
            found.setdefault(table, number)
        elif value := _VALUE.match(line):
            found.setdefault((*table, *_names(value[1])), number)
        for mark in _LONG_TEXT.findall(line):
            within = mark if within is None else (None if within == mark else within)
    for path in list(found):
        for length in range(1, len(path)):
            found.setdefault(path[:length], found[path])
    return found


def _names(keys: str) -> Path:
    return tuple(key[1:-1] if key[0] in "\"'" else key for key in re.findall(_KEY, keys))


def _last_elements(names: Path, elements: Counter[Path], *, whole: bool = False) -> Path:
    """`names`, where each array of tables on the way stands for its last element so far."""
    path: Path = ()
    for place, name in enumerate(names):
        path = (*path, name)
        if path in elements and (whole or place < len(names) - 1):
            path = (*path, elements[path] - 1)
    return path
