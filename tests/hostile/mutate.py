"""Mutations of bytes and of trees; the same seed gives the same file in every process."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, TypeAlias

from .values import Pairs, anything, dump_json, dump_toml, other_number, other_string

Mutate: TypeAlias = Callable[[bytes, Random], bytes]


def plain(data: bytes, rng: Random) -> bytes:
    """Flipped, cut, doubled, moved and overwritten bytes, which know of no structure."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        start = rng.randrange(len(out) + 1)
        end = min(len(out), start + rng.choice((1, 2, 4, 8, 64, 4096)))
        match rng.randrange(7):
            case 0 if start < len(out):
                out[start] ^= 1 << rng.randrange(8)
            case 1 if start < len(out):
                out[start] = rng.choice(
                    (0, 1, 0x7F, 0x80, 0xFF, 10, 27, 34, 123, rng.randrange(256))
                )
            case 2:
                del out[start:end]
            case 3:
                out[start:start] = out[start:end]
            case 4:
                del out[start:]
            case 5:
                size = end - start
                where = rng.randrange(len(out) + 1)
                out[where : where + size] = out[start:end]
            case _:
                out[start:start] = rng.randbytes(rng.choice((1, 2, 8, 100)))
    return bytes(out)


def json_text(data: bytes, rng: Random) -> bytes:
    """A JSON file with changes in its tree; of what is none, changed bytes."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return plain(data, rng)
    try:
        return dump_json(changed(tree, rng)).encode("utf-8", "surrogatepass")
    except RecursionError:
        return plain(data, rng)


def json_lines(data: bytes, rng: Random) -> bytes:
    """Lines of JSON, one of them changed, doubled, moved or lost."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            lines.insert(at, lines[rng.randrange(len(lines))])
        case 1:
            del lines[at]
        case 2:
            lines[at] = plain(lines[at], rng)
        case _:
            lines[at] = json_text(lines[at], rng)
    return b"\n".join(lines)


def toml_text(data: bytes, rng: Random) -> bytes:
    """A TOML file with changed lines or a changed tree."""
    if rng.randrange(3):
        return _toml_lines(data, rng)
    try:
        tree = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return plain(data, rng)
    try:
        top = changed(tree, rng)
        text = dump_toml(top) if isinstance(top, dict | Pairs) else dump_json(top)
    except (RecursionError, TypeError):  # a date is no JSON
        return plain(data, rng)
    return text.encode("utf-8", "surrogatepass")


def _toml_lines(data: bytes, rng: Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    key, equals, _ = lines[at].partition(b"=")
    match rng.randrange(8):
        case 0:
            lines.insert(at, lines[rng.randrange(len(lines))])
        case 1:
            del lines[at]
        case 2:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines[at] = plain(lines[at], rng)
        case 4:
            lines[at] = b"a." * rng.choice((1, 10, 100, 5000)) + lines[at]
        case _ if equals:
            value = dump_json(anything(rng)).encode("utf-8", "surrogatepass")
            lines[at] = key + b"= " + value
        case _:
            lines[at] = b"[" + dump_json(anything(rng)).encode("utf-8", "surrogatepass") + b"]"
    return b"\n".join(lines)


def csv_text(data: bytes, rng: Random) -> bytes:
    """A table with changed cells, lines and quotes."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    match rng.randrange(8):
        case 0:
            lines.insert(at, lines[rng.randrange(len(lines))])
        case 1:
            del lines[at]
        case 2:
            lines[at] = plain(lines[at], rng)
        case 3:
            lines[at] = rng.choice((b'"', b"\0", b"\r", b"\xff", b'""","', b'"' * 3)) + lines[at]
        case _:
            cells = lines[at].split(b",")
            cell = rng.randrange(len(cells))
            value = anything(rng)
            text = value if isinstance(value, str) else dump_json(value)
            cells[cell] = text.encode("utf-8", "surrogatepass")
            if not rng.randrange(3):
                cells[cell] = b'"' + cells[cell] + b'"'
            lines[at] = b",".join(cells)
    return b"\n".join(lines)


def changed(tree: Any, rng: Random) -> Any:
    """A copy of a tree in which one to three places are others."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        whole = tree
        tree = _replaced(tree, _somewhere(tree, rng), lambda old: _other(old, whole, rng))
    return tree


def _somewhere(tree: Any, rng: Random) -> tuple[Any, ...]:
    """A way down a tree that ends anywhere."""
    path: tuple[Any, ...] = ()
    while isinstance(tree, dict | list) and tree and len(path) < 30 and rng.random() < 0.85:
        key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        path, tree = (*path, key), tree[key]
    return path


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _replaced(tree: Any, path: tuple[Any, ...], make: Callable[[Any], Any]) -> Any:
    if not path:
        return make(tree)
    copied = dict(tree) if isinstance(tree, dict) else list(tree)
    copied[path[0]] = _replaced(tree[path[0]], path[1:], make)
    return copied


def _other(old: Any, tree: Any, rng: Random) -> Any:
    kind = rng.randrange(6)
    if kind == 0:
        return anything(rng)
    if kind == 1:
        return _at(tree, _somewhere(tree, rng))
    if isinstance(old, bool) or old is None:
        return anything(rng)
    if isinstance(old, int | float):
        return other_number(old, rng)
    if isinstance(old, str):
        return other_string(old, rng)
    if isinstance(old, dict) and old:
        return _other_object(old, rng)
    if isinstance(old, list) and old:
        index = rng.randrange(len(old))
        return rng.choice(
            ([*old, old[index]], old[:index], old[index + 1 :], old[::-1], old * 30,
             [*old[:index], anything(rng), *old[index:]], dict(enumerate_as_text(old)))
        )  # fmt: skip
    return anything(rng)


def _other_object(old: dict[str, Any], rng: Random) -> Any:
    key = rng.choice(list(old))
    match rng.randrange(6):
        case 0:
            return {k: v for k, v in old.items() if k != key}
        case 1:
            return {(other_string(k, rng) if k == key else k): v for k, v in old.items()}
        case 2:
            return Pairs((*old.items(), (key, anything(rng))))
        case 3:
            return {**old, other_string(key, rng): anything(rng)}
        case 4:
            return list(old.values())
        case _:
            return {**old, key: anything(rng)}


def enumerate_as_text(items: list[Any]) -> Iterator[tuple[str, Any]]:
    """A list as an object of positions."""
    return ((str(index), item) for index, item in enumerate(items[:100]))
