"""Fit of whole models to published measurements, and how well models that were left out are predicted.

    python benchmarks/whole_models.py                 # leave one model out; tables on stdout
    python benchmarks/whole_models.py --keep-elsewhere  # leave out one model on one chip in one family
    python benchmarks/whole_models.py --write         # fit to all rows; writes mixq/predict/fitted.json

A row is a sum over its operations (`mixq.predict.terms`), so what is fitted is a dozen numbers for each
group of rows: shares of the peaks by kind of operation, and overheads. Groups lie in circles (family of
runtime and precision, the same on one chip, the same with one kernel and thread count); every circle's
numbers lean on the next wider one's, by the robust least squares of `mixq.cost.fit`. What a model takes
beyond its operations is then kept as an offset, shrunk towards none, for predictions of that very model on
other chips or in other precisions. Leaving a model out drops its rows from all of that.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from mixq.cost.fit import Prior, fit_parameters
from mixq.errors import MixqError
from mixq.predict.chips import chip_of
from mixq.predict.agreement import rank_correlation
from mixq.predict.efficiency import Group, expectations, expected_efficiency, group_of
from mixq.predict.fitted import UNKNOWN_SPREAD, Fitted
from mixq.predict.row import RATIO, Row
from mixq.predict.rows import read_rows
from mixq.predict.terms import PARAMETERS, Efficiency, Sums, Terms, terms_of
from mixq.predict.whole_models import KNOWN_MODEL
from mixq.profiles import loader

ROWS = Path(__file__).parent / "data" / "published.csv"
TARGET = Path(__file__).parent.parent / "mixq" / "predict" / "fitted.json"
NARROWER = {
    "gemm": (0.4, 0.25, 0.15), "conv": (0.4, 0.25, 0.15), "window": (0.4, 0.25, 0.15), "depthwise": (0.5, 0.3, 0.15),
    "attention": (0.4, 0.25, 0.1), "memory": (0.3, 0.2, 0.15), "plain": (0.5, 0.3, 0.15), "fused": (0.6, 0.3, 0.15),
    "overhead_s": (0.6, 0.4, 0.5), "call_s": (0.6, 0.4, 0.5), "parallel": (0.15, 0.1, 0.1),
}  # fmt: skip
"""How far a family's numbers stray from those of all runtimes, a chip's from its family's, and a kernel's from
its chip's: spreads of logarithms."""
LIMITS = {name: (1e-3, 1.0) for name in PARAMETERS} | {
    "overhead_s": (1e-8, 1e-2),
    "call_s": (1e-7, 1.0),
}
NOISE = 0.12
"""The same configuration listed twice in the Neural Compressor tables differs by 11.6% in one case of ten."""
OFFSET_ROWS = (4.0, 2.0, 1.0)
"""Rows that `no offset` counts for on each shelf (all devices of a kind, family, chip)."""


@dataclass(frozen=True)
class Case:
    """A row that was measured, ready to be predicted."""

    row: Row
    terms: Terms
    group: Group
    measured_s: float

    @property
    def model(self) -> str:
        return self.terms.job.network

    @property
    def expected(self) -> Efficiency:
        return expected_efficiency(self.row, gpu=self.terms.gpu)

    def shown(self, seconds: float) -> float:
        return self.row.in_unit(seconds, self.terms.things)


@dataclass(frozen=True)
class Result:
    case: Case
    seconds: float
    depth: int

    @property
    def log_error(self) -> float:
        return math.log(self.seconds / self.case.measured_s)

    @property
    def error(self) -> float:
        return abs(self.case.shown(self.seconds) / self.case.shown(self.case.measured_s) - 1)


