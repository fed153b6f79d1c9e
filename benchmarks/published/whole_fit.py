"""Numbers of groups of whole models, fitted to their rows, and what models add to them.

A row is a sum over its operations (`mixq.predict.terms`), so what is fitted is a dozen numbers for
each group of rows: shares of the peaks by kind of operation, and overheads. Groups lie in circles
(precision and phase under any runtime, one runtime, on one chip, with one kernel and so many
threads); every circle's numbers lean on the next wider one's, by the robust least squares of
`mixq.cost.fit`.
What a model takes beyond its operations is then kept as an offset, shrunk towards none, for
predictions of that very model on other chips or in other precisions. Leaving a model out drops its
rows from all of that.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mixq.cost.fit import Prior, fit_parameters
from mixq.predict.efficiency import expectations
from mixq.predict.fitted import UNKNOWN_SPREAD, Fitted
from mixq.predict.terms import PARAMETERS, Efficiency, Sums
from published.whole_cases import Case, Result

TARGET = Path(__file__).parent.parent.parent / "mixq" / "predict" / "fitted.json"
NARROWER = {
    "gemm": (0.4, 0.25, 0.15), "conv": (0.4, 0.25, 0.15), "window": (0.4, 0.25, 0.15),
    "depthwise": (0.5, 0.3, 0.15), "attention": (0.4, 0.25, 0.1), "memory": (0.3, 0.2, 0.15),
    "norm": (0.5, 0.3, 0.15), "plain": (0.5, 0.3, 0.15), "fused": (0.6, 0.3, 0.15),
    "touch": (0.5, 0.3, 0.15), "overhead_s": (0.6, 0.4, 0.5), "call_s": (0.6, 0.4, 0.5),
    "parallel": (0.15, 0.1, 0.1),
}  # fmt: skip
"""How far a runtime's numbers stray from those of all, a chip's from its runtime's, and a kernel's
from its chip's: spreads of logarithms."""
LIMITS = dict.fromkeys(PARAMETERS, (1e-3, 1.0)) | {
    "touch": (0.01, 1e3), "overhead_s": (1e-8, 1e-2), "call_s": (1e-7, 1.0),
}  # fmt: skip
REPEATS = 0.5
"""Rows of one model weigh their number to the power of -0.5 each."""
OFFSET_ROWS = (4.0, 2.0, 1.0)
"""Rows that `no offset` counts for on each shelf (all devices of a kind, family, chip)."""
FURTHEST = 0.5
"""Largest residual that adds to an offset: more is a mistake in a table or another model."""


def fit(chosen: Sequence[Case]) -> Fitted:
    """Numbers of every circle that the cases reach, and the models' offsets."""
    numbers: dict[str, dict[str, float]] = {}
    sizes: dict[str, int] = {}
    for depth in range(4):
        circles: dict[str, list[Case]] = defaultdict(list)
        for case in chosen:
            circles[case.group.circles[depth]].append(case)
        for name, members in circles.items():
            sizes[name] = len(members)
            numbers[name] = _fit_circle(members, depth, numbers)
    found = {
        name: (*(values[each] for each in PARAMETERS), UNKNOWN_SPREAD, float(sizes[name]))
        for name, values in numbers.items()
    }
    return Fitted(found, _offsets(chosen, Fitted(found, {})))


def _fit_circle(
    members: Sequence[Case], depth: int, numbers: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    first = members[0]
    if depth == 0:
        priors = dict(expectations(first.row, gpu=first.terms.gpu))
    else:
        above = numbers[first.group.circles[depth - 1]]
        priors = {name: Prior(above[name], NARROWER[name][depth - 1]) for name in PARAMETERS}
    sums = Sums([case.terms for case in members])
    measured = np.log([case.measured_s for case in members])

    def errors(parameters: Mapping[str, float]) -> np.ndarray:
        return np.log(sums.seconds(Efficiency(**parameters))) - measured

    # Rows of one model (other batches, threads) err alike and are not as many witnesses.
    rows = Counter(case.model for case in members)
    weights = [rows[case.model] ** -REPEATS for case in members]
    return fit_parameters(errors, priors, weights=weights, limits=LIMITS)


def _offsets(chosen: Sequence[Case], found: Fitted) -> dict[str, float]:
    """What is left of each model's rows, shelf by shelf, shrunk towards none."""
    left = {id(case): -predict(found, case).log_error for case in chosen}
    offsets: dict[str, float] = {}
    for shelf, rows in enumerate(OFFSET_ROWS):
        by_name: dict[str, list[Case]] = defaultdict(list)
        for case in chosen:
            by_name[f"{case.group.shelves[shelf]} | {case.model}"].append(case)
        for name, members in by_name.items():
            total = sum(max(-FURTHEST, min(FURTHEST, left[id(case)])) for case in members)
            offsets[name] = total / (len(members) + rows)
            for case in members:
                left[id(case)] -= offsets[name]
    return offsets


def predict(found: Fitted, case: Case) -> Result:
    """The case as `mixq.predict.whole_models` would predict it."""
    known = found.known(case.group, case.model, case.expected)
    seconds = case.terms.seconds(known.efficiency) * math.exp(known.offset)
    return Result(case, seconds, known.depth)


def leave_out(chosen: Sequence[Case], key: Callable[[Case], object]) -> list[Result]:
    """Every case predicted from those of other keys."""
    results = []
    for each in sorted({str(key(case)) for case in chosen}):
        held = [case for case in chosen if str(key(case)) == each]
        kinds = {case.group.kind for case in held}  # circles of other kinds stay as they are
        rest = [case for case in chosen if str(key(case)) != each and case.group.kind in kinds]
        found = fit(rest)
        results += [predict(found, case) for case in held]
    return results


def with_spreads(found: Fitted, results: Sequence[Result]) -> Fitted:
    """The same with the spread of each circle's models when they were left out."""
    errors: dict[str, list[float]] = defaultdict(list)
    for result in results:
        for name in result.case.group.circles[: max(1, result.depth)]:
            errors[name].append(result.log_error)
    circles = {}
    for name, values in found.circles.items():
        family = name.split(" @ ")[0]
        wide = name.startswith("any ") or name == family
        expected = UNKNOWN_SPREAD if wide else _spread(errors[family], UNKNOWN_SPREAD)
        circles[name] = (*values[:-2], _spread(errors[name], expected), values[-1])
    return Fitted(circles, found.offsets)


def _spread(errors: Sequence[float], expected: float) -> float:
    """Root mean square, drawn to what is expected by four rows' worth; wild rows count as e."""
    total = sum(min(abs(error), 1.0) ** 2 for error in errors)
    return math.sqrt((4 * expected**2 + total) / (4 + len(errors)))


def write(found: Fitted) -> None:
    """`fitted.json`, one circle a line."""
    circles = {
        name: [float(f"{value:.4g}") for value in values]
        for name, values in sorted(found.circles.items())
    }
    offsets = {
        name: round(value, 3)
        for name, value in sorted(found.offsets.items())
        if abs(value) >= 5e-4
    }
    about = f"benchmarks/whole_models.py --write: {', '.join(PARAMETERS)}, spread, points"
    TARGET.write_text(
        f'{{"about":{json.dumps(about)},\n"circles":{_lines(circles)},\n'
        f'"offsets":{_lines(offsets)}}}\n'
    )


def _lines(table: Mapping[str, object]) -> str:
    rows = [
        f"{json.dumps(name)}:{json.dumps(value, separators=(',', ':'))}"
        for name, value in table.items()
    ]
    return "{\n" + ",\n".join(rows) + "\n}"
