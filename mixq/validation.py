"""Refusals of data from outside, in one line."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mixq.errors import MixqError
from mixq.files import one_line, parse_json, read_bounded

M = TypeVar("M", bound=BaseModel)


def read_model(
    kind: type[M], path: str | Path, largest: int, error: type[MixqError], what: str
) -> M:
    """A JSON file as a pydantic model.

    Args:
        kind: of the model.
        path: of the file.
        largest: bytes that the file may have.
        error: what is raised.
        what: the file is, in words.

    Raises:
        MixqError: of the kind `error`, if the file is missing, too large, truncated, or breaks a
            rule of the model.
    """
    text = read_bounded(path, largest, error, what)
    try:
        return kind.model_validate(parse_json(text, error, f"{what} {path}"))
    except ValidationError as problem:
        raise error(f"{what} {path}: {first_problem(problem)}") from problem


def first_problem(error: ValidationError) -> str:
    """The first problem of a pydantic error in one line, with its place and what was found."""
    problem = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"]) or "the whole"
    message = problem["msg"].removeprefix("Value error, ")
    shown = problem["type"] not in ("missing", "value_error")
    found = f", got {short.repr(problem['input']):.60}" if shown else ""
    more = error.error_count() - 1
    rest = f" (and {more} more)" if more else ""
    return f"{one_line(place, 200)}: {one_line(message)}{found}{rest}"


# Unlike repr, it stops early: a value from outside may be 60 MB.
short = reprlib.Repr()
short.maxstring = short.maxother = short.maxlong = 60
