"""The files of a run folder, each written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mixq import __version__
from mixq.errors import OutputError
from mixq.files import one_line
from mixq.formats import Format
from mixq.plan import Plan, weights_file
from mixq.report.audit import write_audit_html, write_audit_png
from mixq.report.heat_map import write_heat_html, write_heat_png
from mixq.report.machine import machine
from mixq.report.pareto import write_pareto_html, write_pareto_png
from mixq.report.prices import Prices
from mixq.report.records import Records
from mixq.report.run import Run
from mixq.search.audit import Audit
from mixq.search.folder import RunFolder
from mixq.search.weight_picture import HISTOGRAM
from mixq.sensitivity.table import SensitivityTable

if TYPE_CHECKING:
    from mixq.search.result import SearchResult

AUDIT: Final = "audit.json"
COSTS: Final = "costs.json"


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
    costs = folder.path / COSTS
    Prices.of(result).save(costs)
    drawn = _draw(records, result.sensitivity, result.plan, folder.path)
    audited = _write_audit(result, folder.path)
    histogram = folder.path / HISTOGRAM  # left by the search, which had the weights
    counted = [histogram] if histogram.exists() else []
    files = [plan, *weights, *sensitivity, *others, costs, *counted, *drawn, *audited]
    facts = {
        "mixq_version": result.plan.mixq_version,
        "machine": machine(),
        "budget": result.plan.budget,
        "seed": result.plan.seed,
        "study": result.study.study_name,
        "files": [file.name for file in files],
    }
    return [*files, folder.write("done", facts)]


def write_analysis(table: SensitivityTable, folder: RunFolder, name: str) -> list[Path]:
    """Write what an analysis of a model leaves; a finished search in the folder stays finished.

    Args:
        table: what was measured.
        folder: of the run.
        name: of the model.

    Raises:
        OutputError: if a file cannot be written.
    """
    files = [*write_sensitivity(table, folder.path), *_draw_map(table, folder.path, name)]
    if folder.state != "done":
        facts = {"mixq_version": __version__, "machine": machine()}
        folder.write("analyzed", facts | {"files": [file.name for file in files]})
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


def _write_audit(result: SearchResult, folder: Path) -> list[Path]:
    if result.audit is None:
        return []
    file = folder / AUDIT
    result.audit.save(file)
    return [file, *_draw_audit(result.audit, folder, _title(result.plan))]


def _draw_audit(audit: Audit, folder: Path, title: str) -> list[Path]:
    files = [folder / "audit.html", folder / "audit.png"]
    write_audit_html(audit, files[0], title)
    write_audit_png(audit, files[1], title)
    return files


def redraw(run: Run) -> list[Path]:
    """Draw the plots of a run again; of an analysis the map alone.

    Raises:
        OutputError: if a file cannot be written.
    """
    folder, plan = run.folder, run.plan
    if plan is None or run.records is None:
        return _draw_map(run.table, folder, "sensitivities")
    drawn = _draw(run.records, run.table, plan, folder)
    return drawn if run.audit is None else [*drawn, *_draw_audit(run.audit, folder, _title(plan))]


def _title(plan: Plan) -> str:
    return f"{plan.model.name} on {plan.hardware.name}"


def _draw(records: Records, sensitivity: SensitivityTable, plan: Plan, folder: Path) -> list[Path]:
    title = _title(plan)
    files = [folder / "pareto.html", folder / "pareto.png"]
    write_pareto_html(records.points(), files[0], title, records.metric)
    write_pareto_png(records.points(), files[1], title, records.metric)
    return [*files, *_draw_map(sensitivity, folder, title, plan.assignment)]


def _draw_map(
    table: SensitivityTable,
    folder: Path,
    title: str,
    assignment: Mapping[str, Format] | None = None,
) -> list[Path]:
    files = [folder / "sensitivity.html", folder / "sensitivity.png"]
    write_heat_html(table, files[0], title, assignment)
    write_heat_png(table, files[1], title, assignment)
    return files
