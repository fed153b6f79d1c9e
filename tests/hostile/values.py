"""Values that readers stumble over, and texts of JSON and TOML that Python's writers refuse."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, Final


@dataclass(frozen=True)
class Raw:
    """A piece of the file as it stands: NaN, 1e400, a number of 5000 digits."""

    text: str


@dataclass(frozen=True)
class Pairs:
    """An object whose keys may occur twice."""

    items: tuple[tuple[str, Any], ...]


CANARY: Final = "__import__('os').system('touch /tmp/mixq-canary')"
STRINGS: Final = (
    "", " ", "a", "\0", "\n", "\r\n", "\t", "\x1b[31m", "\x1b]0;title\x07", "\x7f", "\x85",
    "\u202edrow", "\u2028", "\ufeff", "\ufdd0", "e\u0301", "\U0001f600", "\U0010ffff",
    "../../x", "..", ".", "/etc/passwd", "/dev/zero", "/dev/stdin", "~/.bashrc", "C:\\con",
    "\\\\host\\share", "con", "nul", "a/b", "a\\b", "-rf", "$(touch x)", "`touch x`", "%s%n",
    "{0.__class__}", CANARY, "<script>alert(1)</script>", "=cmd|' /c calc'!A0", "__proto__",
    "__class__", "constructor", "w8", "w4g64", "w2g1", "w32", "w8a8", "x" * 300, "y" * 70_000,
    "1", "0", "-1", "nan", "inf", "true", "null", "9" * 5000, "os:system", "builtins:eval",
)  # fmt: skip
NUMBERS: Final = (
    0, 1, -1, 2, 3, 7, 8, 16, 31, 32, 33, 64, 255, 256, 1 << 15, (1 << 31) - 1, 1 << 31, 1 << 32,
    1 << 53, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, 1 << 64, -(1 << 63), 10**30, 10**400,
    0.0, 0.5, 1.5, -0.5, 1e-9, 1e-300, 5e-324, 1e15, 1e300, 1.7976931348623157e308,
)  # fmt: skip
RAW: Final = tuple(
    Raw(text)
    for text in (
        "NaN", "Infinity", "-Infinity", "nan", "inf", "-inf", "1e400", "-1e400", "-0.0", "-0",
        "1e-400", "9" * 5000, "0x10", "1_000", "01", "+1", ".5", "1.", "'a'", "undefined", "",
        '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\\x00"', '"unclosed', "/*c*/1", "1 1",
        "[" * 60 + "]" * 60, "[" * 3000 + "]" * 3000, "[" * 100_000, '{"a":' * 900 + "1" + "}" * 900,
        '{"a":' * 60_000, "[" + "0," * 3000 + "0]", "1979-05-27T07:32:00Z", "True", "None",
    )
)  # fmt: skip


def dump_json(tree: Any) -> str:
    """JSON text of a tree, with `Raw` and `Pairs` in it."""
    try:
        return json.dumps(tree)
    except (TypeError, ValueError):  # one of ours is in it, or a number too long for Python
        pass
    if isinstance(tree, Raw):
        return tree.text
    if isinstance(tree, Pairs):
        return _object(tree.items)
    if isinstance(tree, dict):
        return _object(tree.items())
    if isinstance(tree, list):
        return "[" + ",".join(map(dump_json, tree)) + "]"
    return _whole(tree)


def dump_toml(tree: Any) -> str:
    """TOML text of a tree: each key of the top on a line, everything below inline."""
    items = tree.items if isinstance(tree, Pairs) else tree.items()
    return "".join(f"{json.dumps(key)} = {_inline(value)}\n" for key, value in items)


def _inline(tree: Any) -> str:
    if isinstance(tree, Pairs | dict):
        items = tree.items if isinstance(tree, Pairs) else tree.items()
        return "{" + ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in items) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_inline, tree)) + "]"
    return '""' if tree is None else dump_json(tree)


def _object(items: Iterable[tuple[str, Any]]) -> str:
    return "{" + ",".join(f"{json.dumps(key)}:{dump_json(value)}" for key, value in items) + "}"


def _whole(tree: Any) -> str:
    return "9" * 5000 if isinstance(tree, int) else '"no JSON"'


def anything(rng: Random) -> Any:
    """A value that has no business where it is put."""
    kind = rng.randrange(10)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 6:
        return rng.choice(STRINGS)
    if kind < 8:
        return rng.choice(RAW)
    return rng.choice(
        (None, True, False, [], {}, [[]], [None], {"": None}, [1, "a"], {"a": {"b": {}}},
         [0] * 5000, ["a"] * 1001, {str(i): i for i in range(2000)})
    )  # fmt: skip


def other_number(number: float, rng: Random) -> Any:
    """A number near or far from one, or none."""
    if isinstance(number, float) and number != number:
        return 0.0
    try:
        return rng.choice(
            (number + 1, number - 1, -number, number * 2, number / 2, number * 1e300, 0, 1,
             float(number), int(number), str(number), bool(number), rng.choice(NUMBERS))
        )  # fmt: skip
    except (OverflowError, ValueError):
        return 0


def other_string(text: str, rng: Random) -> str:
    """A text made of one, or none."""
    hostile = rng.choice(STRINGS)
    cut = rng.randrange(len(text) + 1)
    return rng.choice(
        (hostile, text + hostile, hostile + text, text[:cut] + hostile + text[cut:], text[:cut],
         text.upper(), text.lower(), text * 2, text[::-1])
    )  # fmt: skip
