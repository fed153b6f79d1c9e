"""Other tools on mixq's models: the same data, the same bytes, the same measure of error.

    python benchmarks/other_tools.py --install /tmp/other-tools     # their environments, by pip
    python benchmarks/other_tools.py --folder /tmp/other-tools efficientnet_lite0 minilm smollm2
    python benchmarks/other_tools.py --folder /tmp/other-tools --infeasible
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
import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from judge import Judge

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
INFEASIBLE = ROOT / "benchmarks" / "data" / "other_tools_infeasible.csv"
PAGE = ROOT / "docs" / "comparison.md"
sys.path.insert(0, str(PEERS))

from peer_jobs import JOBS, MIXQ, Job  # noqa: E402
from peer_rows import Row, read_rows, write_rows  # noqa: E402
from peer_tables import ANSWERS, answers, tables, with_tables  # noqa: E402


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


def ask_infeasible(folder: Path) -> None:
    """Write what each tool with a target says to one that it cannot reach."""
    rows = []
    for name, venv in (("mixq", ""), ("mlx", ""), ("autoround", "torch"), ("mct", "mct")):
        python = str(folder / "venvs" / venv / "bin" / "python") if venv else sys.executable
        done = subprocess.run(
            [python, PEERS / "infeasible_job.py", name], check=True, capture_output=True, text=True
        )
        said = [line for line in done.stdout.splitlines() if line.startswith("INFEASIBLE")]
        rows.append(said[-1].split("\t")[1:])
    with INFEASIBLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["tool", "version", "asked", "answer"], *rows])


def page(text: str) -> str:
    """The page with its tables made anew from the data files."""
    text = with_tables(text, tables([asdict(row) for row in read_rows()]))
    with INFEASIBLE.open(newline="", encoding="utf-8") as file:
        return with_tables(text, answers(list(csv.DictReader(file))), ANSWERS)


def compare(name: str, folder: Path, only: str | None, pair: bool) -> None:
    """Make the rows of a model that the data file does not have."""
    from judge import Judge

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
    parser.add_argument("--infeasible", action="store_true")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    if arguments.install is not None:
        install(arguments.install.resolve())
    arguments.folder = arguments.folder.resolve()
    for name in arguments.models:
        start = time.monotonic()
        compare(name, arguments.folder, arguments.only, not arguments.no_mixq)
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    if arguments.infeasible:
        ask_infeasible(arguments.folder)
    if arguments.tables:
        print(tables([asdict(row) for row in read_rows()]))
    if arguments.page:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
