"""Scores: every metric of the harness's results, original beside quantized."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mixq.harness.jackknife import Aggregate, difference_error, standard_error
from mixq.harness.score import Score
from mixq.harness.tasks import Tasks

STDERR: Final = "_stderr"


def scores(
    tasks: Tasks, quantized: Mapping[str, Any], original: Mapping[str, Any] | None
) -> tuple[Score, ...]:
    """Groups before their members, tasks in the order in which they were asked for."""
    found: dict[tuple[str, str, str], Score] = {}
    for name, task in tasks.leaves.items():
        for score in _of_task(name, task, quantized, original):
            found[score.task, score.metric, score.filter] = score
    ordered: list[Score] = []
    for root in tasks.roots:
        ordered += _below(root, 0, found, quantized, original)
    return tuple(ordered)


def _of_task(
    name: str, task: Any, quantized: Mapping[str, Any], original: Mapping[str, Any] | None
) -> Iterator[Score]:
    aggregations: Mapping[str, Aggregate] = task.aggregation()
    better: Mapping[str, bool | None] = task.higher_is_better()
    for metric, used, value in _metrics(quantized["results"][name]):
        aggregate = aggregations.get(metric, _mean)
        after = _values(quantized, name, metric, used)
        error = _error(quantized, name, metric, used)
        if error is None:
            error = standard_error(list(after.values()), aggregate)
        common = {
            "task": name, "metric": metric, "filter": used, "depth": 0, "documents": len(after),
            "higher_is_better": better.get(metric), "value": value, "standard_error": error,
        }  # fmt: skip
        if original is None:
            yield Score(**common)  # type: ignore[arg-type]
            continue
        before = _values(original, name, metric, used)
        was = _number(original["results"][name].get(f"{metric},{used}"))
        was_error = _error(original, name, metric, used)
        if was_error is None:
            was_error = standard_error(list(before.values()), aggregate)
        paired = bool(after) and list(before) == list(after)
        between = (
            difference_error(list(before.values()), list(after.values()), aggregate)
            if paired
            else _apart(error, was_error)
        )
        yield Score(
            **common, original=was, original_standard_error=was_error,  # type: ignore[arg-type]
            difference=None if value is None or was is None else value - was,
            difference_standard_error=between, paired=paired and between is not None,
        )  # fmt: skip


def _below(
    root: Any,
    depth: int,
    found: Mapping[tuple[str, str, str], Score],
    quantized: Mapping[str, Any],
    original: Mapping[str, Any] | None,
) -> Iterator[Score]:
    """Scores of a task, or of a group and its members."""
    members = getattr(root, "get_all_tasks", None)
    if members is None:
        name = root.task_name
        yield from (replace(s, depth=depth) for key, s in found.items() if key[0] == name)
        return
    weights = {a.metric: a.weight_by_size for a in root.aggregate_metric_list or ()}
    for metric, used, value in _metrics(quantized["results"].get(root.name, {})):
        leaves = [
            found[key] for task in members() if (key := (task.task_name, metric, used)) in found
        ]
        was = None
        if original is not None:
            was = _number(original["results"].get(root.name, {}).get(f"{metric},{used}"))
        between = _pooled(leaves, by_size=weights.get(metric, True))
        yield Score(
            task=root.name, metric=metric, filter=used, depth=depth,
            documents=sum(leaf.documents for leaf in leaves),
            higher_is_better=leaves[0].higher_is_better if leaves else None,
            value=value, standard_error=_error(quantized, root.name, metric, used), original=was,
            original_standard_error=(
                None if original is None else _error(original, root.name, metric, used)
            ),
            difference=None if value is None or was is None else value - was,
            difference_standard_error=None if was is None else between,
            paired=was is not None and all(leaf.paired for leaf in leaves),
        )  # fmt: skip
    for member in root:
        yield from _below(member, depth + 1, found, quantized, original)


def _pooled(leaves: Sequence[Score], *, by_size: bool) -> float | None:
    """Standard error of a mean of independent tasks' differences, weighed as the group weighs."""
    errors = [leaf.difference_standard_error for leaf in leaves]
    known = [error for error in errors if error is not None]
    if not known or len(known) < len(errors):
        return None
    weights = [float(leaf.documents) if by_size else 1.0 for leaf in leaves]
    total = sum(weights)
    return math.sqrt(sum((w * e) ** 2 for w, e in zip(weights, known, strict=True))) / total


def _metrics(values: Mapping[str, Any]) -> Iterator[tuple[str, str, float | None]]:
    for key, value in values.items():
        metric, comma, used = key.partition(",")
        if comma and not metric.endswith(STDERR):
            yield metric, used, _number(value)


def _values(results: Mapping[str, Any], name: str, metric: str, used: str) -> dict[str, Any]:
    """What each document gave, by its number and contents."""
    return {
        f"{sample['doc_id']}:{sample['doc_hash']}": sample[metric]
        for sample in results["samples"][name]
        if sample["filter"] == used and metric in sample
    }


def _error(results: Mapping[str, Any], name: str, metric: str, used: str) -> float | None:
    return _number(results["results"].get(name, {}).get(f"{metric}{STDERR},{used}"))


def _apart(first: float | None, second: float | None) -> float | None:
    """Of a difference of independent values."""
    return None if first is None or second is None else math.hypot(first, second)


def _number(value: object) -> float | None:
    """Numbers that a task made; the harness writes N/A where there is none."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _mean(values: list[Any]) -> float:
    return float(sum(values) / len(values))
