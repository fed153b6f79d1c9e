"""Fuzzing of every file format that mixq reads: docs/robustness.md has what it printed.

    python benchmarks/fuzz.py                        100,000 inputs per format; goes on where it was
    python benchmarks/fuzz.py --only plan --inputs 500
    python benchmarks/fuzz.py --engine coverage      inputs chosen by what they reach (atheris)
    python benchmarks/fuzz.py --show                 the table of what was tried so far

Formats, seeds, mutations and the oracle are those of tests/hostile. The same seed gives the same
inputs in every process (coverage-guided ones aside). Each format runs in a process of its own: one
that dies is counted as wrong and started again behind the input that killed it. Inputs that went
wrong are kept under --state, with the reason.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

EVERY = 1000
"""Inputs between two notes of how far a worker is."""


class Score:
    """What a worker has seen of one format, on disk so that it can go on."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "score.json"
        self.data: dict[str, Any] = {
            "name": name, "done": 0, "refused": 0, "accepted": 0, "wrong": 0, "seconds": 0.0,
            "slowest_s": 0.0, "largest_bytes": 0, "reasons": {}, "wrongs": {},
        }  # fmt: skip
        if self.file.exists():
            self.data = json.loads(self.file.read_text())

    def add(self, index: int, content: bytes, verdict: Any) -> None:
        """Count one verdict."""
        data = self.data
        data[verdict.kind] += 1
        data["slowest_s"] = max(data["slowest_s"], verdict.seconds)
        data["largest_bytes"] = max(data["largest_bytes"], verdict.peak_bytes)
        if verdict.kind == "wrong":
            key = re.sub(r"[0-9]+", "*", verdict.why)[:120]
            if key not in data["wrongs"]:
                data["wrongs"][key] = [index, verdict.why]
                (self.folder / f"{index}.bin").write_bytes(content)
                print(f"  {data['name']} {index}: {verdict.why}", flush=True)
        elif verdict.kind == "refused" and len(data["reasons"]) < 1000:
            data["reasons"][verdict.why] = data["reasons"].get(verdict.why, 0) + 1

    def save(self, done: int, seconds: float) -> None:
        """Write how far it is."""
        self.data["done"], self.data["seconds"] = done, self.data["seconds"] + seconds
        whole = self.file.with_suffix(".new")
        whole.write_text(json.dumps(self.data, indent=1))
        whole.replace(self.file)


def work(name: str, options: argparse.Namespace) -> None:
    """Judge the inputs of one format in this process."""
    import gc
    import warnings

    warnings.simplefilter("ignore")
    if options.engine == "coverage":
        import atheris

        with atheris.instrument_imports(include=["mixq"]):
            from tests.hostile.targets import TARGETS
    else:
        from tests.hostile.targets import TARGETS
    import torch

    from tests.hostile.oracle import judge, workplace
    from tests.hostile.run_targets import placed
    from tests.hostile.target import made

    torch.set_num_threads(1)
    target = next(one for one in TARGETS if one.name == name)
    score = Score(options.state / options.engine, name)
    with workplace() as place:
        folder = Path(place)
        seeds = list(target.seeds(folder))
        target = placed(target, folder)
        for seed in seeds:  # what is imported late is imported now
            judge(target, seed, folder, seconds=60)
        with (score.folder / "now").open("wb+") as now:
            now.write(struct.pack("<Q", score.data["done"]))
            now.flush()
            index = mmap.mmap(now.fileno(), 8)
            start = time.process_time()
            noted = score.data["done"]

            def one(number: int, content: bytes) -> None:
                nonlocal start, noted
                index[:] = struct.pack("<Q", number)
                score.add(number, content, judge(target, content, folder))
                if number + 1 - noted >= EVERY or number + 1 == options.inputs:
                    score.save(number + 1, time.process_time() - start)
                    start, noted = time.process_time(), number + 1
                    gc.collect()
                    _tidy(folder, target.file)

            if options.engine == "coverage":
                _guided(target, seeds, score, options, one)
            for number in range(score.data["done"], options.inputs):
                one(number, made(target, seeds, options.seed, number))


def _tidy(folder: Path, keep: str) -> None:
    """Remove what checks wrote."""
    for path in folder.glob("again*"):
        path.unlink()


