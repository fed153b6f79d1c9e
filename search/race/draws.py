"""Draws of errors about what is believed of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def lognormal(chance: np.random.Generator, means: Vector, spreads: Vector) -> Vector:
    """One draw for each of these means and relative standard deviations, shape (errors,)."""
    deviations = np.sqrt(np.log1p(spreads**2))
    drawn = means * np.exp(deviations * chance.standard_normal(len(means)) - deviations**2 / 2)
    return np.asarray(drawn)
