"""Pages that plotly wrote, read again."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    """Tags with their attributes, and the text of every script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.title = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script":
            self.scripts.append(data)
        if self.lasttag == "title":
            self.title += data

    def figure(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Traces and layout, as they are handed to plotly.js."""
        script = next(text for text in reversed(self.scripts) if "Plotly.newPlot(" in text)
        rest = script.partition("Plotly.newPlot(")[2]
        decoder = json.JSONDecoder()
        values = []
        for _ in range(3):
            value, end = decoder.raw_decode(rest.lstrip(" \n,"))
            rest = rest.lstrip(" \n,")[end:]
            values.append(value)
        return values[1], values[2]
