"""How results of a search are shown in a notebook, and as rows for data frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from mixq.html_table import Html, html_block, html_lines, html_table, html_text
from mixq.search.trials import Trial

if TYPE_CHECKING:
    from mixq.search.frontier import Frontier
    from mixq.search.result import SearchResult

POINT_COLUMNS: Final = {
    "weight_bytes": "int64",
    "compression": "float64",
    "error": "float64",
    "gap": "float64",
}
"""Columns of `Frontier.to_pandas()`: bytes stored, original bytes over them, added error, and by
which share at most a plan of less error may exist up to the next point."""
TRIAL_COLUMNS: Final = {
    "name": "str",
    "kind": "str",
    "chosen": "bool",
    "weight_bytes": "int64",
    "compression": "float64",
    "latency_s": "float64",
    "peak_memory_bytes": "int64",
    "added_error": "float64",
    "error": "float64",
    "error_se": "float64",
    "heldout_error": "float64",
    "heldout_error_se": "float64",
}
"""Columns of `SearchResult.to_pandas()`: what the tables predict of a measured plan (up to
`added_error`), and what it errs as a whole on calibration and on held-out samples."""
MOST_POINTS: Final = 12
"""Points of a frontier that are shown in a notebook, evenly among all."""


def point_rows(frontier: Frontier) -> Iterator[tuple[object, ...]]:
    """One row per point with `POINT_COLUMNS`."""
    original = frontier.problem.original_bytes
    columns = (frontier.weight_bytes, frontier.errors, frontier.gaps)
    for size, error, gap in zip(*(column.tolist() for column in columns), strict=True):
        yield (size, original / size, error, gap)


def trial_row(trial: Trial, chosen: Trial) -> tuple[object, ...]:
    """A measured plan with `TRIAL_COLUMNS`."""
    totals, measured, heldout = trial.totals, trial.measured, trial.heldout
    return (
        trial.proposal.name, trial.proposal.kind, trial is chosen, totals.weight_bytes,
        totals.compression, totals.latency_s, totals.peak_memory_bytes, totals.error,
        measured.error, measured.error_se,
        *((None, None) if heldout is None else (heldout.error, heldout.error_se)),
    )  # fmt: skip


def frontier_html(frontier: Frontier) -> str:
    """A few of its points, evenly spread."""
    count = len(frontier)
    shown = sorted({round(i * (count - 1) / (MOST_POINTS - 1)) for i in range(MOST_POINTS)})
    points = [frontier.point(index) for index in shown]
    original = frontier.problem.original_bytes
    return html_block(
        html_table(
            ("point", "bytes", "compression", "added error"),
            (
                (
                    p.index, f"{p.weight_bytes:,}", f"{original / p.weight_bytes:.2f}",
                    f"{p.error:.3e}",
                )
                for p in points
            ),
            title=f"frontier of {count:,} points, {'exact' if frontier.exact else 'a curve'}",
            total=count,
            see_all="to_pandas() has all of them, assignment(point) the formats of one",
            names=0,
        )
    )  # fmt: skip


def result_html(result: SearchResult) -> str:
    """The plan, and below it the measured plans, the best first."""
    trials = sorted(result.trials, key=lambda trial: trial.judged_error)
    judged = "held-out error" if result.chosen.heldout_errors is not None else "error"
    measured = html_table(
        ("measured plan", "bytes", "compression", "latency ms", judged),
        (
            (
                Html(f"<strong>{named}</strong>") if trial is result.chosen else named,
                f"{trial.totals.weight_bytes:,}", f"{trial.totals.compression:.2f}",
                f"{trial.totals.latency_s * 1e3:.3f}", f"{trial.judged_error:.3g}",
            )
            for trial in trials
            for named in [html_text(trial.proposal.name)]
        ),
        total=len(trials),
        see_all="to_pandas() has all of them",
        most=12,
    )  # fmt: skip
    notes = html_lines(*(f"note: {note}" for note in result.plan.notes))
    return html_block(Html(result.plan._repr_html_()), notes, measured)
