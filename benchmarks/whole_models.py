"""Fit of the efficiencies behind predictions of whole models, and how well models left out are predicted."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from mixq.cost.fit import Prior, fit_parameters
from mixq.errors import MixqError
from mixq.predict.efficiency import NARROWER, Group, expectations, group_of
from mixq.predict.row import Row
from mixq.predict.rows import read_rows
from mixq.predict.terms import PARAMETERS, Efficiency, Terms, terms_of
from mixq.profiles import Profile
from mixq.profiles import loader

LIMITS = {name: (1e-3, 1.0) for name in PARAMETERS} | {"overhead_s": (1e-8, 1e-2), "call_s": (1e-7, 1.0)}
NOISE = 0.12


@dataclass(frozen=True)
class Case:
    row: Row
    terms: Terms
    group: Group
    model: str
    measured_s: float
    gpu: bool


def profiles() -> dict[str, Profile]:
    found = {}
    for name in loader.available(published=True):
        profile = loader.load(name)
        for chip in profile.chips:
            found[chip] = profile
    return found


def cases(path: Path) -> tuple[list[Case], list[tuple[Row, str]]]:
    chips = profiles()
    _, rows = read_rows(path)
    found, refused = [], []
    for row in rows:
        if row.is_product:
            continue
        profile = chips.get(row.chip)
        if profile is None:
            refused.append((row, f"no profile of {row.chip}"))
            continue
        try:
            terms = terms_of(profile, row)
        except MixqError as error:
            refused.append((row, str(error)))
            continue
        if row.unit == "x":
            refused.append((row, "ratio"))
            continue
        measured = row.seconds(terms.things)
        assert measured is not None
        found.append(Case(row, terms, group_of(row, terms.job.phase, profile.name), model_key(terms), measured, profile.units_per_core > 1))
    return found, refused


def model_key(terms: Terms) -> str:
    """One key for networks of one architecture, so that leaving one out leaves its twins out."""
    from mixq.predict.models.catalogue import transformer

    found = transformer(terms.job.network)
    if found is None:
        return terms.job.network
    return f"{found.layers}+{found.decoder_layers}x{found.hidden}/{found.heads}/{found.kv_heads}/{found.ffn}/{found.relative}/{found.groups}/{found.patches}"


def fit(chosen: Sequence[Case]) -> dict[str, dict[str, float]]:
    """Parameters of every circle that the cases reach."""
    found: dict[str, dict[str, float]] = {}
    for depth in range(3):
        circles: dict[str, list[Case]] = defaultdict(list)
        for case in chosen:
            circles[case.group.circles[depth]].append(case)
        for name, members in circles.items():
            found[name] = _fit_circle(members, depth, found)
    return found


def _fit_circle(members: Sequence[Case], depth: int, found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    first = members[0]
    if depth == 0:
        priors = expectations(first.row, gpu=first.gpu)
        return fit_parameters(lambda p: _errors(members, p), priors, weights=[1.0] * len(members), noise=NOISE, limits=LIMITS)
    above = found[first.group.circles[depth - 1]]
    priors = {name: Prior(above[name], NARROWER[name][depth - 1]) for name in PARAMETERS}
    return fit_parameters(lambda p: _errors(members, p), priors, weights=[1.0] * len(members), noise=NOISE, limits=LIMITS)


def _errors(members: Sequence[Case], parameters: Mapping[str, float]) -> list[float]:
    efficiency = Efficiency(**parameters)
    return [math.log(case.terms.seconds(efficiency) / case.measured_s) for case in members]


def predict(found: Mapping[str, Mapping[str, float]], case: Case) -> tuple[float, int]:
    """Seconds, and how many circles knew the row."""
    for depth in (2, 1, 0):
        name = case.group.circles[depth]
        if name in found:
            return case.terms.seconds(Efficiency(**found[name])), depth + 1
    return case.terms.seconds(Efficiency(**{n: p.centre for n, p in expectations(case.row, gpu=case.gpu).items()})), 0


def leave_out(all_cases: Sequence[Case]) -> list[tuple[Case, float, int]]:
    whole = fit(all_cases)
    results = []
    for model in sorted({case.model for case in all_cases}):
        held = [case for case in all_cases if case.model == model]
        touched = {case.group.family for case in held}
        rest = [case for case in all_cases if case.model != model and case.group.family in touched]
        found = fit(rest)
        results += [(case, *predict(found, case)) for case in held]
    return results


def table(results: Sequence[tuple[Case, float, int]], key) -> None:
    groups = defaultdict(list)
    for case, seconds, depth in results:
        groups[key(case)].append((case, seconds))
    print(f"{'group':58s} rows  median  mean  <30%  | roofline median mean")
    for name, members in sorted(groups.items()):
        errors = [abs(_shown(c, s) / _shown(c, c.measured_s) - 1) for c, s in members]
        roof = [abs(_shown(c, c.terms.roofline_s) / _shown(c, c.measured_s) - 1) for c, s in members]
        print(f"{name:58s} {len(members):4d} {statistics.median(errors):7.1%} {statistics.fmean(errors):6.1%} {sum(e <= .3 for e in errors) / len(errors):5.0%} | {statistics.median(roof):7.1%} {statistics.fmean(roof):8.1%}")


def _shown(case: Case, seconds: float) -> float:
    return case.row.in_unit(seconds, case.terms.things)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=Path, default=Path(__file__).parent / "data" / "published.csv")
    parser.add_argument("--worst", type=int, default=0)
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    found, refused = cases(args.rows)
    print(len(found), "rows;", len(refused), "refused")
    for reason in sorted({f"{row.model_or_op}: {why[:90]}" for row, why in refused}):
        print("  ", reason)
    if args.train:
        numbers = fit(found)
        results = [(case, *predict(numbers, case)) for case in found]
    else:
        results = leave_out(found)
    table(results, lambda c: "all")
    table(results, lambda c: f"{'GPU' if c.gpu else 'CPU'} w{c.row.weight_bits:g}a{c.row.activation_bits or 0:g}")
    table(results, lambda c: c.group.family)
    table(results, lambda c: c.group.circles[1])
    worst = sorted(results, key=lambda r: -abs(math.log(r[1] / r[0].measured_s)))
    for case, seconds, depth in worst[: args.worst]:
        print(f"{math.log(seconds / case.measured_s):+.2f} {depth} {case.row.chip[:22]:22s} {case.row.runtime[:22]:22s} {case.row.kernel[:22]:22s} {case.row.cores_or_threads:14s} {case.row.model_or_op[:34]:34s} b{case.row.batch} {case.row.seq} {case.row.metric[:10]} {case.row.value} {case.row.unit} pred {_shown(case, seconds):.4g}")


if __name__ == "__main__":
    main()
