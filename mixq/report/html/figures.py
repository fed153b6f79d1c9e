"""Figures: numbers as a reader wants them, in words of three digits."""

from __future__ import annotations

import math
from typing import Final

ALIKE: Final = 0.02
"""Share by which a speed-up may differ from 1 and still be none."""


def bytes_text(count: float) -> str:
    """`2.68 MB`, `156 kB`, `12 B`: units of powers of ten."""
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= scale * 0.9995:
            return f"{_three(count / scale)} {unit}"
    return f"{count:.0f} B"


def time_text(seconds: float) -> str:
    """`1.2 s`, `3.11 ms`, `147 µs`."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= scale * 0.9995:
            return f"{_three(seconds / scale)} {unit}"
    return f"{_three(seconds * 1e6)} µs"


def ratio_text(ratio: float) -> str:
    """`6.1x`: one decimal, or none from 100."""
    return f"{ratio:.0f}x" if ratio >= 99.95 else f"{ratio:.1f}x"


def speed_text(ratio: float) -> str:
    """A speed-up over fp32 in words; within 2% it is none."""
    if abs(ratio - 1) < ALIKE:
        return "as fast as"
    precise = max(ratio, 1 / ratio)
    shown = f"{precise:.2f}x" if precise < 1.15 else ratio_text(precise)
    return f"{shown} faster than" if ratio > 1 else f"{shown} slower than"


def percent_up(share: float) -> str:
    """A share in percent with one decimal, never rounded down."""
    return f"{math.ceil(round(share * 1000, 6)) / 10:.1f}%"


def number(value: float | None, digits: int = 3) -> str:
    """A number in so many digits; a dash for none."""
    if value is None:
        return "-"
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        digitless = f"{float(mantissa):g}"
        return f"{digitless}e{int(power)}"
    return f"{value:.{digits}g}"


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"
