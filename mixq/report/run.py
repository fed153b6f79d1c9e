"""Run: everything that a run folder holds for a report, read and checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mixq.errors import FormatError, PlanError
from mixq.files import one_line, parse_json, read_bounded
from mixq.formats import Format
from mixq.plan import Plan
from mixq.quantize.histogram import Histogram
from mixq.report.bench_file import BenchFile
from mixq.report.prices import Prices
from mixq.report.records import Records
from mixq.search.audit import Audit
from mixq.sensitivity.table import SensitivityTable

LARGEST_RUN: Final = 1 << 20


@dataclass(frozen=True)
class Run:
    """What a report shows.

    Attributes:
        folder: where it was read.
        table: sensitivities, which every run has.
        plan, records: of a finished search; both or none.
        audit, prices, histogram, bench: where there are any; earlier versions left fewer.
        facts: of run.json.
    """

    folder: Path
    table: SensitivityTable
    plan: Plan | None = None
    records: Records | None = None
    audit: Audit | None = None
    prices: Prices | None = None
    histogram: Histogram | None = None
    bench: BenchFile | None = None
    facts: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, bench: Path | None = None) -> Run:
        """Read a folder of `mixq search` or `mixq analyze`.

        Args:
            folder: its path.
            bench: a bench.json; by default the one in the folder, or in its folder `bench`.

        Raises:
            PlanError: if there is nothing to report, a file is damaged, or files are of different
                runs.
        """
        shown = one_line(folder)
        if not folder.is_dir():
            raise PlanError(f"run {shown} is not a folder; name the one that mixq search wrote")
        plan_file, table_file = folder / "plan.json", folder / "sensitivity.json"
        has_plan = plan_file.exists()
        if not has_plan and not table_file.exists():
            raise PlanError(
                f"folder {shown} has neither {one_line(plan_file)} nor a sensitivity.json, so "
                f"there is nothing to report; run mixq search --output {shown}"
            )
        plan = Plan.load(plan_file) if has_plan else None
        records = Records.load(folder / "frontier.json") if has_plan else None
        if plan is not None and records is not None:
            _check(plan, records, shown)
        found = bench or next(
            (p for p in (folder / "bench.json", folder / "bench" / "bench.json") if p.exists()),
            None,
        )
        audit, prices = folder / "audit.json", folder / "costs.json"
        histogram = folder / "histogram.json"
        return cls(
            folder=folder,
            table=SensitivityTable.load(table_file),
            plan=plan,
            records=records,
            audit=Audit.load(audit) if has_plan and audit.exists() else None,
            prices=Prices.load(prices) if has_plan and prices.exists() else None,
            histogram=Histogram.load(histogram) if histogram.exists() else None,
            bench=None if found is None else BenchFile.load(found),
            facts=_facts(folder / "run.json"),
        )


def _facts(path: Path) -> Mapping[str, object]:
    """run.json's object; nothing where there is none, which a plan can do without."""
    if not path.exists():
        return {}
    text = read_bounded(path, LARGEST_RUN, PlanError, "run")
    value = parse_json(text, PlanError, f"run {path}")
    if not isinstance(value, dict):
        raise PlanError(f"run {one_line(path)} is no JSON object; search again")
    return value


def _check(plan: Plan, records: Records, shown: str) -> None:
    """That plan and frontier are of the same units, and formats have names that can be read."""
    if set(records.units) != set(plan.layers) or len(records.units) != len(plan.layers):
        raise PlanError(
            f"frontier.json and plan.json in {shown} are of different units; the same "
            "mixq search writes both anew"
        )
    try:
        for name in records.formats:
            Format.parse(name)
    except FormatError as error:
        raise PlanError(f"frontier.json in {shown}: {error}") from error
