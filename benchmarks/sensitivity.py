"""Ways to know sensitivities, side by side: what they cost, and what their plans are worth.

    OMP_NUM_THREADS=1 python benchmarks/sensitivity.py minilm efficientnet_lite0
    OMP_NUM_THREADS=1 python benchmarks/sensitivity.py smollm2 --samples 8 --heldout 8 --every 20

Every unit at 8, 4 and 2 bits, rounded to nearest in groups of 64. *naive*: the whole model for
each measurement. *measured*: what follows the unit alone. *limit*: what could be gained at most if
only arithmetic took time: multiply-accumulates of the pass over those from each unit on, on
average. *sketch*: 8 samples with 2 random signs each. *auto*: measured where a plan of the target
depends on it (`mixq.search.race`), begun afresh for each target.

With --every N the naive way is run for each Nth unit only, and its seconds times N stand in the
table. CPU seconds of one run, the ways in turn. Plans are the exact optima of the tables. *added
error*: of a plan's units, each alone, by the measured table, which is what the ways differ in;
*held-out error*: of the whole plan, all units rounded, on samples that no table has seen.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from mixq.calibration import Calibration
from mixq.formats import Format
from mixq.profiles import load as load_profile
from mixq.rounding.rounder import Rounder
from mixq.search.analysis import Layout, lay_out
from mixq.search.budget import Budget
from mixq.search.limits import Limits
from mixq.search.palette import Palette
from mixq.search.race.race import race
from mixq.search.solve import solve
from mixq.sensitivity.engine import Engine
from mixq.sensitivity.measured import measure
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.sketch import sketch
from mixq.sensitivity.store import Store
from mixq.sensitivity.table import SensitivityTable

MODELS = Path(__file__).resolve().parents[1] / "examples" / "models"
PALETTE = Palette((32, 8, 4, 2), (64,), method="rtn")
SKETCHED, PROBES = 8, 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--heldout", type=int, default=32)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--targets", default="6,8,10,12")
    arguments = parser.parse_args()
    targets = [float(text) for text in arguments.targets.split(",")]
    for name in arguments.models:
        Subject(name, arguments.samples, arguments.heldout).report(arguments.every, targets)


class Subject:
    """A model with its data, and its table as measured on all samples."""

    def __init__(self, name: str, samples: int, heldout: int) -> None:
        self.name = name
        self.model, calibration = loaded(name, samples + heldout)
        self.calibration = calibration.part(0, samples)
        self.heldout = Reference(self.model, calibration.part(samples, samples + heldout))
        self.layout: Layout = lay_out(
            self.model, self.calibration, load_profile("intel_cpu"), palette=PALETTE, pins={},
            ties=(), batch_size=1, threads=None,
        )  # fmt: skip
        self.rounder = Rounder(self.model, self.layout.graph.units)
        self.units = list(self.layout.graph.units.values())
        self.measurements = len(self.units) * sum(1 for b in PALETTE.bits if b < 32)

    def report(self, every: int, targets: list[float]) -> None:
        store = Store(None)
        table, measured_s = timed(lambda: self.measured(store))
        naive_s, same = self.naive(every, store)
        sketched, sketch_s = timed(self.sketched)
        limit = self.limit()
        ratio = naive_s / measured_s
        print(
            "| model | samples | measurements | naive, CPU s | measured | ratio | limit | of it | "
            "same bits | sketch | ratio |\n" + "|---" * 11 + "|"
        )
        print(
            f"| {self.name} | {self.calibration.samples} | {self.measurements} | {naive_s:.0f}"
            f"{f' (each {every}th unit)' if every > 1 else ''} | {measured_s:.1f} | {ratio:.2f} | "
            f"{limit:.2f} | {ratio / limit:.0%} | {'yes' if same else 'NO'} | {sketch_s:.1f} | "
            f"{naive_s / sketch_s:.1f} |\n",
            flush=True,
        )
        print(
            "| model | target | auto, CPU s | naive / auto | added error: auto / measured | "
            "held-out error: measured | auto | auto / measured | sketch / measured |\n"
            + "|---" * 9
            + "|"
        )
        smallest = self.layout.problem(table).extreme("weight_bytes")
        for target in targets:
            if smallest.compression < target:
                least = f"2 bits are {smallest.compression:.2f}x"
                print(f"| {self.name} | {target:g}x | no plan: {least} |" + " |" * 6)
                continue
            auto, auto_s = timed(lambda t=target: self.auto(t))
            plans = [self.plan(t, target) for t in (table, auto, sketched)]
            best, raced, drawn = map(self.error, plans)
            problem = self.layout.problem(table)
            added = [problem.evaluate(plan).error for plan in plans]
            print(
                f"| {self.name} | {target:g}x | {auto_s:.1f} | {naive_s / auto_s:.1f} | "
                f"{added[1] / added[0]:.3f} | "
                f"{best:.4g} | {raced:.4g} | {raced / best:.3f} | {drawn / best:.3f} |",
                flush=True,
            )
        print(flush=True)

    def measured(self, store: Store) -> SensitivityTable:
        return measure(
            self.model, self.calibration, self.units, self.layout.formats, rounder=self.rounder,
            store=store,
        )  # fmt: skip

    def naive(self, every: int, store: Store) -> tuple[float, bool]:
        """Seconds for all units, and whether those that were run gave the bits of `store`."""
        reference = Reference(self.model, self.calibration)
        order = Engine(reference).order
        units = sorted(self.units, key=lambda unit: order((unit.name, *unit.aliases)))[::every]
        same, seconds = True, 0.0
        for unit in units:
            for fmt in self.layout.formats[unit.name]:
                if fmt.bits < 32:
                    start = time.process_time()
                    replacement = self.rounder.replacement(unit.name, fmt)
                    errors = reference.errors(replacement, unit.name)
                    seconds += time.process_time() - start
                    same &= errors == store.get(unit.name, fmt.name)
        return seconds * len(self.units) / len(units), same

    def sketched(self) -> SensitivityTable:
        entries = sketch(
            self.model, self.calibration.take(SKETCHED), self.units, self.layout.formats,
            self.rounder, probes=PROBES,
        )  # fmt: skip
        return SensitivityTable(entries, 1.0, "", SKETCHED, "", "", "sketch")

    def auto(self, target: float) -> SensitivityTable:
        return race(self.layout, self.rounder, self.calibration, Budget(compression=target))

    def plan(self, table: SensitivityTable, target: float) -> dict[str, Format]:
        """The one that a table leads to."""
        problem = self.layout.problem(table)
        limits = Limits(weight_bytes=int(problem.original_bytes / target))
        return dict(solve(problem, limits).assignment)

    def error(self, plan: dict[str, Format]) -> float:
        """Of all units rounded, on held-out samples."""
        return statistics.fmean(self.heldout.errors(self.rounder.joint(plan), "the plan"))

    def limit(self) -> float:
        nodes = list(self.layout.graph.digraph.nodes(data=True))
        macs = [data["work"].macs for _, data in nodes]
        readers = [data["units"] for _, data in nodes]
        firsts = [
            next((i for i, read in enumerate(readers) if unit.name in read), len(nodes))
            for unit in self.units
        ]
        return sum(macs) / statistics.fmean(sum(macs[first:]) for first in firsts)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return run(), time.process_time() - start


def loaded(name: str, samples: int) -> tuple[nn.Module, Calibration]:
    """The example model with as many calibration samples, more than it has by default if need be.

    Raises:
        SystemExit: if it has fewer.
    """
    sys.path.insert(0, str(MODELS))
    module = importlib.import_module(name)
    model, calibration = module.load()[:2]
    if calibration.samples < samples:
        model, calibration = module.load(samples)[:2]
    if calibration.samples < samples:
        raise SystemExit(f"error: {name} has {calibration.samples} samples, not {samples}")
    return model, calibration


if __name__ == "__main__":
    main()