def _guided(
    target: Any, seeds: list[bytes], score: Score, options: argparse.Namespace,
    one: Callable[[int, bytes], None],
) -> None:  # fmt: skip
    """libFuzzer chooses what to change again by what it reached; it ends the process itself."""
    from random import Random

    import atheris

    corpus = score.folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    done = score.data["done"]

    def run(content: bytes) -> None:
        nonlocal done
        if done < options.inputs:
            one(done, content)
            done += 1

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        if seed % 3 == 0:
            return bytes(atheris.Mutate(content, most))[:most]
        return target.mutate(content, Random(seed))[:most]

    left = options.inputs - done
    arguments = [
        f"-runs={left}", f"-seed={options.seed + 1 + done}", "-max_len=65536", "-rss_limit_mb=0",
        "-timeout=0", "-detect_leaks=0", "-verbosity=0", "-print_final_stats=0", str(corpus),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *arguments], run, custom_mutator=mutate)
    atheris.Fuzz()


def drive(names: list[str], options: argparse.Namespace) -> int:
    """Run a worker per format, again where one dies; how many inputs went wrong."""
    begun = time.monotonic()
    for number, name in enumerate(names):
        while True:
            score = Score(options.state / options.engine, name)
            if score.data["done"] >= options.inputs:
                break
            from_here, at = time.monotonic(), score.data["done"]
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", name]
            worker = subprocess.Popen(command, cwd=ROOT)
            while worker.poll() is None:
                try:
                    worker.wait(5)
                except subprocess.TimeoutExpired:
                    done = Score(options.state / options.engine, name).data["done"]
                    pace = (time.monotonic() - from_here) / max(1, done - at)
                    left = pace * (options.inputs - done)
                    print(
                        f"{number + 1} of {len(names)}, {name}: {done:,} of {options.inputs:,}, "
                        f"{left:.0f} s left for it, {time.monotonic() - begun:.0f} s so far",
                        file=sys.stderr, flush=True,
                    )  # fmt: skip
            score = Score(options.state / options.engine, name)
            if worker.returncode == 0 and score.data["done"] < options.inputs:
                if options.engine == "coverage" and score.data["done"] > at:
                    continue  # libFuzzer counts its first look at the seeds
                raise SystemExit(f"the worker for {name} stopped early")
            if worker.returncode != 0:
                _died(score, worker.returncode)
    return sum(Score(options.state / options.engine, name).data["wrong"] for name in names)


def _died(score: Score, status: int) -> None:
    """Count the input that ended a worker, and go on behind it."""
    now = score.folder / "now"
    if not now.exists():
        raise SystemExit(f"the worker for {score.data['name']} did not start (status {status})")
    index = struct.unpack("<Q", now.read_bytes())[0]
    why = f"the process died with status {status}"
    print(f"  {score.data['name']} {index}: {why}", flush=True)
    score.data["wrong"] += 1
    score.data["wrongs"].setdefault(why, [index, why])
    score.save(index + 1, 0.0)


def table(names: list[str], state: Path) -> str:
    """What was tried, as Markdown."""
    lines = [
        "| format | inputs | by coverage | refused | accepted | wrong | CPU s | slowest, ms "
        "| most memory, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    total = [0] * 5
    for name in names:
        scores = [Score(state / engine, name).data for engine in ("structure", "coverage")]
        if not sum(score["done"] for score in scores):
            continue
        sums = [sum(s[k] for s in scores) for k in ("refused", "accepted", "wrong", "seconds")]
        counts = [scores[0]["done"], scores[1]["done"]]
        total = [a + b for a, b in zip(total, [sum(counts), *sums], strict=True)]
        slowest = max(score["slowest_s"] for score in scores)
        largest = max(score["largest_bytes"] for score in scores)
        lines.append(
            f"| {name} | {counts[0]:,} | {counts[1]:,} | {sums[0]:,} | {sums[1]:,} | {sums[2]} "
            f"| {sums[3]:.0f} | {1000 * slowest:.0f} | {largest / 1e6:.0f} |"
        )
    lines.append(
        f"| all | {total[0]:,} together | | {total[1]:,} | {total[2]:,} | {total[3]} "
        f"| {total[4]:.0f} | | |"
    )
    return "\n".join(lines)


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="per format")
    parser.add_argument("--engine", choices=("structure", "coverage"), default="structure")
    parser.add_argument("--only", action="append", help="a format; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("--show", action="store_true", help="print the table and stop")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options)
        return 0
    from tests.hostile.targets import TARGETS

    names = [target.name for target in TARGETS if not options.only or target.name in options.only]
    wrong = 0 if options.show else drive(names, options)
    print(table(names, options.state))
    return min(1, wrong)


if __name__ == "__main__":
    sys.exit(main())
