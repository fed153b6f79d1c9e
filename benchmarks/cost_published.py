"""How well the cost model predicts published measurements that it has not seen.

    python benchmarks/cost_published.py [--kernels]

Products of matrices: every (N, K) of a chip is left out in turn, all kernels are fitted again
without it, and its rows are predicted; see benchmarks/published. Printed for each family of chips
and each precision, beside a roofline at peak rates: median and mean error, share within 30%,
share inside the 80% interval, rank correlation, and errors of the ratios between precisions of one
shape.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Sequence

import whole_models
from published.chips import profile_of
from published.families import FAMILIES, GOALS, family_of, precision_of
from published.groups import groups_of, products
from published.left_out import LeftOut, leave_kernels_out, leave_shapes_out

from mixq.cli.console import progress_bar
from mixq.predict.agreement import Agreement
from mixq.predict.prediction import Prediction

HEAD = (
    f"{'':24} {'rows':>5} {'median':>7} {'mean':>7} {'<30%':>5} {'inside':>6} {'rank':>6}"
    f"   | roofline {'median':>7} {'mean':>7} {'<30%':>5} {'rank':>6}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernels", action="store_true", help="one line for each kernel too")
    arguments = parser.parse_args()
    with progress_bar() as progress:
        groups = groups_of(products(), profile_of)
        found = leave_shapes_out(groups, progress)
        strangers = leave_kernels_out(groups, progress)
    report(found, strangers, kernels=arguments.kernels)
    print("\nWhole models, each left out under every runtime, on every chip, in every precision")
    whole_models.report()


def report(found: Sequence[LeftOut], strangers: Sequence[LeftOut], *, kernels: bool) -> None:
    """Print the tables of the products."""
    print("Products, each (N, K) of a chip left out; kernels of which another shape was left")
    print(HEAD)
    seen = [one for one in found if one.seen]
    for family, _ in FAMILIES:
        rows = [one for one in seen if family_of(one.row) == family]
        print_line(f"{family} (goal {GOALS[family]:.0%})", rows)
        for precision in sorted({precision_of(one.row) for one in rows}):
            print_line(f"  {precision}", [o for o in rows if precision_of(o.row) == precision])
    print_line("all", seen)
    only = len(found) - len(seen)
    print(f"  {only} more rows are the only shape of their kernel: see the next table")
    print("\nKernels left out whole: the nearest kernel of the chip stands in")
    print(HEAD)
    for family, _ in FAMILIES:
        print_line(family, [one for one in strangers if family_of(one.row) == family])
    print_line("all", strangers)
    print("\nRatios between two precisions of one shape, chip, runtime and number of threads")
    print(f"{'':24} {'pairs':>5} {'median':>7} {'mean':>7} {'<15%':>5}   | roofline {'median':>7}")
    for family, _ in FAMILIES:
        print_ratios(family, [one for one in seen if family_of(one.row) == family])
    print_ratios("all", seen)
    print("\nKernels that miss their family's goal; of two shapes, one is left to fit")
    print_groups(seen, lambda error, goal: error > goal)
    if kernels:
        print("\nAll kernels")
        print_groups(seen, lambda error, goal: True)


def print_line(name: str, found: Iterable[LeftOut]) -> None:
    """Print one line of a table, if there are rows."""
    known = [one for one in found if one.prediction is not None and one.row.value is not None]
    ours = _agreement(known, lambda one: one.prediction)
    plain = _agreement(known, lambda one: one.roofline)
    if ours is None or plain is None:
        return
    print(
        f"{name:24} {ours.count:5} {ours.median_error:7.1%} {ours.mean_error:7.1%}"
        f" {ours.close_share:5.0%} {ours.inside_share:6.0%} {ours.rank_correlation:6.3f}"
        f"   |          {plain.median_error:7.1%} {plain.mean_error:7.1%}"
        f" {plain.close_share:5.0%} {plain.rank_correlation:6.3f}"
    )


def _agreement(
    known: Sequence[LeftOut], answer: Callable[[LeftOut], Prediction | None]
) -> Agreement | None:
    """Agreement of seconds, since rates of one table and times of another do not rank."""
    pairs = []
    for one in known:
        found, value, row = answer(one), one.row.value, one.row
        if found is None or value is None:
            continue
        if row.kind == "rate":
            # An answer in the row's unit is the inverse of a time; all errors are those of times.
            scale = row.in_unit(1.0)
            times = [
                scale / end if end else 0.0 for end in (found.predicted, found.high, found.low)
            ]
            found, value = Prediction(times[0], times[1], times[2], found.kernel), scale / value
        elif row.kind == "time":
            scale = row.in_unit(1.0)
            found = Prediction(
                found.predicted / scale, found.low / scale, found.high / scale, found.kernel
            )
            value /= scale
        pairs.append((value, found))
    return Agreement.of(pairs)


def print_ratios(name: str, found: Sequence[LeftOut]) -> None:
    """Print how well ratios between precisions are predicted."""
    alike: dict[tuple[object, ...], list[LeftOut]] = {}
    for one in found:
        row = one.row
        if one.prediction is not None and row.kind != "ratio" and row.value is not None:
            key = (row.chip, row.cores_or_threads, row.runtime, row.m, row.n, row.k)
            alike.setdefault((*key, row.group_size or 0, row.metric), []).append(one)
    ours, plain = [], []
    for rows in alike.values():
        for i, wide in enumerate(rows):
            for narrow in rows[i + 1 :]:
                if wide.row.weight_bits == narrow.row.weight_bits:
                    continue
                measured = wide.row.value / narrow.row.value
                answer = wide.prediction.predicted / narrow.prediction.predicted
                ours.append(abs(answer / measured - 1))
                answer = wide.roofline.predicted / narrow.roofline.predicted
                plain.append(abs(answer / measured - 1))
    if ours:
        print(
            f"{name:24} {len(ours):5} {statistics.median(ours):7.1%} {statistics.fmean(ours):7.1%}"
            f" {sum(error <= 0.15 for error in ours) / len(ours):5.0%}"
            f"   |          {statistics.median(plain):7.1%}"
        )


def print_groups(found: Sequence[LeftOut], shown: Callable[[float, float], bool]) -> None:
    """Print the kernels whose median error is to be shown, with every row's error."""
    groups: dict[tuple[object, ...], list[LeftOut]] = {}
    for one in found:
        groups.setdefault(one.group.key, []).append(one)
    for rows in groups.values():
        ours = _agreement(rows, lambda one: one.prediction)
        row = rows[0].row
        if ours is None or not shown(ours.median_error, GOALS[family_of(row)]):
            continue
        shapes = len({(one.row.n, one.row.k) for one in rows})
        print(
            f"  {row.chip}, {row.runtime}, {row.kernel}, {precision_of(row)}, {shapes} shapes: "
            f"{ours.sentence}"
        )
        if ours.median_error > GOALS[family_of(row)]:
            errors = [(o.row, o.prediction.predicted / o.row.value - 1) for o in rows]
            print("    " + " ".join(f"{r.m}x{r.n}x{r.k} {error:+.0%}" for r, error in errors[:12]))


if __name__ == "__main__":
    main()
