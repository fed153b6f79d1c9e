"""Ctrl-C, kill -9, a full disk, two at once: nothing is lost and the same command goes on."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages.journal import JournalFileBackend

from mixq.plan import Plan
from mixq.report.records import Records
from mixq.search.folder import run_folder
from mixq.sensitivity.table import SensitivityTable

SLOW = """
import os
import time
import torch
from torch import nn
from tiny import load as load_tiny


if pause_s := float(os.environ.get("ROUNDING_PAUSE_S", "0")):
    from mixq.rounding import rounder

    round_weights = rounder.round_weights

    def slowly(*arguments, **named):
        time.sleep(pause_s)
        return round_weights(*arguments, **named)

    rounder.round_weights = slowly


class Slow(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        time.sleep(float(os.environ.get("PAUSE_S", "0")))
        return self.inner(x)


def load():
    model, batches = load_tiny()
    return Slow(model), batches
"""
# A shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that.
START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from mixq.cli import main
main()
"""
OPTIONS = (
    *("--hardware", "intel_cpu", "--target-compression", "5", "--trials", "4"),
    *("--sensitivity", "measured"),  # which takes longest, for there to be time to interrupt
)


KEPT = (
    "error: interrupted; what was measured is kept in run, go on with: mixq search --hardware "
    "intel_cpu --target-compression 5"
)


@pytest.fixture
def undisturbed(cli: Callable[..., Any]) -> dict[str, bytes]:
    """plan.json and its weights, of a run that nothing interrupts."""
    Path("slow.py").write_text(SLOW, encoding="utf-8")
    assert cli("search", *OPTIONS, "--model", "slow.py:load", "--output", "calm").status == 0
    return plan_files(Path("calm"))


def plan_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("plan.*")}


def command(output: str) -> list[str]:
    start = [sys.executable, "-c", START, "search", *OPTIONS]
    return [*start, "--model", "slow.py:load", "--output", output]


