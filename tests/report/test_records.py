"""Records: the frontier file, thinned, whole, and strict when it is read."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import ValidationError

from mixq.errors import PlanError
from mixq.formats import Format
from mixq.report.records import MOST_POINTS, Record, Records
from mixq.search.choice import Choice
from mixq.search.frontier import build_frontier
from mixq.search.problem import Problem
from mixq.search.trials import Kind, Proposal, Trial

if TYPE_CHECKING:
    from mixq.search.result import SearchResult

W8, W4, W2 = Format(8, 64), Format(4, 64), Format(2, 64)


def result(units: int, heldout: tuple[float, ...] | None = (0.5,)) -> SearchResult:
    """A search's result as far as records read it; sizes make every subset sum different."""
    rows = {
        f"u{i}": tuple(
            Choice(fmt, 3.0**i * fraction, 64 * 3**i * fmt.bits, 1e-6)
            for fmt, fraction in ((W8, 0.1), (W4, 0.3), (W2, 1.0))
        )
        for i in range(units)
    }
    problem = Problem(rows, original_bytes=64 * 3**units * 32)

    def trial(name: str, kind: Kind, fmt: Format) -> Trial:
        assignment = dict.fromkeys(rows, fmt)
        proposal = Proposal(name, kind, assignment)
        return Trial(proposal, problem.evaluate(assignment), (1.0, 3.0), heldout)

    chosen = trial("optimum", "additive", W4)
    plain = (trial("uniform 8", "uniform", W8), trial("w4g32 everywhere", "single", W4))
    trials = (*plain, chosen, trial("tilt", "tilted", W2))
    table = SimpleNamespace(metric="relative")
    found = SimpleNamespace(
        frontier=build_frontier(problem),
        trials=trials,
        chosen=chosen,
        sensitivity=table,
        audit=None,
    )
    return cast("SearchResult", found)


def test_a_small_frontier_is_written_in_full() -> None:
    found = result(3)
    records = Records.of(found)
    assert records.frontier_points == len(found.frontier) <= MOST_POINTS
    drawn = [plan for plan in records.plans if plan.kind == "frontier"]
    assert len(drawn) == len(found.frontier)
    assert [plan.name for plan in drawn] == [
        f"frontier {i + 1} of {len(found.frontier)}" for i in range(len(found.frontier))
    ]


def test_a_large_frontier_is_thinned_and_keeps_its_ends() -> None:
    found = result(9)
    count = len(found.frontier)
    assert count > MOST_POINTS
    records = Records.of(found)
    drawn = [plan for plan in records.plans if plan.kind == "frontier"]
    assert len(drawn) == MOST_POINTS
    assert records.frontier_points == count
    problem = found.frontier.problem
    for record, index in ((drawn[0], 0), (drawn[-1], count - 1)):
        totals = problem.evaluate(found.frontier.assignment(index))
        assert (record.weight_bytes, record.error) == (totals.weight_bytes, totals.error)
    sizes = [plan.weight_bytes for plan in drawn]
    assert sizes == sorted(sizes) or sizes == sorted(sizes, reverse=True)


def test_trials_and_the_chosen_one() -> None:
    records = Records.of(result(3))
    measured = [plan for plan in records.plans if plan.measured]
    assert [(plan.name, plan.kind) for plan in measured] == [
        ("uniform 8", "uniform"), ("w4g32 everywhere", "uniform"),
        ("optimum", "chosen"), ("tilt", "trial"),
    ]  # fmt: skip
    assert [plan.error for plan in measured] == [2.0] * 4
    assert measured[0].detail == "held-out error 0.5"
    assert [records.formats[i] for i in measured[2].formats] == ["w4g64"] * 3
    assert Records.of(result(3, heldout=None)).plans[-1].detail == ""


def test_records_name_their_metric(tmp_path: Path) -> None:
    records = Records.of(result(1))
    assert records.metric == "relative"
    path = tmp_path / "frontier.json"
    records.save(path)
    assert Records.load(path).metric == "relative"
    old = json.loads(path.read_text("utf-8"))
    del old["metric"]
    path.write_text(json.dumps(old), "utf-8")
    assert Records.load(path).metric == "mse"


def test_round_trip(tmp_path: Path) -> None:
    records = Records.of(result(3))
    records.save(tmp_path / "frontier.json")
    assert Records.load(tmp_path / "frontier.json") == records
    records.save_csv(tmp_path / "frontier.csv")
    with (tmp_path / "frontier.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["weight_bytes"]) for row in rows] == [p.weight_bytes for p in records.plans]
    # repr of a float is read back as the same float.
    assert [float(row["error"]) for row in rows] == [p.error for p in records.plans]
    assert [row["measured"] for row in rows[-3:]] == ["True"] * 3


def test_points_are_those_of_the_plots() -> None:
    records = Records.of(result(3))
    for record, point in zip(records.plans, records.points(), strict=True):
        assert (record.name, record.kind, record.error) == (point.name, point.kind, point.error)


PLAN: dict[str, Any] = {
    "name": "a", "kind": "trial", "weight_bytes": 1, "compression": 1.0, "error": 0.0,
    "latency_s": 1.0, "measured": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "best"}, "plans.0.kind"),
        ({"weight_bytes": 0}, "plans.0.weight_bytes"),
        ({"weight_bytes": 1.5}, "plans.0.weight_bytes"),
        ({"error": -1.0}, "plans.0.error"),
        ({"error": "0"}, "plans.0.error"),
        ({"measured": 1}, "plans.0.measured"),
        ({"formats": ["w8"]}, "plans.0.formats"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_record_that_breaks_a_rule(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    file = tmp_path / "frontier.json"
    whole = {
        "exact": True, "frontier_points": 0, "units": [], "formats": [], "plans": [PLAN | change]
    }  # fmt: skip
    file.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(PlanError) as caught:
        Records.load(file)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["plans", "units", "exact"])
def test_a_part_that_is_missing(tmp_path: Path, missing: str) -> None:
    file = tmp_path / "frontier.json"
    whole = {"exact": True, "frontier_points": 0, "units": [], "formats": [], "plans": []}
    del whole[missing]
    file.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(PlanError, match=missing):
        Records.load(file)


def test_a_number_that_cannot_be_plotted_is_refused_at_birth() -> None:
    with pytest.raises(ValidationError, match="compression"):
        Record(**{**PLAN, "compression": 0.0})
