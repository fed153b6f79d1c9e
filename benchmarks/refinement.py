"""What refining a plan buys over the optimum of added errors.

    OMP_NUM_THREADS=1 python benchmarks/refinement.py minilm efficientnet_lite0 crepe_tiny
    OMP_NUM_THREADS=1 python benchmarks/refinement.py smollm2 --method rtn --group-sizes 64 \\
        --sensitivity auto --samples 8
    ... --method rtn --grids symmetric

For each draw of calibration samples and each target: the exact optimum of the added errors, and
the plan that `mixq.search.refine` makes of it in the same formats and codes, at no more bytes.
Three errors of the refined plan over the optimum's: on the calibration samples that changes were
measured on, on the held-out ones that each step had to pass, and on *test* samples that neither
has seen; the mean over the draws and its standard error. *additive*: measured over added error of
the optimum. *deployed*: the test error once the refined plan is rounded in sequence, as a search
does at the end, over that of the optimum as it was measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
from draws import draw

from mixq.formats import Format
from mixq.profiles import load as load_profile
from mixq.progress import silent
from mixq.rounding.rounder import Rounder
from mixq.search.analysis import lay_out, round_units
from mixq.search.budget import Budget
from mixq.search.limits import Limits
from mixq.search.palette import DEFAULT_GROUP_SIZES, Palette
from mixq.search.refine.measuring import Measuring
from mixq.search.refine.refine import Refinement
from mixq.search.request import Sensitivity
from mixq.search.sensitivities import find_sensitivity
from mixq.search.sequence import deployed
from mixq.search.session import Session
from mixq.search.solve import solve
from mixq.search.study.ledger import open_ledger
from mixq.search.trials import Proposal
from mixq.sensitivity.joint import joint_errors
from mixq.sensitivity.metrics.choice import MetricChoice
from mixq.sensitivity.metrics.resolve import resolve
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.setting import Setting
from mixq.sensitivity.whole import WholePlans

BITS = (32, 8, 4, 2)


@dataclass(frozen=True)
class Cell:
    """Errors of the refined plan over those of the optimum, for one draw."""

    additive: float
    calibration: float
    heldout: float
    test: float
    deployed: float
    changes: int
    seconds: float


class Drawn:
    """A model with one draw of its data, its formats rounded and its sensitivities measured."""

    def __init__(
        self, name: str, seed: int, palette: Palette, samples: int | None, folder: Path
    ) -> None:
        drawn = draw(name, seed)
        profile = load_profile("intel_cpu")
        tuning, heldout = drawn.calibration.split()
        assert heldout is not None
        layout = lay_out(
            drawn.model, tuning, profile, palette=palette, pins={}, ties=(), batch_size=1,
            threads=None,
        )  # fmt: skip
        metric = resolve(MetricChoice(), drawn.model, tuning)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.tuning = tuning
        self.layout, rounding = round_units(drawn.model, layout, tuning, profile, folder=folder)
        self.whole = rounding.whole
        self.rounder, unseen = rounding.rounder, rounding.unseen
        self.measured = unseen if samples is None else unseen.take(samples)
        self.setting = Setting(metric, folder)
        self.references = {
            "calibration": Reference(drawn.model, self.measured, metric),
            "heldout": Reference(drawn.model, heldout, metric),
        }
        self.test = {"test": Reference(drawn.model, drawn.test, metric)}

    def cell(self, target: float, mode: Sensitivity, rounds: int) -> Cell | None:
        """The refined plan against the optimum; None if nothing is so small."""
        table = find_sensitivity(
            mode, self.layout, self.rounder, self.measured, Budget(compression=target),
            self.setting,
        )  # fmt: skip
        problem = self.layout.problem(table)
        if problem.extreme("weight_bytes").compression < target:
            return None
        limits = Limits(weight_bytes=int(problem.original_bytes / target))
        ledger = open_ledger(optuna.storages.InMemoryStorage(), "cell", problem, limits)
        session = Session(WholePlans(self.rounder, self.references), ledger, silent)
        assignment = solve(problem, limits).assignment
        (optimum,) = session.run([Proposal("optimum", "additive", assignment)])
        start = time.process_time()
        fingerprint = self.layout.model_fingerprint
        measuring = Measuring(
            lambda plan: self.setting.store(fingerprint, self.measured, self.rounder, plan)
        )
        refinement = Refinement(rounds, measuring)
        refined = refinement.of(session, optimum, [], limits, lambda trial: True)
        seconds = time.process_time() - start
        best = refined.best
        assert best.heldout is not None
        assert optimum.heldout is not None
        ours, theirs = best.proposal.assignment, optimum.proposal.assignment
        final = deployed(
            session, best, self.layout.graph, self.tuning, whole=self.whole, sequential=True,
            measured_samples=self.measured.samples, accept=lambda rounder, trial: True,
        )  # fmt: skip
        base = self._test_error(self.rounder, theirs)
        return Cell(
            optimum.measured.error / optimum.totals.error,
            best.measured.error / optimum.measured.error,
            best.heldout.error / optimum.heldout.error,
            self._test_error(self.rounder, ours) / base,
            self._test_error(final.rounder, ours) / base,
            sum(ours[unit] != theirs[unit] for unit in ours),
            seconds,
        )

    def _test_error(self, rounder: Rounder, assignment: Mapping[str, Format]) -> float:
        return statistics.fmean(joint_errors(rounder, assignment, self.test, "plan")["test"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--targets", type=float, nargs="+", default=[6, 8, 10, 12])
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--grids", nargs="+")
    parser.add_argument("--group-sizes", type=int, nargs="+", default=list(DEFAULT_GROUP_SIZES))
    parser.add_argument("--samples", type=int, help="measured on, at most")
    parser.add_argument("--sensitivity", default="measured", choices=["measured", "auto"])
    parser.add_argument("--folder", type=Path, default=Path("benchmark-runs"))
    arguments = parser.parse_args()
    palette = Palette(BITS, arguments.group_sizes, arguments.grids, arguments.method)
    columns = (
        "model", "target", "additive", "calibration", "held-out", "test", "test, each draw",
        "deployed",        "units changed", "CPU s",
    )  # fmt: skip
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)
    kind = "-".join([arguments.method, *(arguments.grids or ()), *map(str, arguments.group_sizes)])
    for name in arguments.models:
        cells: dict[float, list[Cell]] = {target: [] for target in arguments.targets}
        for seed in arguments.draws:
            folder = arguments.folder / f"refine-{name}-{seed}-{kind}"
            drawn = Drawn(name, seed, palette, arguments.samples, folder)
            for target in arguments.targets:
                found = drawn.cell(target, arguments.sensitivity, arguments.rounds)
                print(f"{name} {target:g}x, draw {seed}: {found}", file=sys.stderr, flush=True)
                cells[target] += [] if found is None else [found]
        for target, row in cells.items():
            print(f"| {name} | {target:g}x | {_row(row)}", flush=True)


def _row(cells: list[Cell]) -> str:
    if not cells:
        return "no plan is so small |" + " |" * 7
    test = [cell.test for cell in cells]
    parts = [
        f"{statistics.fmean(cell.additive for cell in cells):.2f}",
        _mean([cell.calibration for cell in cells]),
        _mean([cell.heldout for cell in cells]),
        _mean(test),
        ", ".join(f"{value:.3f}" for value in test),
        _mean([cell.deployed for cell in cells]),
        ", ".join(str(cell.changes) for cell in cells),
        f"{statistics.fmean(cell.seconds for cell in cells):.1f}",
    ]
    return " | ".join(parts) + " |"


def _mean(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    se = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):.3f} ± {se:.3f}"


if __name__ == "__main__":
    main()