def cases(path: Path) -> tuple[list[Case], list[tuple[Row, str]]]:
    """The whole models of a table with times, and what was left aside with the reason."""
    found, refused = [], []
    load = cache(loader.load)
    for row in read_rows(path)[1]:
        if row.is_product:
            continue
        if row.unit == RATIO:
            refused.append((row, "a ratio, predicted and not fitted"))
            continue
        try:
            profile = load(chip_of(row.chip).profile)
            terms = terms_of(profile, row)
        except MixqError as error:
            refused.append((row, str(error)))
            continue
        measured = row.seconds(terms.things)
        group = group_of(row, terms.job.phase, profile.name, gpu=terms.gpu)
        if measured is not None:
            found.append(Case(row, terms, group, measured))
    return found, refused


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
    circles_found = {
        name: (*(values[each] for each in PARAMETERS), UNKNOWN_SPREAD, float(sizes[name]))
        for name, values in numbers.items()
    }
    return Fitted(circles_found, _offsets(chosen, Fitted(circles_found, {})))


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

    return fit_parameters(errors, priors, weights=[1.0] * len(members), noise=NOISE, limits=LIMITS)


def _offsets(chosen: Sequence[Case], found: Fitted) -> dict[str, float]:
    """What is left of each model's rows, shelf by shelf, shrunk towards none."""
    left = {id(case): -predict(found, case).log_error for case in chosen}
    offsets: dict[str, float] = {}
    for shelf, rows in enumerate(OFFSET_ROWS):
        by_name: dict[str, list[Case]] = defaultdict(list)
        for case in chosen:
            by_name[f"{case.group.shelves[shelf]} | {case.model}"].append(case)
        for name, members in by_name.items():
            size = sum(max(-0.5, min(0.5, left[id(case)])) for case in members) / (
                len(members) + rows
            )
            offsets[name] = size
            for case in members:
                left[id(case)] -= size
    return offsets


def predict(found: Fitted, case: Case) -> Result:
    """The case as `mixq.predict.whole_models` would predict it."""
    known = found.known(case.group, case.model, case.expected)
    seconds = case.terms.seconds(known.efficiency) * math.exp(known.offset)
    return Result(case, seconds, known.depth)


def leave_out(chosen: Sequence[Case], key: Callable[[Case], object]) -> list[Result]:
    """Every case predicted from those of other keys; families that a key does not touch are as they were."""
    results = []
    for each in sorted({str(key(case)) for case in chosen}):
        held = [case for case in chosen if str(key(case)) == each]
        touched = {case.group.kind for case in held}
        rest = [case for case in chosen if str(key(case)) != each and case.group.kind in touched]
        found = fit(rest)
        results += [predict(found, case) for case in held]
    return results


def spreads(found: Fitted, results: Sequence[Result]) -> Fitted:
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
    """Root mean square, drawn to what is expected by four rows' worth; wild rows count as a factor of 2.7."""
    total = sum(min(abs(error), 1.0) ** 2 for error in errors)
    return math.sqrt((4 * expected**2 + total) / (4 + len(errors)))


def write(found: Fitted) -> None:
    """`fitted.json`, one circle a line."""

    def line(name: str, values: object) -> str:
        return f"{json.dumps(name)}:{json.dumps(values, separators=(',', ':'))}"

    circles = [
        line(name, [float(f"{v:.4g}") for v in values])
        for name, values in sorted(found.circles.items())
    ]
    offsets = [
        line(name, round(value, 3))
        for name, value in sorted(found.offsets.items())
        if abs(value) >= 5e-4
    ]
    about = json.dumps(
        "benchmarks/whole_models.py --write; numbers: "
        + ", ".join(PARAMETERS)
        + ", spread, points"
    )
    TARGET.write_text(
        '{"about":'
        + about
        + ',\n"circles":{\n'
        + ",\n".join(circles)
        + '\n},\n"offsets":{\n'
        + ",\n".join(offsets)
        + "\n}}\n"
    )


