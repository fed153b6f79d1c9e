"""Refusals of data from outside, in one line."""

from __future__ import annotations

import reprlib

from pydantic import ValidationError

from mixq.files import one_line


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
