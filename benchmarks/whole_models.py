"""How well whole models are predicted that were left out; with --write, the fit to all of them.

    python benchmarks/whole_models.py                    # leave one model out
    python benchmarks/whole_models.py --known-elsewhere  # one model on one chip under one runtime
    python benchmarks/whole_models.py --write            # fit to all; mixq/predict/fitted.json

Leaving a model out drops its rows on every chip, in every precision and under every runtime; the
numbers of all groups are fitted again without them. See benchmarks/published/whole_fit.py.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from published.whole_cases import ROWS, Case, Result, cases
from published.whole_fit import fit, leave_out, with_spreads, write

from mixq.predict.agreement import CLOSE, rank_correlation

CLOSE_RATIO = 0.15


def report(path: Path = ROWS, *, known_elsewhere: bool = False) -> list[Result]:
    """Print the tables of every model left out; the results."""
    chosen, refused = cases(path)
    print(f"{len(chosen)} rows of whole models; {len(refused)} left aside:")
    for reason in sorted({f"{row.model_or_op}: {why}" for row, why in refused}):
        print("-", reason[:160])
    results = leave_out(chosen, _place if known_elsewhere else _model)
    _table("all", results, lambda case: "all")
    _table("chip and precision", results, lambda case: f"{case.device}, {case.precision}")
    several = _learnable(results)
    _table(
        "the same, other models measured there", several, lambda c: f"{c.device}, {c.precision}"
    )
    _table("runtime and precision", results, lambda case: case.group.family)
    _ratios(results)
    return results


def _model(case: Case) -> object:
    return case.model


def _place(case: Case) -> object:
    return case.model, case.group.circles[2]


def _learnable(results: Sequence[Result]) -> list[Result]:
    """Those whose runtime and precision were measured on the chip with another model."""
    return [result for result in results if result.depth >= 3]


def _table(title: str, results: Sequence[Result], key: Callable[[Case], str]) -> None:
    """Errors by group, beside those of a plain roofline."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[key(result.case)].append(result)
    print(f"\n| {title} | rows | median | mean | <30% | rank | roofline median | mean | rank |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, members in sorted(groups.items()):
        roof = [Result(each.case, each.case.terms.roofline_s, 0) for each in members]
        print(f"| {name} | {len(members)} | {_errors(members)} | {_rank(members)} ", end="")
        print(f"| {_errors(roof, close=False)} | {_rank(roof)} |")


def _errors(members: Sequence[Result], *, close: bool = True) -> str:
    errors = [member.error for member in members]
    text = f"{statistics.median(errors):.1%} | {statistics.fmean(errors):.1%}"
    near = sum(error <= CLOSE for error in errors) / len(errors)
    return f"{text} | {near:.0%}" if close else text


def _rank(members: Sequence[Result]) -> str:
    measured = [member.case.measured_s for member in members]
    return f"{rank_correlation(measured, [member.seconds for member in members]):.3f}"


def _ratios(results: Sequence[Result]) -> None:
    """Speed-ups of fewer bits over floats of the same model, chip, runtime and size."""
    wide: dict[tuple[object, ...], list[Result]] = defaultdict(list)
    for result in results:
        if result.case.row.weight_bits >= 16:
            wide[result.case.twin].append(result)
    found: dict[str, list[float]] = defaultdict(list)
    for result in results:
        if result.case.row.weight_bits < 16:
            for base in wide.get(result.case.twin, []):
                off = abs(math.expm1(result.log_error - base.log_error))
                found[f"{result.case.device}, {result.case.precision}"].append(off)
    print("\n| speed-up over floats | pairs | median error | mean error | within 15% |")
    print("|---|---|---|---|---|")
    for name, errors in sorted(found.items()):
        near = sum(error <= CLOSE_RATIO for error in errors) / len(errors)
        middle = f"{statistics.median(errors):.1%} | {statistics.fmean(errors):.1%}"
        print(f"| {name} | {len(errors)} | {middle} | {near:.0%} |")


def _print_one(result: Result) -> None:
    case, row = result.case, result.case.row
    what = f"{row.model_or_op[:28]:28s} b{row.batch} {row.seq} {row.value} {row.unit}"
    where = case.group.circles[3][-80:]
    shown = case.shown(result.seconds)
    print(f"{result.log_error:+.2f} {result.depth} {where:80s} {what} predicted {shown:.4g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--write", action="store_true", help="fit to all rows")
    parser.add_argument("--known-elsewhere", action="store_true", help="keep a model's other rows")
    parser.add_argument("--worst", type=int, default=0, help="rows to list")
    arguments = parser.parse_args()
    results = report(arguments.rows, known_elsewhere=arguments.known_elsewhere)
    for result in sorted(results, key=lambda each: -abs(each.log_error))[: arguments.worst]:
        _print_one(result)
    if arguments.write:
        write(with_spreads(fit(cases(arguments.rows)[0]), results))


if __name__ == "__main__":
    main()
