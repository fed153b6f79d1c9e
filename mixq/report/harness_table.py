"""Table of an evaluation on tasks."""

from __future__ import annotations

from rich.table import Table

from mixq.harness.evaluation import Evaluation
from mixq.harness.score import Score
from mixq.report.tables import number_text, plain

ARROWS = {True: "↑", False: "↓", None: ""}


def harness_table(evaluation: Evaluation) -> Table:
    """One row per task and metric: original, quantized, difference, and what to think of it."""
    settings = evaluation.settings
    compared = evaluation.original is not None
    table = Table(title=plain(", ".join(evaluation.tasks)))
    table.add_column("task", overflow="fold")
    table.add_column("metric", overflow="fold")
    table.add_column("documents", justify="right")
    for column in ("original", "quantized", "difference") if compared else ("quantized",):
        table.add_column(column, justify="right", no_wrap=True)
    if compared:
        table.add_column("")
    for score in evaluation.scores:
        named = score.metric if score.filter == "none" else f"{score.metric} ({score.filter})"
        cells = [_measured(score.value, score.standard_error)]
        if compared:
            cells = [
                _measured(score.original, score.original_standard_error),
                *cells,
                _measured(score.difference, score.difference_standard_error, sign=True),
                verdict(score),
            ]
        table.add_row(
            plain("  " * score.depth + score.task),
            plain(f"{named} {ARROWS[score.higher_is_better]}".rstrip()),
            f"{score.documents:,}",
            *cells,
        )
    some = "" if settings.limit is None else f"the first {settings.limit} documents of each; "
    alone = [s for s in evaluation.scores if compared and not s.paired]
    table.caption = plain(
        f"{some}± standard error"
        + ("; differences by document" if compared and len(alone) < len(evaluation.scores) else "")
    )
    return table


def verdict(score: Score) -> str:
    """What the difference means, in words."""
    if score.difference == 0:
        return "equal"
    if score.within_error is None:
        return ""
    if score.within_error:
        return "within 2 standard errors"
    if score.higher_is_better is None or score.difference is None:
        return "differs"
    return "better" if (score.difference > 0) == score.higher_is_better else "worse"


def _measured(value: float | None, error: float | None, *, sign: bool = False) -> str:
    shown = number_text(value, 4)
    if sign and value is not None and value > 0:
        shown = f"+{shown}"
    return shown if value is None or error is None else f"{shown} ± {number_text(error, 2)}"
