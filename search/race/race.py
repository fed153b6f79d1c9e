"""Race: sensitivities from as few measurements as the plan needs.

All entries, formats of units, are sketched from gradients. What plans made from that may take is
measured on one sample, then what is still contested on two, four and so on, until other errors
that are as likely would no longer change the plan by much. Which units are fragile is mostly the
same on every sample, and most formats of most units are in no plan worth thinking of.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from mixq.calibration import Calibration
from mixq.errors import ModelError
from mixq.files import one_line
from mixq.rounding.rounder import Rounder
from mixq.search.analysis import Layout
from mixq.search.budget import Budget
from mixq.search.race.contest import Contest, contest, decisions
from mixq.search.race.evidence import Entry, Evidence
from mixq.search.race.meter import Meter
from mixq.sensitivity.device import moved
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.setting import Setting
from mixq.sensitivity.sketch import sketch
from mixq.sensitivity.table import SensitivityTable

if TYPE_CHECKING:
    from torch import nn

TOLERANCE: Final = 0.005
"""Of added error that a plan may lose, on average, by what is not known better."""
PROBES: Final = 8
"""Backward passes of the sketch, on as many samples if there are. A square of a random sum has
twice the variance of its squared mean, so sketches have a relative error of sqrt(2 / PROBES)."""

MANY: Final = 0.1
"""Share of new entries above which they are measured by themselves, and looked at, first."""
PILOT: Final = 16
"""Entries that are measured on a second sample first, to see how much samples differ at all."""

_log = logging.getLogger(__name__)


def race(
    layout: Layout,
    rounder: Rounder,
    calibration: Calibration,
    budget: Budget | None = None,
    setting: Setting | None = None,
) -> SensitivityTable:
    """Sensitivities, measured where a plan depends on them and sketched elsewhere.

    Args:
        layout: units, formats and prices.
        rounder: what the formats make of the weights.
        calibration: at most what is measured on.
        budget: what is demanded of the plan.
        setting: how the model is measured.

    Raises:
        MixqError: as `measure`.
    """
    setting = setting or Setting()
    entries = [(unit, fmt) for unit in rounder.units for fmt in layout.formats[unit]]
    model = moved(rounder.model, setting.device)
    meter = Meter(model, layout.model_fingerprint, rounder, calibration, setting)
    sketched = _sketched(model, layout, rounder, calibration, setting)
    evidence = Evidence(sketched, sketch_spread=math.sqrt(2 / PROBES))
    meter.measure([entry for entry in entries if entry not in sketched], 1, evidence)
    while True:
        table = meter.table(entries, evidence)
        problem = layout.problem(table)
        found = contest(problem, evidence.beliefs(), decisions(layout, problem, budget))
        wanted, level = _next(entries, found, evidence, meter.levels)
        if not wanted:
            return table
        meter.measure(wanted, level, evidence)


def _sketched(
    model: nn.Module,
    layout: Layout,
    rounder: Rounder,
    calibration: Calibration,
    setting: Setting,
) -> dict[Entry, Estimate]:
    """Sketches of what can be sketched; of nothing where the model cannot be differentiated."""
    part = calibration.take(min(PROBES, calibration.samples))
    probes = -(-PROBES // part.samples)
    try:
        found = sketch(
            model, part, rounder.units.values(), layout.formats, rounder,
            metric=setting.metric, probes=probes, progress=setting.progress,
        )  # fmt: skip
    except ModelError as error:
        _log.warning("every format of every layer is measured: %s", one_line(error, 300))
        return {}
    return {(unit, fmt): e for unit, row in found.items() for fmt, e in row.items()}


def _next(
    entries: Sequence[Entry], found: Contest, evidence: Evidence, levels: int
) -> tuple[list[Entry], int]:
    """What to measure next, and up to which level; nothing where nothing more would help.

    First whatever a plan may take; then, while it matters, what plans disagree about and is known
    from the fewest samples. In the order of `entries`, since sets have none of their own.
    """
    new = [e for e in entries if e in found.taken and evidence.level(e) == 0]
    known = [e for e in entries if e in found.contested and evidence.level(e) > 0]
    least = min(map(evidence.level, known), default=levels)
    if len(new) > MANY * len(found.taken) or found.regret <= TOLERANCE or least == levels:
        return new, 1
    behind = [entry for entry in known if evidence.level(entry) == least]
    if least == 1 and len(behind) > 2 * PILOT and not evidence.compares_samples:
        return [*new, *behind[:: len(behind) // PILOT][:PILOT]], 2
    return [*new, *behind], least + 1
