"""optuna-dashboard opens the journal of a finished run."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mixq.search.study.storage import JOURNAL, open_storage

from .searches import complete, searches, study_in

pytestmark = pytest.mark.slow


@contextmanager
def dashboard(journal: Path) -> Iterator[str]:
    """The address of optuna-dashboard on a journal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = Path(sys.executable).with_name("optuna-dashboard")
    with subprocess.Popen(
        [command, journal, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def read(address: str) -> Any:
    """What the server answers, as soon as it listens."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_dashboard_shows_the_study_of_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with searches() as server:
        assert server.status(server.start(folder, {"trials": 4})) == 0
    before = (folder / JOURNAL).read_bytes()
    with dashboard(folder / JOURNAL) as address:
        (study,) = read(f"{address}/api/studies")["study_summaries"]
        shown = read(f"{address}/api/studies/{study['study_id']}")
    assert (folder / JOURNAL).read_bytes() == before
    kept = study_in(open_storage(folder, None))
    assert study["study_name"] == kept.study_name
    assert shown["objective_names"] == ["error", "weight_bytes", "latency_s"]
    found = {}
    for trial in shown["trials"]:
        attributes = {item["key"]: item["value"] for item in trial["user_attrs"]}
        assert trial["state"] == "Complete"
        found[trial["number"]] = (attributes["name"], tuple(trial["values"]))
    assert found == complete(kept)
    best = {trial["number"] for trial in shown["trials"] if max(trial["constraints"]) <= 0}
    assert best == {trial.number for trial in kept.trials if max(trial.constraints.values()) <= 0}
