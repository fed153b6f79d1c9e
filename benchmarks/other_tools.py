"""Other tools on mixq's models: the same data, the same bytes, the same measure of error.

    python benchmarks/other_tools.py --install /tmp/other-tools     # their environments, by pip
    python benchmarks/other_tools.py --folder /tmp/other-tools efficientnet_lite0 minilm smollm2
    python benchmarks/other_tools.py --tables                       # from the data file alone
    python benchmarks/other_tools.py --page                         # into docs/comparison.md

Every job is a process of its own (benchmarks/peers/), whose CPU time and peak memory are counted
whole, imports and loading included. Behind each tool mixq searches for a plan of at most the bytes
that the tool ended at. Errors and metrics are then measured here, by mixq's own code, on data that
no job was given, with what each made of the weights in the original torch model. Rows go to
benchmarks/data/other_tools.csv as they are made; those that are there are not made again.

mlx-lm, llama.cpp and mixq run in this environment (`mixq[examples,gguf,hf,mlx]`), the others in
their own (benchmarks/peers/*.txt).
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from mixq.sensitivity.estimate import Estimate

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
DATA = ROOT / "benchmarks" / "data" / "other_tools.csv"
PAGE = ROOT / "docs" / "comparison.md"
sys.path.insert(0, str(PEERS))

from jobs import JOBS, MIXQ, Job  # noqa: E402
from tables import tables, with_tables  # noqa: E402


@dataclass(frozen=True)
class Row:
    """One job's outcome, as a line of the data file.

    Attributes:
        against: of mixq, the tool whose bytes were the most that it might take.
        error: mean over the test samples, of what `error_metric` names, and its standard error.
        metric: the model's headline metric.
        cpu_s: of the whole process.
        peak_mb: its largest resident set [10^6 bytes].
    """

    model: str
    tool: str
    version: str
    setting: str
    kind: str
    against: str
    weight_bytes: int
    error_metric: str
    error: float
    error_se: float
    metric: str
    value: float
    cpu_s: float
    peak_mb: float
    note: str

    @property
    def key(self) -> tuple[str, ...]:
        return self.model, self.tool, self.setting, self.against


def read_rows() -> list[Row]:
    """The rows of the data file, in its order."""
    if not DATA.exists():
        return []
    with DATA.open(newline="", encoding="utf-8") as file:
        return [
            Row(**{f.name: _number(f.type, line[f.name]) for f in fields(Row)})
            for line in csv.DictReader(file)
        ]


def _number(kind: Any, text: str) -> Any:
    return {"int": int, "float": float}.get(kind, str)(text)


def write_rows(rows: list[Row]) -> None:
    with DATA.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def install(folder: Path) -> None:
    """One environment for each file of requirements."""
    for requirements in sorted(PEERS.glob("*.txt")):
        venv = folder / "venvs" / requirements.stem
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [venv / "bin" / "python", "-m", "pip", "install", "-q"]
        subprocess.run([*pip, "torch==2.13.0"], check=True)
        subprocess.run([*pip, "-r", requirements], check=True)


def run_job(job: Job, setting: dict[str, Any], kit: Path, output: Path, folder: Path) -> Any:
    """Run a job as a process. Returns its resources, from the kernel."""
    output.mkdir(parents=True, exist_ok=True)
    python = str(folder / "venvs" / job.venv / "bin" / "python") if job.venv else sys.executable
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(ROOT) if not job.venv else ""
    with (output / "log.txt").open("wb") as log:
        child = subprocess.Popen(
            [python, PEERS / job.script, kit, json.dumps(setting), output],
            stdout=log, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        tail = (output / "log.txt").read_text(encoding="utf-8", errors="replace")[-800:]
        raise RuntimeError(f"{job.tool} {job.setting} ended with {child.returncode}: {tail}")
    return usage


class Judge:
    """Measures what jobs made of one model."""

    def __init__(self, name: str, folder: Path) -> None:
        from data import SUBJECTS
        from kit import write_kit

        from mixq.sensitivity.metrics.choice import MetricChoice
        from mixq.sensitivity.metrics.resolve import resolve

        self.name = name
        self.subject = subject = SUBJECTS[name]()
        self.metric = resolve(MetricChoice(), subject.model, subject.test)
        self.kit = folder / "kits" / name
        write_kit(
            self.kit, name, subject.model, subject.batches, subject.tokenizer, subject.inputs
        )

    def row(self, job: Job, usage: Any, output: Path, against: str = "") -> Row:
        from mixq.sensitivity.compare import judged

        report = json.loads((output / "job.json").read_text(encoding="utf-8"))
        model = self._network(output)
        error = self._error(model)
        headline = self.subject.headline
        return Row(
            model=self.name, tool=job.tool, version=report["version"], setting=job.setting,
            kind=job.kind, against=against, weight_bytes=report["weight_bytes"],
            error_metric=self.metric.name, error=error.error, error_se=error.error_se,
            metric=headline, value=judged(self.subject.evaluate, model)[headline],
            cpu_s=usage.ru_utime + usage.ru_stime, peak_mb=usage.ru_maxrss * 1024 / 1e6,
            note=report["note"],
        )  # fmt: skip

    def original(self) -> Row:
        """The model as it is."""
        from kit import stored_bytes

        from mixq.sensitivity.compare import judged

        headline = self.subject.headline
        value = judged(self.subject.evaluate, self.subject.model)[headline]
        return Row(
            self.name, "32 bits", "", "", "", "", stored_bytes(self.subject.model),
            self.metric.name, 0.0, 0.0, headline, value, 0.0, 0.0, "",
        )  # fmt: skip

    def _error(self, model: nn.Module) -> Estimate:
        """Output error on the test inputs, as a search measures it."""
        from mixq.batch import call
        from mixq.graph.evaluating import evaluating
        from mixq.sensitivity.estimate import Estimate

        errors: list[float] = []
        for batch in self.subject.test.batches:
            with evaluating(self.subject.model):
                reference = self.metric.pick(call(self.subject.model, batch))
            with evaluating(model):
                outputs = self.metric.pick(call(model, batch))
            errors += self.metric.errors(outputs, reference, batch).tolist()
        return Estimate.of_errors(errors)

    def _network(self, output: Path) -> nn.Module:
        """The original network with a job's weights, or its recorded outputs as a network."""
        from kit import OUTPUTS, WEIGHTS
        from replay import Recorded
        from safetensors.torch import load_file

        import mixq

        model = copy.deepcopy(self.subject.model)
        if (output / "model.mixq.safetensors").exists():
            return mixq.load(output / "model.mixq.safetensors", model)
        if (output / OUTPUTS).exists():
            return Recorded(self.subject.inputs, load_file(output / OUTPUTS)["output"])
        unknown = model.load_state_dict(load_file(output / WEIGHTS), strict=False)
        assert not unknown.unexpected_keys, unknown.unexpected_keys[:3]
        return model


