"""Story: what a search logs of what it does and why, for --verbose and for `logging` at large.

Nothing here changes a search, and nothing is put into words unless somebody listens.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from mixq.cost.table import CostTable
from mixq.files import one_line
from mixq.formats import Format
from mixq.search.analysis import Layout
from mixq.search.certificate import Certificate
from mixq.search.trials import Trial
from mixq.sensitivity.table import SensitivityTable

log = logging.getLogger("mixq.search")


def tell_layout(layout: Layout) -> None:
    """What was found in the model, and how many formats its units may take."""
    graph, costs = layout.graph, layout.costs
    log.info(
        "traced %d weight units, %s parameters, %s MACs at batch %d",
        len(graph.units), f"{graph.parameters:,}", f"{graph.macs:,}", graph.batch_size,
    )  # fmt: skip
    log.info(
        "%d candidate formats in all on %s with %s, %d threads; 32 bits take %.3f ms",
        sum(map(len, layout.formats.values())), costs.hardware, costs.runtime, costs.threads,
        costs.baseline_latency_s * 1e3,
    )  # fmt: skip


def tell_rounded(before: Layout, after: Layout) -> None:
    """Which candidates are left once their rounding and prices are known, and why."""
    if not log.isEnabledFor(logging.DEBUG):
        return
    offered, left = (sum(map(len, layout.formats.values())) for layout in (before, after))
    log.info("%d candidates left of %d unbeaten on bytes, time and error", left, offered)
    for unit, formats in after.formats.items():
        log.debug("%s may be %s", one_line(unit), ", ".join(fmt.name for fmt in formats))


def tell_sensitivity(table: SensitivityTable) -> None:
    """How sensitivities were found, and which layers matter most."""
    if not log.isEnabledFor(logging.DEBUG):
        return
    log.info("sensitivities are %s, in %s, of %d samples", table.mode, table.metric, table.samples)
    worst = {unit: max((e.error for e in row.values()), default=0.0)
             for unit, row in table.entries.items()}  # fmt: skip
    for unit in sorted(worst, key=lambda unit: (-worst[unit], unit))[:5]:
        log.debug("among the most sensitive: %s, up to %.2e", one_line(unit), worst[unit])
    for (unit, name), reason in table.refused.items():
        log.debug("%s cannot be %s: %s", one_line(unit), name, one_line(reason))


def tell_choice(chosen: Trial, trials: Sequence[Trial], certificate: Certificate) -> None:
    """Which of the measured plans was chosen, and what is proven of it."""
    if not log.isEnabledFor(logging.DEBUG):
        return
    judged = "held-out" if chosen.heldout_errors is not None else "calibration"
    for trial in sorted(trials, key=lambda trial: trial.judged_error):
        log.debug(
            "measured %s: %s bytes, %s error %.3e%s",
            trial.proposal.name, f"{trial.totals.weight_bytes:,}", judged, trial.judged_error,
            ", chosen" if trial is chosen else "",
        )  # fmt: skip
    log.info(
        "chose %s of %d measured plans; its added error is within %.2f%% of the best (%s)",
        chosen.proposal.name, len(trials), certificate.gap * 100, certificate.solver,
    )  # fmt: skip


def tell_kernels(costs: CostTable, assignment: Mapping[str, Format]) -> None:
    """Which kernel each unit of the plan runs in, and why that one."""
    if not log.isEnabledFor(logging.DEBUG):
        return
    counts = Counter(costs.cost(unit, fmt).kernel for unit, fmt in assignment.items())
    log.info("kernels: %s", ", ".join(f"{n} in {kernel}" for kernel, n in counts.most_common()))
    for unit, fmt in assignment.items():
        cost = costs.cost(unit, fmt)
        log.debug(
            "%s in %s: %s, %.1f us (%s)",
            one_line(unit), fmt.name, cost.kernel, cost.latency_s * 1e6, cost.reason,
        )  # fmt: skip
