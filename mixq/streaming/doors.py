"""Doors: where a forward pass stops before each part that it calls, and asks for its output."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from mixq.errors import ModelError
from mixq.streaming.parts import Part

Visit: TypeAlias = Callable[[Part, tuple[Any, ...], dict[str, Any]], object]
"""Gives the output of a part for the arguments of its call."""


class Doors:
    """In place of the `forward` of parts, while they are closed: each thread has its visitor."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._here = threading.local()

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Calls of parts go to the visitor of the thread that makes them."""
        try:
            for part in self._parts:
                part.module.forward = self._door(part)
            yield
        finally:
            for part in self._parts:
                part.module.__dict__.pop("forward", None)

    @contextlib.contextmanager
    def opened(self, part: Part) -> Iterator[None]:
        """Calls of this part go to the part itself."""
        door = part.module.__dict__.pop("forward", None)
        try:
            yield
        finally:
            if door is not None:
                part.module.forward = door

    @contextlib.contextmanager
    def visited_by(self, visit: Visit) -> Iterator[None]:
        """Within this thread."""
        self._here.visit = visit
        try:
            yield
        finally:
            self._here.visit = None

    def _door(self, part: Part) -> Callable[..., object]:
        def forward(*args: Any, **kwargs: Any) -> object:
            visit: Visit | None = getattr(self._here, "visit", None)
            if visit is None:
                raise ModelError(
                    f"{part.path} is called from within another part, whose weights are in place "
                    "alone; analyze this model without --stream"
                )
            return visit(part, args, kwargs)

        return forward
