"""Solvers of the additive problem, side by side: seconds, gaps, memory, and whether they agree.

    OMP_NUM_THREADS=1 python benchmarks/search.py

Made-up problems with 4 formats for each unit, transformer-like (four sizes of matrices) and
CNN-like (every size another), and 30 budgets from 1.1x to 14x each. CPU seconds, the largest of
the budgets; every row is a process of its own.

*one budget*: the optimum, proven and verified (`mixq.search.solve.solve_once`); *one error*: the
smallest plan within an error. *HiGHS*: one budget by mixed-integer programming; *equal*: at how
many budgets neither found less error than the other, to HiGHS' proof of 1e-9. *frontier*: all
budgets at once, exactly or as a curve of optima; *gap*: how much less error than the curve's plan
anything could have, at most, at any number of bytes from 2% to 98% of the range; *hull*: the same
without the optima between its corners. *what-if*: a new budget, and a pin beside it, from the
tables that a search leaves (`mixq.search.what_if`). *peak*: of the process, with torch unloaded
and before HiGHS runs.

Optuna's samplers get the same problem at 8x: one categorical parameter for each unit, the added
error, and above the bytes a penalty that grows with the excess. Cold, or warm: with the ten
points of the curve around the budget enqueued first. *x optimum*: the
best plan within the bytes over the optimum, by trials; `none` fits.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mixq.formats import Format
from mixq.search.budget import Budget
from mixq.search.choice import Choice
from mixq.search.exact.fill import EDGE
from mixq.search.exact.hull import run_hull
from mixq.search.exact.milp import minimise
from mixq.search.exact.stage import Stage
from mixq.search.frontier import Frontier, build_frontier
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.solve import solve_once
from mixq.search.what_if import what_if

FORMATS = tuple(map(Format, (32, 8, 4, 2)))
TRANSFORMER = (331_776, 110_592, 884_736, 589_824)
"""Weights of matrices, as SmolLM2-135M has them."""
BUDGETS = 30
HIGHS_BUDGETS = {10_000: 3}
"""At these numbers of units, where HiGHS takes half a minute for one."""
SOLVED = ((100, "transformer"), (100, "CNN"), (150, "CNN"), (300, "CNN"), (1_000, "transformer"),
          (1_000, "CNN"), (10_000, "transformer"), (10_000, "CNN"))  # fmt: skip
SAMPLED = ((100, "transformer", (200, 1_000)), (100, "CNN", (200, 1_000)),
           (1_000, "transformer", (200,)), (1_000, "CNN", (200,)))  # fmt: skip
TARGET = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, nargs="+", help="rows of these only")
    parser.add_argument("--highs-budgets", type=int, help="0 leaves HiGHS out")
    parser.add_argument("--only", choices=["solvers", "samplers"])
    parser.add_argument("--row", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        what, units, kind, *rest = arguments.row
        row = solver_row if what == "solvers" else sampler_row
        print(json.dumps(row(int(units), kind, *map(int, rest))))
        return
    print(f"`{' '.join(['python', *sys.argv])}`\n\n{machine()}\n")
    wanted = arguments.units or [units for units, _ in SOLVED]
    if arguments.only != "samplers":
        rows = []
        for units, kind in SOLVED:
            if units in wanted:
                budgets = arguments.highs_budgets
                if budgets is None:
                    budgets = HIGHS_BUDGETS.get(units, BUDGETS)
                rows.append(["solvers", units, kind, budgets])
        table(rows)
    if arguments.only != "solvers":
        table([["samplers", u, kind, *trials] for u, kind, trials in SAMPLED if u in wanted])
        print("No sampler was run at 10,000 units.")


def machine() -> str:
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}"
    )


def table(rows: Sequence[Sequence[object]]) -> None:
    """Each row from a process of its own, printed as it comes."""
    first = True
    for row in rows:
        command = [sys.executable, __file__, "--row", *map(str, row)]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        for cells in json.loads(run.stdout.splitlines()[-1]):
            if first:
                print("| " + " | ".join(cells) + " |\n|" + "---|" * len(cells))
                first = False
            print("| " + " | ".join(cells.values()) + " |", flush=True)
    print()


def solver_row(units: int, kind: str, highs_budgets: int) -> list[dict[str, str]]:
    problem = made(units, kind)
    budgets = [int(problem.original_bytes / c) for c in np.geomspace(1.1, 14, BUDGETS)]
    optima: dict[int, float] = {}
    one_s = error_s = 0.0
    for budget in budgets:
        solution, seconds = timed(lambda b=budget: solve_once(problem, Limits(weight_bytes=b)))
        assert solution.certificate.solver == "core"
        optima[budget], one_s = solution.totals.error, max(one_s, seconds)
    for error in list(optima.values())[:: BUDGETS // 6]:
        solution, seconds = timed(lambda e=error: solve_once(problem, Limits(error=e)))
        assert solution.certificate.solver == "core"
        error_s = max(error_s, seconds)
    frontier = build_frontier(problem)
    hull, hull_s = timed(lambda: run_hull(problem, [Stage.of(item) for item in problem.items]))
    asked = {}
    for name, pins in (("budget", None), ("pin", {"unit7": 8})):
        # A fresh copy of the tables, as after loading them, and no frontier.
        fresh = made(units, kind)
        _, asked[name] = timed(
            lambda f=fresh, p=pins: what_if(f, Budget(compression=TARGET), pins=p)
        )
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    highs_s, equal = 0.0, 0
    chosen = budgets[:: max(BUDGETS // highs_budgets, 1)][:highs_budgets] if highs_budgets else []
    for budget in chosen:
        other, seconds = timed(
            lambda b=budget: minimise(problem, "error", Limits(weight_bytes=b)).totals.error
        )
        highs_s = max(highs_s, seconds)
        equal += abs(other - optima[budget]) <= 1e-9 * other
    sizes = hull.weight_bytes + problem.other_bytes
    cells = {
        "units": f"{units:,}",
        "sizes": kind,
        "one budget, s": f"{one_s:.4f}",
        "one error, s": f"{error_s:.3f}",
        "HiGHS, s": f"{highs_s:.2f}" if chosen else "-",
        "equal": f"{equal} of {len(chosen)}" if chosen else "-",
        "frontier, s": f"{frontier.solve_s:.2f}",
        "points": f"{len(frontier):,}",
        "points per s": f"{len(frontier) / frontier.solve_s:,.0f}",
        "frontier is": "exact" if frontier.exact else "a curve",
        "gap": f"{inner_gap(frontier):.2%}",
        "hull, s": f"{hull_s:.2f}",
        "hull gap": f"{corner_gap(sizes, hull.errors):.2%}",
        "what-if budget, ms": f"{asked['budget'] * 1e3:.0f}",
        "with a pin, ms": f"{asked['pin'] * 1e3:.0f}",
        "peak MB": f"{peak_mb:.0f}",
    }
    return [cells]


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return run(), time.process_time() - start


def inner_gap(frontier: Frontier) -> float:
    """The largest certified gap at any bytes of the inner range."""
    sizes = frontier.weight_bytes
    low, high = inner(sizes)
    ends = np.append(sizes[1:] - 1, [math.ceil(low), math.floor(high)])
    return max(frontier.gap_under(int(b)) for b in ends if low <= b <= high)


def corner_gap(sizes: np.ndarray, errors: np.ndarray) -> float:
    """The same of the corners of a hull alone, bounded by its edges."""
    low, high = inner(sizes)
    start, end = np.maximum(sizes[:-1], low), np.minimum(sizes[1:], high)
    gaps = 1 - np.interp(end, sizes, errors) / np.where(errors[:-1] > 0, errors[:-1], np.inf)
    return float(gaps[(start < end) & (errors[:-1] > 0)].max())


def inner(sizes: np.ndarray) -> tuple[float, float]:
    margin = EDGE * float(sizes[-1] - sizes[0])
    return float(sizes[0]) + margin, float(sizes[-1]) - margin


def sampler_row(units: int, kind: str, *trials: int) -> list[dict[str, str]]:
    import optuna

    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = made(units, kind)
    budget = int(problem.original_bytes / TARGET)
    optimum, ours_s = timed(lambda: solve_once(problem, Limits(weight_bytes=budget)))
    corners = build_frontier(problem, max_states=0)
    middle = corners.best_under(budget).index
    around = [corners.assignment(index) for index in range(middle - 5, middle + 5)]
    rows = []
    for name, make in (
        ("TPE", optuna.samplers.TPESampler),
        ("NSGA-II", optuna.samplers.NSGAIISampler),
    ):
        for start, enqueued in (("cold", []), ("warm", around)):
            study = optuna.create_study(sampler=make(seed=0))
            for plan in enqueued:
                study.enqueue_trial({unit: fmt.bits for unit, fmt in plan.items()})
            begin = time.process_time()
            study.optimize(lambda trial: judged(trial, problem, budget), n_trials=max(trials))
            spent = time.process_time() - begin
            values = [float(trial.user_attrs["error"]) for trial in study.trials]
            best = np.minimum.accumulate(values) / optimum.totals.error
            cells = {"units": f"{units:,}", "sizes": kind, "sampler": name, "start": start}
            for count in (len(around), 200, 1_000):
                ratio = shown(best[min(count, len(best)) - 1])
                cells[f"x optimum, {count:,} trials"] = ratio if count <= max(trials) else "-"
            rows.append(cells | {"CPU s": f"{spent:.0f}", "exact, s": f"{ours_s:.3f}"})
    return rows


def shown(ratio: float) -> str:
    """None of the trials kept the bytes, where it is beyond all bounds."""
    return f"{ratio:.4f}" if ratio < 1e30 else "none"


def judged(trial: Any, problem: Problem, budget: int) -> float:
    """Added error, above that of all plans beyond the budget; and the feasible error for us."""
    error = stored = worst = 0.0
    for unit, choices in problem.choices.items():
        bits = trial.suggest_categorical(unit, [choice.format.bits for choice in choices])
        choice = next(choice for choice in choices if choice.format.bits == bits)
        error += choice.error
        stored += choice.weight_bytes
        worst += max(choice.error for choice in choices)
    fits = stored <= budget
    trial.set_user_attr("error", error if fits else 1e300)
    return error if fits else worst * (stored / budget)


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
