"""Other systems' rules for who gets how many bits, on mixq's table, quantizer and bytes.

    OMP_NUM_THREADS=1 python benchmarks/allocation_rules.py demo crepe_tiny minilm

Every unit at 8, 4 and 2 bits in groups of 64, one format for each width, so that all rules
(`benchmarks/rules.py`) choose from the same; errors of single units are measured on all samples
that rounding has not learnt from. *added error*: of the rule's plan over the optimum's, less one,
at 20 budgets from 5x to 12x. *held-out error*: of the whole plan, all units rounded by the same
rounder, on samples that nothing has seen, over that of the plan that `mixq.search` returns for
the same target; with two standard errors of the paired difference. Runs are kept in --folder.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rules import RULES

import mixq
from mixq.calibration import Calibration
from mixq.cli.console import progress_bar
from mixq.errors import NonFiniteError
from mixq.formats import Format
from mixq.profiles import load as load_profile
from mixq.rounding.rounder import Rounder
from mixq.search.analysis import lay_out, round_units
from mixq.search.limits import Limits
from mixq.search.palette import Palette
from mixq.search.problem import Problem
from mixq.search.result import SearchResult
from mixq.search.solve import solve_once
from mixq.search.trials import paired_difference
from mixq.sensitivity.metrics.choice import MetricChoice
from mixq.sensitivity.metrics.resolve import resolve
from mixq.sensitivity.reference import Reference
from mixq.sources import load_model
from mixq.sources.loaded import LoadedModel

ROOT = Path(__file__).resolve().parents[1]
HARDWARE = "intel_cpu"
BUDGETS = [float(c) for c in np.geomspace(5, 12, 20)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--method", default="auto", help="of rounding, as in mixq search")
    parser.add_argument("--samples", type=int, help="that errors are measured on")
    parser.add_argument("--targets", default="6,8,10")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("benchmark-runs") / "rules")
    arguments = parser.parse_args()
    targets = [float(text) for text in arguments.targets.split(",")]
    print(f"`{' '.join(['python', *sys.argv])}`\n")
    subjects = [
        Subject.of(name, arguments.method, arguments.samples, targets, arguments.trials,
                   arguments.folder / name)
        for name in arguments.models
    ]  # fmt: skip
    added(subjects)
    joint(subjects, targets)


@dataclass
class Subject:
    """A model, what mixq found for it, and what whole plans err on held-out samples.

    Attributes:
        results: by target; the plan that mixq returns is taken from here.
    """

    name: str
    problem: Problem
    results: dict[float, SearchResult]
    rounder: Rounder
    heldout: Reference

    @classmethod
    def of(
        cls, name: str, method: str, samples: int | None, targets: list[float], trials: int,
        folder: Path,
    ) -> Subject:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        loaded = load(name)
        assert loaded.calibration is not None
        palette = Palette((8, 4, 2), (64,), method=method)
        results: dict[float, SearchResult] = {}
        for target in targets:
            with progress_bar() as progress:
                try:
                    results[target] = mixq.search(
                        loaded.model, loaded.calibration, hardware=HARDWARE, palette=palette,
                        target_compression=target, trials=trials, samples=samples, name=name,
                        sensitivity="measured", folder=folder, progress=progress,
                    )  # fmt: skip
                except mixq.errors.InfeasibleError as error:
                    print(f"{name} at {target:g}x: {error}", file=sys.stderr)
        # The rounder that the search measured with, made again from what it left in the folder.
        tuning, heldout = Calibration.of(loaded.calibration).split()
        assert heldout is not None
        profile = load_profile(HARDWARE)
        layout = lay_out(
            loaded.model, tuning, profile, palette=palette, pins={}, ties=(), batch_size=1,
            threads=None,
        )  # fmt: skip
        layout, rounding = round_units(loaded.model, layout, tuning, profile, folder=folder)
        metric = resolve(MetricChoice(), loaded.model, tuning)
        problem = next(iter(results.values())).frontier.problem
        return cls(
            name, problem, results, rounding.rounder, Reference(loaded.model, heldout, metric)
        )

    def errors(self, plan: dict[str, Format]) -> list[float] | None:
        """Of the whole plan, by held-out sample; None if its output is not finite."""
        try:
            return self.heldout.errors(self.rounder.joint(plan), "the plan")
        except NonFiniteError:
            return None


def load(name: str) -> LoadedModel:
    return load_model(name if name == "demo" else f"{ROOT / 'examples' / 'models' / name}.py:load")


def added(subjects: list[Subject]) -> None:
    names = [subject.name for subject in subjects]
    print("Added error above the optimum's, median and largest:\n")
    print("| rule | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
    for label, rule in RULES.items():
        cells = []
        for subject in subjects:
            problem, above = subject.problem, []
            smallest = problem.extreme("weight_bytes").weight_bytes
            for compression in BUDGETS:
                budget = int(problem.original_bytes / compression)
                if budget < smallest:
                    continue
                totals = problem.evaluate(rule(problem, budget))
                assert totals.weight_bytes <= budget, f"{label} takes {totals.weight_bytes}"
                optimum = solve_once(problem, Limits(weight_bytes=budget)).totals.error
                assert totals.error >= optimum
                above.append(totals.error / optimum - 1)
            cells.append(
                f"{statistics.median(above):.1%}, {max(above):.1%} ({len(above)} budgets)"
            )
        print(f"| {label} | " + " | ".join(cells) + " |", flush=True)
    print()


def joint(subjects: list[Subject], targets: list[float]) -> None:
    cells = [(s, t) for s in subjects for t in targets if t in s.results]
    heads = [f"{subject.name} {target:g}x" for subject, target in cells]
    print("Held-out error over that of mixq's plan:\n")
    print("| rule | " + " | ".join(heads) + " |\n|" + "---|" * (len(heads) + 1))
    ours = [subject.errors(dict(s_plan(subject, target))) for subject, target in cells]
    row("mixq's plan, error", [f"{statistics.fmean(e):.4g}" if e else "NaN" for e in ours])
    rules = {"additive optimum": optimum_of, **RULES}
    for label, rule in rules.items():
        ratios = []
        for (subject, target), base in zip(cells, ours, strict=True):
            budget = int(subject.problem.original_bytes / target)
            theirs = subject.errors(dict(rule(subject.problem, budget)))
            ratios.append(ratio(theirs, base))
        row(label, ratios)
    print()


def s_plan(subject: Subject, target: float) -> dict[str, Format]:
    """What `mixq.search` returned."""
    return dict(subject.results[target].plan.assignment)


def optimum_of(problem: Problem, budget: int) -> dict[str, Format]:
    return solve_once(problem, Limits(weight_bytes=budget)).assignment


def ratio(theirs: list[float] | None, ours: list[float] | None) -> str:
    if theirs is None or ours is None:
        return "NaN"
    difference = paired_difference(theirs, ours)
    mean = statistics.fmean(ours)
    return f"{1 + difference.error / mean:.3f} ± {2 * difference.error_se / mean:.3f}"


def row(label: str, cells: list[str]) -> None:
    print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
