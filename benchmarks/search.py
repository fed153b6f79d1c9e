"""Solvers of the additive problem, side by side: seconds, and whether they agree.

    OMP_NUM_THREADS=1 python benchmarks/search.py

Made-up problems with 4 formats for each unit, transformer-like (four sizes of matrices) and
CNN-like (every size another), and 30 budgets from 1.1x to 14x each. *core*: one budget, exactly
(`mixq.search.core`). *HiGHS*: the same by mixed-integer programming; *equal*: at how many budgets
neither found a plan of less error than the other, to HiGHS' proof of 1e-9. *frontier*: all budgets
at once, exactly or as a convex hull; *hull gap*: how far the hull's plan lies above the optimum at
most, over the budgets from 2% to 98% of the range. CPU seconds, the largest of the budgets.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from mixq.formats import Format
from mixq.search.core import Core
from mixq.search.frontier import build_frontier
from mixq.search.limits import Limits
from mixq.search.milp import minimise
from mixq.search.problem import Choice, Problem

FORMATS = tuple(map(Format, (32, 8, 4, 2)))
TRANSFORMER = (331_776, 110_592, 884_736, 589_824)
"""Weights of matrices, as SmolLM2-135M has them."""
BUDGETS = 30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--highs-budgets", type=int, default=BUDGETS)
    arguments = parser.parse_args()
    columns = (
        "units", "sizes", "core, s", "HiGHS, s", "equal", "frontier, s", "points", "exact",
        "hull gap", "peak MB",
    )  # fmt: skip
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for units in arguments.units:
        for kind in ("transformer", "CNN"):
            print(row(units, kind, arguments.highs_budgets), flush=True)


def row(units: int, kind: str, highs_budgets: int) -> str:
    problem = made(units, kind)
    budgets = [int(problem.original_bytes / c) for c in np.geomspace(1.1, 14, BUDGETS)]
    core_s, highs_s, equal, asked = 0.0, 0.0, 0, 0
    optima = {}
    for index, budget in enumerate(budgets):
        start = time.process_time()
        found = Core.of(problem).solve(budget)
        core_s = max(core_s, time.process_time() - start)
        assert found is not None
        taken = {
            unit: item.formats[pick]
            for item, pick in zip(problem.items, found.picks, strict=True)
            for unit in item.units
        }
        optima[budget] = problem.evaluate(taken).error
        if index % max(BUDGETS // highs_budgets, 1) == 0:
            start = time.process_time()
            other = minimise(problem, "error", Limits(weight_bytes=budget)).totals.error
            highs_s = max(highs_s, time.process_time() - start)
            asked += 1
            equal += abs(other - optima[budget]) <= 1e-9 * other
    start = time.process_time()
    frontier = build_frontier(problem)
    frontier_s = time.process_time() - start
    hull = build_frontier(problem, max_states=0)
    low, high = (int(hull.weight_bytes[end]) for end in (0, -1))
    inner = [b for b in budgets if low + 0.02 * (high - low) <= b <= low + 0.98 * (high - low)]
    gap = max(hull.best_under(b).error / optima[b] - 1 for b in inner)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    cells = (
        f"{units:,}", kind, f"{core_s:.3f}", f"{highs_s:.2f}", f"{equal} of {asked}",
        f"{frontier_s:.2f}", f"{len(frontier):,}", "yes" if frontier.exact else "hull",
        f"{gap:.2%}", f"{peak_mb:.0f}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def made(units: int, kind: str) -> Problem:
    """Errors fall fourfold per bit, times a spread and the number of weights."""
    chance = np.random.default_rng(0)
    sizes = (
        chance.choice(TRANSFORMER, units)
        if kind == "transformer"
        else chance.integers(1_000, 5_000_000, units)
    )
    choices = {}
    for index, weights in enumerate(map(int, sizes)):
        scale = weights * chance.lognormal(0, 1.5)
        choices[f"unit{index}"] = tuple(
            Choice(
                fmt,
                0.0 if fmt.bits == 32 else float(scale * 4.0**-fmt.bits * chance.uniform(0.5, 2)),
                weights * fmt.bits // 8 + (0 if fmt.bits == 32 else weights // 32),
                0.0,
            )
            for fmt in FORMATS
        )
    return Problem(choices, original_bytes=4 * int(sizes.sum()))


if __name__ == "__main__":
    main()
