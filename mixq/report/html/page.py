"""Page: the report as one HTML text that fetches nothing and runs nothing but its own scripts."""

from __future__ import annotations

import json
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined

from mixq.files import one_line
from mixq.report.html.adding import Adding
from mixq.report.html.agreement import Agreement
from mixq.report.html.headline import Headline
from mixq.report.html.heat import Heat
from mixq.report.html.latency import Latency
from mixq.report.html.network import Network
from mixq.report.html.plans import plans_data
from mixq.report.html.provenance import provenance
from mixq.report.html.weights import Weights
from mixq.report.run import Run

UNSAFE: Final = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&'\u2028\u2029"})
"""What could end a script element, or a line of it, in the middle of a JSON text."""


def page(run: Run) -> str:
    """The report of a run; the same run gives the same text."""
    plan = run.plan
    data: dict[str, Any] | None = None
    if plan is not None and run.records is not None:
        data = plans_data(run, plan, run.records)
    scripts = [_file("report.js")] if data is None else [_plotly(), _file("report.js")]
    return _environment().get_template("report.html.j2").render(
        title=_title(run),
        policy=policy(scripts),
        style=_file("report.css"),
        scripts=scripts,
        data=None if data is None else embedded(data),
        folder=one_line(run.folder),
        plan=plan,
        headline=None if plan is None else Headline.of(plan),
        network=None if plan is None else Network.of(plan),
        latency=None if plan is None else Latency.of(plan, run.prices),
        agreement=None if plan is None else Agreement.of(plan, run.audit, run.bench),
        adding=None if run.audit is None else Adding.of(run.audit),
        heat=Heat.of(run.table, None if plan is None else plan.assignment),
        weights=None if run.histogram is None else Weights.of(run.histogram),
        notes=[] if plan is None else [one_line(note, 2000) for note in plan.notes],
        provenance=provenance(run),
        state=one_line(run.facts.get("state", ""), 20),
    )  # fmt: skip


def embedded(value: object) -> str:
    """JSON that may stand in a script element, whatever texts are in it."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(UNSAFE)


def policy(scripts: list[str]) -> str:
    """The content security policy: these scripts, styles of the page, pictures in it, no more.

    Plotly sets styles of its own, which no hash can foresee.
    """
    hashes = " ".join(
        f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _title(run: Run) -> str:
    if run.plan is None:
        return "mixq analysis"
    return one_line(f"mixq: {run.plan.model.name} on {run.plan.hardware.name}", 200)


@cache
def _file(name: str) -> str:
    return files("mixq.report.html").joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_file),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
