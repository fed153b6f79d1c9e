"""The files of a run folder, each written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mixq.errors import OutputError
from mixq.files import one_line
from mixq.plan import Plan, weights_file
from mixq.report.pareto import write_pareto_html, write_pareto_png
from mixq.report.records import Records
from mixq.search.folder import RunFolder

if TYPE_CHECKING:
    from mixq.search.result import SearchResult
    from mixq.sensitivity.table import SensitivityTable


def write_results(result: SearchResult, folder: RunFolder) -> list[Path]:
    """Write everything that a search leaves; the paths, plan.json first.

    run.json comes last: its state `done` says that all the others are there, from one run.

    Raises:
        OutputError: if a file cannot be written.
    """
    folder.write("writing")
    records = Records.of(result)
    plan, *others = (folder.path / name for name in ("plan.json", "frontier.json", "frontier.csv"))
    weights = _save_plan(result.plan, plan)
    sensitivity = write_sensitivity(result.sensitivity, folder.path)
    records.save(others[0])
    records.save_csv(others[1])
    files = [plan, *weights, *sensitivity, *others, *_draw(records, result.plan, folder.path)]
    facts = {
        "mixq_version": result.plan.mixq_version,
        "budget": result.plan.budget,
        "seed": result.plan.seed,
        "study": result.study.study_name,
        "files": [file.name for file in files],
    }
    return [*files, folder.write("done", facts)]


def write_analysis(table: SensitivityTable, folder: RunFolder) -> list[Path]:
    """Write what an analysis leaves; a finished search in the folder stays finished.

    Raises:
        OutputError: if a file cannot be written.
    """
    files = write_sensitivity(table, folder.path)
    if folder.state != "done":
        folder.write("analyzed", {"files": [file.name for file in files]})
    return files


def write_sensitivity(table: SensitivityTable, folder: Path) -> list[Path]:
    """Write sensitivity.json and sensitivity.csv."""
    files = [folder / "sensitivity.json", folder / "sensitivity.csv"]
    table.save(files[0])
    table.save_csv(files[1])
    return files


def _save_plan(plan: Plan, path: Path) -> list[Path]:
    """Write plan.json; the file of weights beside it, of which no earlier run's stays."""
    plan.save(path)
    weights = path.with_name(weights_file(path))
    if plan.weights is not None:
        return [weights]
    try:
        weights.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{one_line(weights)} of an earlier run cannot be deleted: {error.strerror or error}; "
            "choose another folder with --output"
        ) from error
    return []


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
    write_pareto_html(records.points(), files[0], title, records.metric)
    write_pareto_png(records.points(), files[1], title, records.metric)
    return files
