"""Killed at random moments and resumed: the same table, byte for byte."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Imports and prepares once, then forks for every run: a line on stdin is `folder workers`, a line
# on stdout is the number of the process that measures, the next one how it ended.
SERVER = """
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

from mixq.demo import load
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.graph.state import fingerprint
from mixq.sensitivity.measured import measure
from mixq.sensitivity.store import Store


class Slow(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *arguments):
        time.sleep(0.004)
        return self.inner(*arguments) + torch.rand(1) * 0  # no tape takes it, so all is run


def run(folder, workers):
    store = Store(folder, fingerprint(model), calibration.fingerprint)
    table = measure(model, calibration, units, formats, store=store, workers=workers)
    table.save(folder / "sensitivity.json")
    table.save_csv(folder / "sensitivity.csv")


torch.set_num_threads(1)
inner, calibration, _ = load()
model = Slow(inner)
calibration = calibration.take(8)
units = find_units(model)
names = ("w32", "w16", "w8", "w4g32", "w4g64", "w4g128", "w2g32", "w2g64")
formats = {unit.name: [Format.parse(name) for name in names] for unit in units}
sys.stderr = open(os.devnull, "w")
for line in sys.stdin:
    folder, workers = line.split()
    child = os.fork()
    if child == 0:
        run(Path(folder), int(workers))
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
FILES = ("sensitivity.json", "sensitivity.csv")


class Server:
    """Measures in processes of its own, which may be killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def start(self, folder: Path, workers: int) -> int:
        """The process that measures into `folder` from now on."""
        assert self.process.stdin is not None
        folder.mkdir(exist_ok=True)
        self.process.stdin.write(f"{folder} {workers}\n")
        self.process.stdin.flush()
        return int(self._line())

    def status(self) -> int:
        """How that process has ended, once it has."""
        return os.waitstatus_to_exitcode(int(self._line()))

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@pytest.fixture
def server() -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


def store_of(folder: Path) -> list[bytes]:
    """Whole lines of the store."""
    return [
        line
        for path in folder.glob("measurements-*")
        for line in path.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]


def wait_for(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(store_of(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def children_of(process: int) -> list[int]:
    try:
        return [
            int(number)
            for task in Path(f"/proc/{process}/task").iterdir()
            for number in (task / "children").read_text(encoding="ascii").split()
        ]
    except FileNotFoundError:
        return []


@contextmanager
def ended(processes: list[int]) -> Iterator[None]:
    """All of them are gone soon after the block."""
    yield
    deadline = time.monotonic() + 30
    while any(map(lives, processes)):
        assert time.monotonic() < deadline, processes
        time.sleep(0.01)


def lives(process: int) -> bool:
    """Whether it runs; one that nobody has buried yet does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.split()[0] not in "ZX"


@pytest.mark.parametrize(
    ("workers", "kills"),
    [(1, 20), pytest.param(2, 3, marks=pytest.mark.slow)],
    ids=["alone", "two-workers"],
)
def test_killed_and_resumed_is_byte_for_byte_the_same(
    server: Server, tmp_path: Path, workers: int, kills: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    server.start(whole, 1)
    assert server.status() == 0
    expected = store_of(whole)
    draw = random.Random(0)
    kept: list[bytes] = []
    grown = 0
    for _ in range(kills):
        process = server.start(killed, workers)
        wait_for(killed, len(kept) + draw.randrange(4) * (2 if workers > 1 else 1))
        time.sleep(draw.random() * 0.02)
        with ended(children_of(process)):
            os.kill(process, signal.SIGKILL)
            assert server.status() == -signal.SIGKILL
        found = store_of(killed)
        assert found[: len(kept)] == kept  # nothing is lost, and nothing measured twice
        grown += len(found) > len(kept)
        kept = found
        if kept and draw.random() < 0.5:  # as if it had come while a line was being written
            (path,) = killed.glob("measurements-*")
            with path.open("ab") as file:
                file.write(draw.choice(expected)[: draw.randrange(1, 40)])
    assert grown >= kills // 3
    assert len(kept) < len(expected)  # every one of them came before the end
    assert not any((killed / name).exists() for name in FILES)
    server.start(killed, workers)
    assert server.status() == 0
    for name in FILES:
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(store_of(killed)) == sorted(expected)
    if workers == 1:
        assert store_of(killed) == expected
    assert len({path.name for folder in (whole, killed) for path in folder.glob("meas*")}) == 1
