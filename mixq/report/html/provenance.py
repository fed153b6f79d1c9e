"""Provenance: what a run was made of, with what and by which command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from mixq.files import one_line
from mixq.report.run import Run

LONGEST: int = 600


def provenance(run: Run) -> list[tuple[str, str]]:
    """Names and values, in the order of reading."""
    plan, table, facts = run.plan, run.table, run.facts
    rows: list[tuple[str, str]] = []
    if plan is not None:
        budget = ", ".join(f"{one_line(k, 40)} {v:g}" for k, v in plan.budget.items())
        shapes = ", ".join(f"{one_line(k, 40)} {v}" for k, v in plan.workload.shapes.items())
        outputs = ", ".join(one_line(name, 60) for name in plan.error_metric.outputs)
        of = f" of {outputs}" if outputs else ""
        rows += [
            ("command", command(facts)),
            ("model", one_line(plan.model.name)),
            ("parameters", f"{plan.model.parameters:,}"),
            ("model fingerprint", one_line(plan.model.fingerprint, 100)),
            ("calibration fingerprint", one_line(table.calibration_fingerprint, 100)),
            ("hardware", one_line(plan.hardware.name, 100)),
            ("hardware fingerprint", one_line(plan.hardware.fingerprint, 100)),
            ("runtime", f"{one_line(plan.hardware.runtime, 60)}, {plan.hardware.threads} threads"),
            ("workload", f"batch {plan.workload.batch_size}; {shapes}" if shapes else
             f"batch {plan.workload.batch_size}"),
            ("demands", budget or "none"),
            ("error metric", f"{one_line(plan.error_metric.name, 60)}{of}"),
            ("sensitivities", f"{one_line(table.mode, 20)}, {table.samples} samples"),
            ("certificate", f"objective {plan.certificate.objective:.6g}, lower bound "
             f"{plan.certificate.lower_bound:.6g}, {one_line(plan.certificate.solver, 40)}"),
            ("seed", str(plan.seed)),
            ("mixq", one_line(plan.mixq_version, 40)),
        ]  # fmt: skip
    else:
        rows += [
            ("model fingerprint", one_line(table.model_fingerprint, 100)),
            ("calibration fingerprint", one_line(table.calibration_fingerprint, 100)),
            ("error metric", one_line(table.metric, 60)),
            ("sensitivities", f"{one_line(table.mode, 20)}, {table.samples} samples"),
            ("mixq", one_line(facts.get("mixq_version", "not said"), 40)),
        ]
    machine = facts.get("machine")
    if isinstance(machine, Mapping):
        rows.append(
            ("made on", ", ".join(f"{one_line(k, 40)} {one_line(v, 100)}"
                                  for k, v in machine.items()))
        )  # fmt: skip
    return rows


def command(facts: Mapping[str, object]) -> str:
    """The command line of a search, from the options that run.json keeps."""
    request = facts.get("request")
    if not isinstance(request, Mapping):
        return "not recorded: the library or an earlier mixq made this run"
    words = ["mixq", "search"]
    for name, value in request.items():
        option = f"--{str(name).replace('_', '-')}"
        if value is True:
            words.append(option)
        elif isinstance(value, list):
            words += [word for item in value for word in (option, str(item))]
        elif value is False:
            words.append(f"--no-{option[2:]}")
        else:
            words += [option, str(value)]
    return one_line(shlex.join(words), LONGEST)
