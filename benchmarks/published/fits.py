"""Every kernel fitted with priors that lean towards its relatives.

Each (profile, runtime, kernel, weight bits, activation bits) is fitted twice: by itself with the
wide priors of its kind, then again with priors drawn towards what the first fits of its relatives
say: other widths of the kernel on the chip, the kernel on other chips, kernels of the kind. A
kernel of many points hardly notices; one of a single point mostly is what its relatives are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mixq.cost.fit import Fitted, Point, Prior, fit_kernel
from mixq.cost.law import parts
from mixq.predict.products import baseline_row, product_of
from mixq.predict.row import RATIO, Row
from published.groups import Group, Key

OWN_WEIGHT: Final = 0.5
"""What the kind's own centre weighs against relatives, whose weights are `kinship` at most."""
NARROWEST: Final = 0.5
"""Share of the kind's spread that no number of relatives goes below: kernels do differ."""
FEW_POINTS: Final = 3
"""Points at which a relative has half a say."""
FIRST_SPREAD: Final = 0.15
"""Expected spread of a kernel's residuals before its relatives were seen."""


def everything(group: Group, row: Row) -> bool:
    """Keeps all rows."""
    del group, row
    return True


class Fits:
    """Fits of all groups; first fits are remembered, since most stay the same without a shape."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups
        self._first: dict[tuple[Key, tuple[int, ...], float], Fitted] = {}

    def fit(
        self, kept: Callable[[Group, Row], bool] = everything, profile: str | None = None
    ) -> dict[Key, Fitted]:
        """The fitted kernel of every group that has rows left.

        Args:
            kept: rows that may be seen.
            profile: the only profile whose kernels are wanted; relatives are of any.
        """
        first: dict[Key, Fitted] = {}
        points: dict[Key, list[Point]] = {}
        # Speed-ups become seconds by the fp16 product of their chip, so they come last.
        for group in sorted(self.groups, key=lambda group: group.rows[0].unit == RATIO):
            rows = [row for row in group.rows if kept(group, row)]
            seen = [self._point(group, row, first) for row in rows]
            usable = [point for point in seen if point is not None]
            if not usable:
                continue
            points[group.key] = usable
            mark = (
                group.key,
                tuple(row.line for row in rows),
                math.fsum(point.measured_s for point in usable),
            )
            if mark not in self._first:
                self._first[mark] = fit_kernel(
                    usable, group.start, group.priors, spread=FIRST_SPREAD
                )
            first[group.key] = self._first[mark]
        fits = {}
        for group in self.groups:
            if group.key in first and profile in (None, group.profile.name):
                priors, spread = pooled(group, self.groups, first)
                fits[group.key] = fit_kernel(points[group.key], group.start, priors, spread=spread)
        return fits

    def _point(self, group: Group, row: Row, first: Mapping[Key, Fitted]) -> Point | None:
        """The row with its measured seconds; None if a speed-up has nothing to divide."""
        if row.unit != RATIO:
            measured_s = row.seconds()
        else:
            base_s = self._baseline_s(group, row, first)
            measured_s = None if base_s is None or row.value is None else base_s / row.value
        if measured_s is None:
            return None
        return product_of(group.profile, group.runtime, row).point(measured_s)

    def _baseline_s(self, group: Group, row: Row, fits: Mapping[Key, Fitted]) -> float | None:
        base = baseline_row(row)
        for other in self.groups:
            asked = (group.profile.name, base.runtime, base.kernel)
            if other.key[:3] == asked and other.key in fits:
                product = product_of(other.profile, other.runtime, base)
                kernel = fits[other.key].kernel
                return parts(product.machine, kernel, product.work, product.load).latency_s
        return None


def pooled(
    group: Group, groups: Sequence[Group], first: Mapping[Key, Fitted]
) -> tuple[dict[str, Prior], float]:
    """Priors of a group's parameters and its spread: its kind's, drawn towards its relatives'."""
    kin = [
        (weight * fitted.kernel.points / (fitted.kernel.points + FEW_POINTS), other, fitted)
        for other in groups
        if other.key != group.key and other.key in first and (weight := kinship(group, other))
        for fitted in [first[other.key]]
    ]
    total = OWN_WEIGHT + sum(weight for weight, _, _ in kin)
    narrowed = max(NARROWEST, math.sqrt(OWN_WEIGHT / total))
    priors = {}
    for name, prior in group.priors.items():
        centre = OWN_WEIGHT * math.log(prior.centre) + sum(
            weight * math.log(getattr(fitted.kernel, name) * scale_of(name, other, group))
            for weight, other, fitted in kin
        )
        priors[name] = Prior(math.exp(centre / total), prior.spread * narrowed)
    variance = OWN_WEIGHT * FIRST_SPREAD**2 + sum(
        weight * _mean_square(fitted.residuals) for weight, _, fitted in kin
    )
    return priors, math.sqrt(variance / total)


def _mean_square(residuals: Sequence[float]) -> float:
    """Of what a relative's fit is off, one parameter taken away."""
    return sum(value**2 for value in residuals) / max(1, len(residuals) - 1)


def scale_of(name: str, other: Group, group: Group) -> float:
    """What a parameter of another chip's kernel is multiplied by to hold on this chip."""
    if name != "unpack_s_per_weight":
        return 1.0
    return other.profile.dram_bytes_per_s / group.profile.dram_bytes_per_s


def kinship(group: Group, other: Group) -> float:
    """How much another group says about this one, 0..1."""
    if group.kind.name != other.kind.name or group.start.compute != other.start.compute:
        return 0.0
    same_chip = group.profile.name == other.profile.name
    if group.key[1:3] == other.key[1:3]:
        return 1.0 if same_chip else 0.5
    return 0.3 if same_chip else 0.05
