"""The files of a run folder, each written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mixq.files import write_json_atomic
from mixq.plan import Plan
from mixq.report.pareto import write_pareto_html, write_pareto_png
from mixq.report.records import Records

if TYPE_CHECKING:
    from mixq.search.run import SearchResult
    from mixq.sensitivity.table import SensitivityTable


def write_results(result: SearchResult, folder: Path, identity: Mapping[str, str]) -> list[Path]:
    """Write everything that a search leaves; the paths, plan.json first.

    run.json comes last: its state `done` says that all the others are there.

    Raises:
        OutputError: if a file cannot be written.
    """
    records = Records.of(result)
    plan = folder / "plan.json"
    result.plan.save(plan)
    files = [plan, *write_sensitivity(result.sensitivity, folder)]
    records.save(folder / "frontier.json")
    records.save_csv(folder / "frontier.csv")
    files += [folder / "frontier.json", folder / "frontier.csv"]
    files += _draw(records, result.plan, folder)
    run = folder / "run.json"
    write_json_atomic(
        run,
        {
            "schema_version": 1,
            "identity": dict(identity),
            "state": "done",
            "mixq_version": result.plan.mixq_version,
            "budget": result.plan.budget,
            "seed": result.plan.seed,
            "study": result.study.study_name,
            "files": [file.name for file in files],
        },
    )
    return [*files, run]


def write_sensitivity(table: SensitivityTable, folder: Path) -> list[Path]:
    """Write sensitivity.json and sensitivity.csv."""
    files = [folder / "sensitivity.json", folder / "sensitivity.csv"]
    table.save(files[0])
    table.save_csv(files[1])
    return files


def redraw(folder: Path, plan: Plan) -> list[Path]:
    """Draw the plots of a finished run again, from its frontier.json.

    Raises:
        PlanError: if frontier.json is missing or damaged.
        OutputError: if a file cannot be written.
    """
    return _draw(Records.load(folder / "frontier.json"), plan, folder)


def _draw(records: Records, plan: Plan, folder: Path) -> list[Path]:
    title = f"{plan.model.name} on {plan.hardware.name}"
    files = [folder / "pareto.html", folder / "pareto.png"]
    write_pareto_html(records.points(), files[0], title)
    write_pareto_png(records.points(), files[1], title)
    return files