@contextmanager
def running(
    output: str, until: Callable[[], bool], *options: str, **pauses_s: str
) -> Iterator[subprocess.Popen[str]]:
    """The search in another process, slowly, once `until` holds."""
    process = subprocess.Popen(
        [*command(output), *options],
        start_new_session=True,
        env={**os.environ, "PAUSE_S": "0.04", **pauses_s},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not until():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(pattern: str) -> int:
    return sum(path.read_bytes().count(b"\n") for path in Path().glob(pattern))


def finish(cli: Callable[..., Any], output: str, undisturbed: dict[str, bytes]) -> None:
    """The same command again ends with the plan of the undisturbed run."""
    answer = cli("search", *OPTIONS, "--model", "slow.py:load", "--output", output)
    assert answer.status == 0, answer.err
    assert plan_files(Path(output)) == undisturbed
    assert json.loads(Path(output, "run.json").read_text(encoding="utf-8"))["state"] == "done"


def test_ctrl_c_with_workers(cli: Callable[..., Any], undisturbed: dict[str, bytes]) -> None:
    """Ctrl-C goes to the workers as well, as it does where a terminal sends it."""
    with running(
        "run", lambda: lines("run/measurements-*") >= 2, "--workers", "2", PAUSE_S="0.1"
    ) as process:
        workers = children_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert out == ""
        assert err.splitlines()[-1].startswith(KEPT)
        assert "Traceback" not in err
    assert len(workers) >= 2
    assert not any(Path(f"/proc/{worker}/fd/0").exists() for worker in workers)
    assert lines("run/measurements-*") >= 2
    finish(cli, "run", undisturbed)


def children_of(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
    return [int(number) for number in listed.split()]


def test_workers_change_no_result(cli: Callable[..., Any], undisturbed: dict[str, bytes]) -> None:
    options = ("--model", "slow.py:load", "--workers", "2")
    answer = cli("search", *OPTIONS, *options, "--output", "run", "--verbose")
    assert answer.status == 0
    assert plan_files(Path("run")) == undisturbed
    for name in ("sensitivity.json", "sensitivity.csv", "frontier.json"):
        assert Path("run", name).read_bytes() == Path("calm", name).read_bytes()
    assert re.search(r"measuring sensitivities: (\d+) of \1 in ", answer.err)


def test_kills_while_rounding(cli: Callable[..., Any], undisturbed: dict[str, bytes]) -> None:
    def rounded() -> dict[Path, bytes]:
        return {
            path: path.read_bytes() for path in Path("run").glob("rounded-*/[0-9a-f]*.safetensors")
        }

    kept: dict[Path, bytes] = {}
    for count in (1, 3):
        with running("run", lambda: len(rounded()) >= count, ROUNDING_PAUSE_S="0.15") as process:  # noqa: B023
            process.kill()
        assert not list(Path("run").glob("measurements-*"))
        found = rounded()
        assert len(found) >= count
        assert kept.items() <= found.items()  # none of them was rounded again
        kept = found
    whole = {path: path.read_bytes() for path in Path("calm").glob("rounded-*/*")}
    assert len(kept) < len(whole)
    finish(cli, "run", undisturbed)
    assert {path.name: data for path, data in rounded().items()} == {
        path.name: data for path, data in whole.items()
    }


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_rounded_weights_that_are_damaged_are_made_again(
    cli: Callable[..., Any], undisturbed: dict[str, bytes], damage: str
) -> None:
    assert cli("search", *OPTIONS, "--model", "slow.py:load", "--output", "run").status == 0
    for path in Path("run").glob("rounded-*/*"):
        whole = path.read_bytes()
        flipped = whole[:-1] + bytes([whole[-1] ^ 1])
        path.write_bytes({"cut": whole[:-3], "flipped": flipped, "emptied": b""}[damage])
    finish(cli, "run", undisturbed)


def test_what_a_kill_leaves_in_the_study_is_repaired(
    cli: Callable[..., Any], undisturbed: dict[str, bytes]
) -> None:
    assert cli("search", *OPTIONS, "--model", "slow.py:load", "--output", "run").status == 0
    journal = Path("run/study.journal")
    whole = journal.read_bytes()
    ends = [index for index, byte in enumerate(whole) if byte == ord("\n")]
    # Cut everywhere that matters: in a line, between lines, in the middle of a trial.
    for cut in (ends[0] + 1, ends[2] + 1, ends[len(ends) // 2] + 7, ends[-2] + 1, len(whole) - 1):
        journal.write_bytes(whole[:cut])
        Path("run/study.journal.lock").symlink_to("run/study.journal")
        finish(cli, "run", undisturbed)
        assert not Path("run/study.journal.lock").is_symlink()


def test_a_torn_measurement_is_measured_again(
    cli: Callable[..., Any], undisturbed: dict[str, bytes]
) -> None:
    assert cli("search", *OPTIONS, "--model", "slow.py:load", "--output", "run").status == 0
    stores = list(Path("run").glob("measurements-*.jsonl"))
    assert len(stores) == 2  # of the layers alone, and of changes around the plan
    for store in stores:
        store.write_bytes(store.read_bytes()[:-9])
    finish(cli, "run", undisturbed)
    assert all(store.read_bytes().endswith(b"]}\n") for store in stores)


def test_two_at_once_in_one_folder(
    search: Callable[..., Any], contents: Callable[..., Any]
) -> None:
    assert search("--target-compression", "5").status == 0
    before = contents(Path("run"))
    with run_folder("run", {}):
        answer = search("--target-compression", "4")
    assert answer.status == 1
    assert "in use by another mixq" in answer.error
    assert contents(Path("run")) == before
    assert search("--target-compression", "4").status == 0


@pytest.mark.parametrize(
    "place", ["file", "under-a-file", "/proc/nothing", "/dev/null/run"], ids=str
)
def test_a_folder_that_cannot_be_written(search: Callable[..., Any], place: str) -> None:
    Path("file").write_text("in the way", encoding="utf-8")
    output = {"under-a-file": "file/run"}.get(place, place)
    answer = search("--target-compression", "5", output=output)
    assert answer.status == 1
    assert "choose another with --output" in answer.error
    assert Path("file").read_text(encoding="utf-8") == "in the way"


@pytest.mark.parametrize(
    "name",
    ["plan.json", "sensitivity.csv", "frontier.json", "pareto.png", "run.json", "study.journal"],
)
def test_a_folder_where_a_file_should_be(search: Callable[..., Any], name: str) -> None:
    blocked = Path("run", name)
    blocked.mkdir(parents=True)
    (blocked / "mine").touch()
    answer = search("--target-compression", "5", "--overwrite")
    assert answer.status == 1
    assert name in answer.error or "cleared" in answer.error
    assert (blocked / "mine").exists()
    assert not list(Path("run").glob(".*.*.*"))  # no temporary file is left behind


def readable(folder: Path) -> None:
    """Every result in the folder is whole."""
    for path in folder.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    if (folder / "plan.json").exists():
        Plan.load(folder / "plan.json")
    if (folder / "frontier.json").exists():
        Records.load(folder / "frontier.json")
    if (folder / "sensitivity.json").exists():
        SensitivityTable.load(folder / "sensitivity.json")
    if (folder / "pareto.png").exists():
        assert (folder / "pareto.png").read_bytes().endswith(b"IEND\xaeB`\x82")
    if (folder / "pareto.html").exists():
        assert (folder / "pareto.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


class FullDisk:
    """Lets so many files be put in place, then fails like a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: int) -> None:
        self.left = files
        self._replace = Path.replace
        monkeypatch.setattr(Path, "replace", lambda path, target: self.replace(path, target))

    def replace(self, path: Path, target: Path) -> Path:
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.left -= 1
        return self._replace(path, target)


def test_a_disk_that_is_full_at_any_file(
    search: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, contents: Callable[..., Any]
) -> None:
    assert search("--target-compression", "5", output="calm").status == 0
    calm = contents(Path("calm"))
    files = 0
    while True:
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, files)
            answer = search("--target-compression", "5")
        if answer.status == 0:
            break
        files += 1
        assert files < 20
        assert disk.left == 0
        assert "No space left on device" in answer.error
        assert answer.out == ""
        readable(Path("run"))
        names = {path.name for path in Path("run").iterdir()}
        assert not {name for name in names if name.startswith(".")} - {".mixq.lock"}
        if "plan.json" in names:
            assert Path("run/plan.json").read_bytes() == calm["plan.json"]
    assert files == 17  # the fifteen results, and run.json before and after them
    for name in set(calm) - {"study.journal"}:
        assert Path("run", name).read_bytes() == calm[name], name


def test_a_full_disk_under_the_study(
    search: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    append = JournalFileBackend.append_logs
    written = 0

    def full(backend: JournalFileBackend, logs: list[dict[str, object]]) -> None:
        nonlocal written
        written += 1
        if written > 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(backend, logs)

    assert search("--target-compression", "5", output="calm").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", full)
        answer = search("--target-compression", "5")
    assert answer.status == 1
    assert "the study mixq-" in answer.error
    assert "No space left on device" in answer.error
    assert search("--target-compression", "5").status == 0
    assert Path("run/plan.json").read_bytes() == Path("calm/plan.json").read_bytes()


def test_a_database_that_goes_away(
    search: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise StorageInternalError("server has gone\naway")

    url = ("--storage", "sqlite:///a.db")
    # What it left running may be another process's that is alive, and is waited for that long.
    monkeypatch.setattr("mixq.search.study.storage.HEARTBEAT_S", 1)
    monkeypatch.setattr("mixq.search.study.storage.GRACE_S", 1)
    with monkeypatch.context() as patch:
        patch.setattr(RDBStorage, "set_trial_user_attr", lost)
        answer = search("--target-compression", "5", *url)
    assert answer.status == 1
    assert "server has gone" in answer.error
    assert search("--target-compression", "5", *url).status == 0
    Path("a.db").write_bytes(b"no database at all" * 100)
    answer = search("--target-compression", "5", *url)
    assert answer.status == 2
    assert "--storage sqlite:///a.db cannot be opened" in answer.error
