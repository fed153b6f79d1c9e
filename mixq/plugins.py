"""Plugins: what packages outside mixq bring, found by name when it is asked for, never before."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from functools import cache
from importlib import import_module, metadata
from typing import Any, Final

from mixq.errors import MixqError, PluginError, UsageError
from mixq.files import one_line

LONGEST: Final = 32
"""Characters of a name."""
_REGISTERED: Final = "registered by a call"


class Plugins:
    """One kind of thing by name: mixq's own, those of packages, those that a call registered.

    A package names its own as an entry point, `name = "module:attribute"`, in the group of the
    kind. What exists is read from the metadata of packages; a module is imported when its thing
    is asked for. A name of mixq's own always means mixq's own.

    Args:
        group: of entry points, such as `mixq.runtimes`.
        what: one of them in words, for messages.
        own: mixq's own, name to `module:attribute`.
        pattern: that names match.
        reserved: words that are no names.
    """

    def __init__(
        self,
        group: str,
        what: str,
        own: Mapping[str, str],
        *,
        pattern: str,
        reserved: Collection[str] = (),
    ) -> None:
        self.group = group
        self.what = what
        self.own = own
        self._pattern = re.compile(pattern)
        self._reserved = frozenset(reserved)
        self._registered: dict[str, Any] = {}

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.own or name in self._others())

    def names(self) -> tuple[str, ...]:
        """Every name that can be asked for, mixq's own first."""
        return (*self.own, *sorted(self._others() - set(self.own)))

    def register(self, name: str, thing: Any) -> None:
        """Make something known to this process alone; a later call replaces it.

        Raises:
            UsageError: if the name is mixq's own, or none at all.
        """
        if name in self.own or not self._is_name(name):
            raise UsageError(f"{self.what} cannot be called {name!r:.60}: {self._rule()}")
        self._registered[name] = thing

    def load(self, name: str) -> Any:
        """What a name stands for.

        Raises:
            UsageError: if nothing has that name.
            PluginError: if two packages claim it, or its package cannot be imported.
        """
        if name in self.own:
            module, _, attribute = self.own[name].partition(":")
            return getattr(import_module(module), attribute)
        if name in self._registered:
            return self._registered[name]
        found = self._points(name)
        if not found:
            raise UsageError(
                f"{self.what} {name!r:.60} is unknown; choose one of {', '.join(self.names())}, "
                f"or install the package that brings it (as an entry point of {self.group})"
            )
        if len(found) > 1:
            raise PluginError(
                f"{self.what} {name!r:.60} is claimed by {' and '.join(map(_package, found))}; "
                "uninstall one of them"
            )
        if not self._is_name(name):
            raise PluginError(
                f"{self.what} {name!r:.60} of package {_package(found[0])} cannot be called "
                f"that: {self._rule()}"
            )
        try:
            return found[0].load()
        except MixqError:
            raise
        except Exception as error:  # a package may raise anything while it is imported
            raise PluginError(
                f"{self.what} {name!r:.60} of package {_package(found[0])} does not load from "
                f"{one_line(found[0].value, 100)}: {type(error).__name__}: {one_line(error, 200)};"
                " mend or uninstall that package"
            ) from error

    def origin(self, name: str) -> str:
        """Where something comes from, such as `mixq-descent 0.1`; empty for mixq's own.

        Part of the keys of what is kept on disk, so that another version computes anew.
        """
        if name in self.own:
            return ""
        if name in self._registered:
            return _REGISTERED
        return " and ".join(map(_package, self._points(name)))

    def _others(self) -> set[str]:
        points = {point.name for point in _points_of(self.group, tuple(sys.path))}
        return {name for name in points if self._is_name(name)} | set(self._registered)

    def _points(self, name: str) -> list[metadata.EntryPoint]:
        points = _points_of(self.group, tuple(sys.path))
        return [point for point in points if point.name == name]

    def _is_name(self, name: str) -> bool:
        fits = len(name) <= LONGEST and self._pattern.fullmatch(name) is not None
        return fits and name not in self._reserved

    def _rule(self) -> str:
        taken = ", ".join(sorted({*self.own, *self._reserved}))
        return (
            f"a name has up to {LONGEST} characters of {self._pattern.pattern}, and is none of "
            f"{taken}; choose another"
        )


@cache
def _points_of(group: str, path: tuple[str, ...]) -> tuple[metadata.EntryPoint, ...]:
    """Entry points of a group; `path` is sys.path, with which they change."""
    return tuple(dict.fromkeys(metadata.entry_points(group=group)))


def _package(point: metadata.EntryPoint) -> str:
    """Name and version of the package that has an entry point."""
    found = point.dist
    return one_line(f"{found.name} {found.version}" if found else point.value, 100)
