"""Families of chips and precisions of rows, as reports sort them."""

from __future__ import annotations

import re
from typing import Final

from mixq.predict.row import Row

FAMILIES: Final = (
    ("NVIDIA", r"[AH]\d00|sm\d0"),
    ("Apple", r"Apple"),
    ("Intel", r"Xeon|x86|Core i|Sapphire"),
    ("ARM", r""),
)
GOALS: Final = {"NVIDIA": 0.12, "Intel": 0.20, "ARM": 0.20, "Apple": 0.20}
"""Median errors of products that the project set itself."""


def family_of(row: Row) -> str:
    """The family of a row's chip."""
    return next(name for name, expression in FAMILIES if re.search(expression, row.chip))


def precision_of(row: Row) -> str:
    """Bits of weights and activations: `w4a8`."""
    activation_bits = "" if row.activation_bits is None else f"a{row.activation_bits:g}"
    return f"w{row.weight_bits:g}{activation_bits}"
