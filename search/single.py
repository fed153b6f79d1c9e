"""Single formats: the plans that give every unit the same one, and the best of them.

Most users would otherwise take one format for all layers, so the best such plan is what a mix has
to beat, beside one width for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from mixq.formats import Format
from mixq.plan_parts import EVERYWHERE
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.trials import Proposal

CLOSE: Final = 1.25
"""Times the least added error up to which another format may well be the better one: that is how
far whole plans are usually off what their layers add up to."""
MOST: Final = 3
"""Plans that are measured at most."""


def best_singles(
    problem: Problem, limits: Limits, besides: Sequence[Mapping[str, Format]] = ()
) -> list[Proposal]:
    """The single-format plans within the limits that add the least error, the least first.

    More than one where the tables do not tell them apart.

    Args:
        problem: units and their choices.
        limits: that they keep.
        besides: assignments that are measured in any case, and not proposed again.
    """
    fitting = []
    for proposal in single_proposals(problem):
        totals = problem.evaluate(proposal.assignment)
        if limits.allow(totals):
            fitting.append((totals.error, totals.weight_bytes, proposal.name, proposal))
    fitting.sort(key=lambda row: row[:3])
    close = [row[3] for row in fitting if row[0] <= CLOSE * fitting[0][0]]
    return [p for p in close[:MOST] if p.assignment not in besides]


def single_proposals(problem: Problem) -> list[Proposal]:
    """One plan for each format below 32 bits, named after it; equal ones once.

    A unit that may not take the format gets the nearest one at least as wide that it may, or else
    the widest; a tie that all of its units may.
    """
    together = {unit: item.formats for item in problem.items for unit in item.units}
    asked = (c.format for choices in problem.choices.values() for c in choices)
    proposals: list[Proposal] = []
    for fmt in dict.fromkeys(asked):
        if fmt.bits == 32:
            continue
        assignment = {unit: nearest(together[unit], fmt) for unit in problem.choices}
        if all(assignment != known.assignment for known in proposals):
            proposals.append(Proposal(f"{fmt.name}{EVERYWHERE}", "single", assignment))
    return proposals


def nearest(formats: Sequence[Format], fmt: Format) -> Format:
    """The format itself if it is among them, else the one most like it of the next width up."""

    def unlike(other: Format) -> tuple[bool, ...]:
        fields = ("activation", "grid", "group_size", "method", "bias_corrected")
        return tuple(getattr(other, name) != getattr(fmt, name) for name in fields)

    wide = [other for other in formats if other.bits >= fmt.bits]
    if wide:
        return min(wide, key=lambda other: (other.bits, unlike(other), other.name))
    return min(formats, key=lambda other: (-other.bits, unlike(other), other.name))
