"""What is wrong with a profile file, in one line: file, line, key, value, rule, way out."""

from __future__ import annotations

from pydantic import ValidationError

from mixq.errors import ProfileError
from mixq.profiles.document import Document
from mixq.profiles.lines import Path


class BrokenRuleError(ValueError):
    """A rule over several keys, broken at one of them.

    Attributes:
        path: of that key, from the tables that were checked.
    """

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path: Path = path


def problem_of(error: ValidationError, document: Document) -> ProfileError:
    """The first problem, where it stands, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    path: Path = tuple(first["loc"])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, BrokenRuleError):
        path = (*path, *cause.path)
    layer, place = document.at(path)
    message = " ".join(first["msg"].removeprefix("Value error, ").split())[:300]
    message = "is missing; write it" if first["type"] == "missing" else message
    given = first["input"]
    # Python refuses to print integers of thousands of digits; the rule says enough then.
    printable = isinstance(given, str | float) or (isinstance(given, int) and abs(given) < 10**40)
    value = f" (got {str(given)[:40]!r})" if printable else ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return layer.says(place, f"{_key(document, path)}: {message}{value}{more}")


def _key(document: Document, path: Path) -> str:
    """The path in words; a kernel by its number in its file, from 1, and its name."""
    parts = [str(part)[:40] for part in path]
    if len(path) >= 4 and path[0] == "runtime" and path[2] == "kernel":
        _, place = document.at(path)
        runtimes = document.content.get("runtime", {})
        try:
            name = runtimes[path[1]]["kernel"][path[3]]["name"]
        except (KeyError, IndexError, TypeError):
            name = None
        number = int(place[3]) + 1 if isinstance(place[3], int) else place[3]
        named = f" ({name[:40]!r})" if isinstance(name, str) else ""
        head = f"runtime.{parts[1]}.kernel number {number}{named}"
        return " ".join([head, ".".join(parts[4:])]) if parts[4:] else head
    return ".".join(parts) or "the file"