def compare(name: str, folder: Path, only: str | None, pair: bool) -> None:
    """Make the rows of a model that the data file does not have."""
    judge = Judge(name, folder)
    if _known(name, "32 bits", "", "") is None:
        _append(judge.original())
    ours = MIXQ[name]
    for job in JOBS[name]:
        if only is not None and only not in f"{job.tool} {job.setting}":
            continue
        output = folder / "jobs" / name / f"{job.tool}-{job.setting}".replace("/", "-")
        row = _made(judge, job, job.options, output, folder)
        if row is None or not (job.paired and pair):
            continue
        setting = ours.options | {
            "max_bytes": row.weight_bytes, "folder": str(folder / "jobs" / name / "search")
        }  # fmt: skip
        against = f"{job.tool}, {job.setting}"
        _made(judge, ours, setting, output.with_name(output.name + "-mixq"), folder, against)


def _made(
    judge: Judge, job: Job, setting: dict[str, Any], output: Path, folder: Path, against: str = ""
) -> Row | None:
    """The row of a job, which is run if it has none; nothing if it fails, which is said."""
    row = _known(judge.name, job.tool, job.setting, against)
    if row is not None:
        return row
    try:
        usage = run_job(job, setting, judge.kit, output, folder)
    except RuntimeError as error:
        print(f"failed: {error}", file=sys.stderr, flush=True)
        return None
    row = judge.row(job, usage, output, against)
    _append(row)
    print(row, flush=True)
    return row


def _known(*key: str) -> Row | None:
    return next((row for row in read_rows() if row.key == key), None)


def _append(row: Row) -> None:
    """Add to the file as it is now: models may be run beside each other."""
    write_rows([*read_rows(), row])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--folder", type=Path, default=Path("other-tools"))
    parser.add_argument("--install", type=Path, metavar="FOLDER")
    parser.add_argument("--only", metavar="TEXT", help="in the name of tool and setting")
    parser.add_argument("--no-mixq", action="store_true", help="the other tools alone")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    if arguments.install is not None:
        install(arguments.install.resolve())
    for name in arguments.models:
        start = time.monotonic()
        compare(name, arguments.folder.resolve(), arguments.only, not arguments.no_mixq)
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    if arguments.tables:
        print(tables([asdict(row) for row in read_rows()]))
    if arguments.page:
        text = PAGE.read_text(encoding="utf-8")
        made = tables([asdict(row) for row in read_rows()])
        PAGE.write_text(with_tables(text, made), encoding="utf-8")


if __name__ == "__main__":
    main()