def table(title: str, results: Sequence[Result], key: Callable[[Case], str]) -> None:
    """Errors by group, beside those of a plain roofline."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[key(result.case)].append(result)
    print(
        f"\n| {title} | rows | median | mean | within 30% | rank | roofline median | roofline mean |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, members in sorted(groups.items()):
        errors = [member.error for member in members]
        roof = [Result(member.case, member.case.terms.roofline_s, 0).error for member in members]
        rank = rank_correlation([m.case.measured_s for m in members], [m.seconds for m in members])
        print(
            f"| {name} | {len(members)} | {statistics.median(errors):.1%} | {statistics.fmean(errors):.1%} "
            f"| {sum(e <= 0.3 for e in errors) / len(errors):.0%} | {rank:.3f} "
            f"| {statistics.median(roof):.0%} | {statistics.fmean(roof):.0%} |"
        )


def ratios(results: Sequence[Result]) -> None:
    """Speed-ups of fewer bits over floats of the same model, chip, runtime and size."""
    wide: dict[tuple[object, ...], list[Result]] = defaultdict(list)
    for result in results:
        if result.case.row.weight_bits >= 16:
            wide[_twin(result.case)].append(result)
    found: dict[str, list[float]] = defaultdict(list)
    for result in results:
        if result.case.row.weight_bits >= 16:
            continue
        for base in wide.get(_twin(result.case), []):
            off = result.log_error - base.log_error
            device = "GPU" if result.case.terms.gpu else "CPU"
            found[f"{device} {result.case.row.weight_bits:g} bits"].append(abs(math.expm1(off)))
    print(
        "\n| speed-up over floats | pairs | median error | mean error | within 15% |\n|---|---|---|---|---|"
    )
    for name, errors in sorted(found.items()):
        close = sum(e <= 0.15 for e in errors) / len(errors)
        print(
            f"| {name} | {len(errors)} | {statistics.median(errors):.1%} | {statistics.fmean(errors):.1%} | {close:.0%} |"
        )


def _twin(case: Case) -> tuple[object, ...]:
    row = case.row
    return (
        row.chip,
        row.runtime.split(" INT8")[0],
        row.cores_or_threads,
        row.model_or_op,
        row.batch,
        row.seq,
        row.metric,
    )


def main() -> None:
    """See the docstring of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--keep-elsewhere", action="store_true")
    parser.add_argument("--worst", type=int, default=0)
    parser.add_argument("--list", default="")
    arguments = parser.parse_args()
    chosen, refused = cases(arguments.rows)
    print(f"{len(chosen)} rows of whole models, {len(refused)} left aside:")
    for reason in sorted({f"{row.model_or_op}: {why}" for row, why in refused}):
        print("-", reason[:160])
    by_model: Callable[[Case], object] = lambda case: case.model  # noqa: E731
    by_place: Callable[[Case], object] = lambda case: (case.model, case.group.circles[2])  # noqa: E731
    results = leave_out(chosen, by_place if arguments.keep_elsewhere else by_model)
    if arguments.write:
        write(spreads(fit(chosen), results))
    table("all", results, lambda case: "all")
    table("chip and precision", results, _chip_and_precision)
    table("runtime family", results, lambda case: case.group.family)
    ratios(results)
    for result in sorted(results, key=lambda r: -abs(r.log_error)):
        if arguments.list and arguments.list in result.case.group.circles[3]:
            _print_one(result)
    for result in sorted(results, key=lambda r: -abs(r.log_error))[: arguments.worst]:
        _print_one(result)


def _print_one(result: Result) -> None:
    case = result.case
    print(
        f"{result.log_error:+.2f} {result.depth} {case.group.circles[3][-90:]:90s} {case.row.model_or_op[:28]:28s} "
        f"b{case.row.batch} {case.row.seq} {case.row.value} {case.row.unit} predicted {case.shown(result.seconds):.4g}"
    )


def _chip_and_precision(case: Case) -> str:
    chip = (
        "GPU"
        if case.terms.gpu
        else "Intel"
        if "intel" in case.row.chip.lower()
        or "xeon" in case.row.chip.lower()
        or "core i" in case.row.chip.lower()
        else "ARM"
    )
    bits = case.row.weight_bits
    return f"{chip}, {'floats' if bits >= 16 else '8 bits' if bits >= 7 else 'below 8 bits'}"


if __name__ == "__main__":
    main()
