"""Fences of formulas as pictures: matplotlib's mathtext makes paths; no font or script loads.

GitHub renders the same fences, ```math, itself.
"""

from __future__ import annotations

from functools import cache
from html import escape
from typing import Any

from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextToPath

SIZE_PX = 17
PAD_PX = 3
COMMANDS = {
    int(Outline.MOVETO): ("M", 1),
    int(Outline.LINETO): ("L", 1),
    int(Outline.CURVE3): ("Q", 2),
    int(Outline.CURVE4): ("C", 3),
    int(Outline.CLOSEPOLY): ("Z", 1),
}
"""Code of a path's vertex: SVG's letter, and how many vertices it takes."""


@cache
def formula_svg(tex: str) -> str:
    """One formula in the subset of TeX that mathtext knows, in the colour of the text around.

    Raises:
        ValueError: if mathtext cannot read it.
    """
    display = tex.replace("\\frac", "\\dfrac")
    font = FontProperties(math_fontfamily="stix", size=SIZE_PX)  # type: ignore[arg-type]
    text_to_path = TextToPath()
    scale = SIZE_PX / text_to_path.FONT_SCALE
    vertices, codes = text_to_path.get_text_path(font, f"${display}$", ismath=True)
    points = [(x * scale, -y * scale) for x, y in vertices]
    pieces = []
    position = 0
    while position < len(points):
        letter, taken = COMMANDS[int(codes[position])]
        coordinates = points[position : position + taken] if letter != "Z" else []
        pieces.append(letter + " ".join(f"{x:.1f} {y:.1f}" for x, y in coordinates))
        position += taken
    left, right = min(x for x, _ in points) - PAD_PX, max(x for x, _ in points) + PAD_PX
    top, bottom = min(y for _, y in points) - PAD_PX, max(y for _, y in points) + PAD_PX
    width, height = right - left, bottom - top
    return (
        f'<svg class="formula" role="img" aria-label="{escape(tex)}" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="{left:.1f} {top:.1f} {width:.1f} {height:.1f}">'
        f'<path fill="currentColor" d="{"".join(pieces)}"/></svg>'
    )


def lines(source: str) -> list[str]:
    """Formulas of a fence, one for each line, with or without a double backslash at its end."""
    stripped = (line.strip().removesuffix("\\\\").strip() for line in source.splitlines())
    return [line for line in stripped if line]


def fence(source: str, *_: Any, **__: Any) -> str:
    """What pymdownx.superfences puts in a math fence's place."""
    rows = "".join(f"<p>{formula_svg(line)}</p>" for line in lines(source))
    return f'<div class="formulas">{rows}</div>'
