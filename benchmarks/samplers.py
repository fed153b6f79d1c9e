"""Exact proposals beside Optuna's own samplers, on the demo at equal numbers of measured plans.

    OMP_NUM_THREADS=1 python benchmarks/samplers.py --trials 32 --seeds 3

For each budget: the least calibration error among the plans that a sampler proposed itself, and
the held-out error of that plan; means over seeds. `warm` starts from the exact frontier, as
`mixq search --sampler` does; `cold` knows the uniform plans alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from statistics import fmean
from typing import get_args

import mixq
import mixq.search.find
from mixq.demo import load
from mixq.search.request import Sampler
from mixq.search.result import SearchResult
from mixq.search.study import sampled

BUDGETS = (6.0, 8.0, 10.0)


def best(result: SearchResult, sampler: Sampler) -> tuple[float, float] | None:
    """Calibration and held-out error of the best plan that the sampler proposed itself.

    As they were measured beside other plans: the chosen one may have been rounded once more.
    """
    name = "optimum" if sampler == "mixq" else "sampled"
    own = [
        {unit: fmt.name for unit, fmt in trial.proposal.assignment.items()}
        for trial in result.trials
        if trial.proposal.name.startswith(name)
    ]
    errors = [
        (trial.values[0], fmean(trial.user_attrs["heldout_errors"]))
        for trial in result.study.trials
        if trial.params in own
    ]
    return min(errors, default=None)


def row(sampler: Sampler, budget: float, trials: int, seeds: int, folder: str) -> Sequence[str]:
    model, calibration, _ = load()
    found: list[tuple[float, float]] = []
    measured: list[int] = []
    for seed in range(seeds):
        result = mixq.search(
            model, calibration, hardware="intel_cpu", target_compression=budget, trials=trials,
            seed=seed, sampler=sampler, sequential=False, rounds=0, folder=folder,
        )  # fmt: skip
        measured.append(sum(trial.proposal.kind != "uniform" for trial in result.trials))
        errors = best(result, sampler)
        found += [] if errors is None else [errors]
    count = f"{fmean(measured):.0f}"
    if not found:
        return [count, "none", "", ""]
    tuning, heldout = zip(*found, strict=True)
    spread = f"{min(tuning):.3g} to {max(tuning):.3g}"
    return [count, f"{fmean(tuning):.3g}", spread, f"{fmean(heldout):.3g}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("| budget | sampler | plans measured | best error | of the seeds | its held-out error |")
    print("|---|---|---|---|---|---|")
    exact = sampled.warm_start
    with tempfile.TemporaryDirectory() as folder:
        for budget in BUDGETS:
            for sampler in get_args(Sampler):
                for start in ("warm",) if sampler == "mixq" else ("cold", "warm"):
                    warm = start == "warm"
                    mixq.search.find.warm_start = exact if warm else lambda *_: []  # type: ignore
                    name = sampler if sampler == "mixq" else f"{sampler}, {start}"
                    values = row(sampler, budget, options.trials, options.seeds, folder)
                    print(f"| {budget:g}x | {name} |", " | ".join(values), "|", flush=True)


if __name__ == "__main__":
    main()
