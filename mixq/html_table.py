"""Plain HTML tables for notebooks: escaped, short, and readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from mixq.files import one_line

MOST_ROWS: Final = 30
"""Rows that are shown; a notebook keeps every output, and nobody scrolls through a thousand."""
_TABLE: Final = "border-collapse:collapse;background:none;margin:.3em 0 .8em"
_CELL: Final = "padding:.15em .6em;border-bottom:1px solid rgba(128,128,128,.35)"
_NUMBER: Final = "text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap"
_CAPTION: Final = "caption-side:bottom;text-align:left;padding:.4em .6em;opacity:.75"
WIDTHS: Final = {32: "#7f7f7f", 16: "#0e9aa7", 8: "#2f9e44", 4: "#cc7a00", 2: "#e03131"}
"""Colours of widths, all with a contrast of 3 or more on white and on #111: the marks beside names
of formats, whose text keeps the page's own colour."""


class Html(str):
    """Text that is HTML already, made of escaped parts."""

    __slots__ = ()


def html_text(value: object) -> Html:
    """A value as HTML: control characters and markup in it are shown, not obeyed."""
    return value if isinstance(value, Html) else Html(escape(one_line(value)))


def format_cell(name: str, bits: int) -> Html:
    """The name of a format with a mark in the colour of its width."""
    colour = WIDTHS.get(bits, WIDTHS[32])
    mark = f'<span style="color:{colour}" aria-hidden="true">&#9632;</span>'
    return Html(f"{mark} {html_text(name)}")


def html_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    caption: str = "",
    total: int | None = None,
    see_all: str = "",
    most: int = MOST_ROWS,
    names: int = 1,
) -> Html:
    """A table of HTML without scripts or classes, so that it looks the same wherever it is kept.

    Colours come from the page, with the marks of widths and grey lines alone of its own.

    Args:
        columns: names.
        rows: of as many values; taken no further than `most` and once. What is not `Html` is
            escaped.
        title: above.
        caption: below.
        total: how many rows there are, if not all are given or `rows` is longer than `most`.
        see_all: how to see all rows, in the line that says how many more there are.
        most: rows to show.
        names: columns at the start that hold text; those behind them are aligned as numbers.
    """
    shown = []
    for index, row in enumerate(rows):
        if index == most:
            break
        shown.append(_row("td", row, names))
    more = (len(shown) if total is None else total) - len(shown)
    if more > 0:
        line = f"and {more:,} more" + (f": {see_all}" if see_all else "")
        shown.append(
            f'<tr><td colspan="{len(columns)}" style="{_CELL};opacity:.75">'
            f"{html_text(line)}</td></tr>"
        )
    head = f"<thead>{_row('th', columns, names)}</thead>"
    titled = f"<div><strong>{html_text(title)}</strong></div>" if title else ""
    below = f'<caption style="{_CAPTION}">{html_text(caption)}</caption>' if caption else ""
    return Html(
        f'{titled}<table style="{_TABLE}">{below}{head}<tbody>{"".join(shown)}</tbody></table>'
    )


def html_block(*parts: Html) -> str:
    """Parts below each other, scrolled sideways where a page is narrow."""
    return f'<div style="overflow-x:auto">{"".join(parts)}</div>'


def html_lines(*lines: str) -> Html:
    """Lines of text."""
    return Html("".join(f'<div style="margin:.2em 0">{html_text(line)}</div>' for line in lines))


def _row(kind: str, values: Sequence[object], names: int) -> str:
    cells = []
    for index, value in enumerate(values):
        aligned = "text-align:left" if index < names else _NUMBER
        cells.append(f'<{kind} style="{_CELL};{aligned}">{html_text(value)}</{kind}>')
    return f'<tr style="background:none">{"".join(cells)}</tr>'
