"""Workshops: gone when work is done, told from rubbish by their lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mixq.files import write_text_atomic
from mixq.workshop import NAME, scratch, sweep, workshop

WORKS = """
import sys
from pathlib import Path
from mixq.workshop import workshop
with workshop(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("made")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def abandoned(target: Path) -> Path:
    """The workshop that a killed process has left."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKS, str(target)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        left = target.parent / process.stdout.readline().strip()
        sweep(target.parent)
        assert (left / "half").exists()  # while its process lives, it stays
        os.kill(process.pid, signal.SIGKILL)
    return left


def test_what_a_killed_process_leaves_is_swept(tmp_path: Path) -> None:
    left = abandoned(tmp_path / "plan.json")
    assert (left / "half").exists()
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_ones_own_stays_while_it_is_used(tmp_path: Path) -> None:
    with workshop(tmp_path / "plan.json") as first, workshop(tmp_path / "plan.json") as second:
        sweep(tmp_path)
        assert {first, second} == set(tmp_path.iterdir())
        assert NAME.fullmatch(first.name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", [".plan.json.abcdefgh", ".x.abcdefgh.mixq.txt", "x.abcdefgh.mixq", ".x.ABCDEFGH.mixq"]
)
def test_what_is_not_ours_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    sweep(tmp_path)
    assert (tmp_path / name).exists()


def test_a_file_or_a_link_of_such_a_name_stays(tmp_path: Path) -> None:
    (tmp_path / ".a.abcdefgh.mixq").write_text("a file", encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").touch()
    (tmp_path / ".b.abcdefgh.mixq").symlink_to("mine")
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert (tmp_path / "mine" / "kept").exists()


def test_no_folder_no_failure(tmp_path: Path) -> None:
    sweep(tmp_path / "nothing")


def test_a_sweep_between_making_and_locking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process sees the new folder without its lock, and deletes it: a second is made."""
    from mixq import workshop as module

    lock, seen = module._locked, []

    def late(folder: Path) -> int | None:
        seen.append(folder)
        if len(seen) == 1:
            folder.rmdir()
        return lock(folder)

    monkeypatch.setattr(module, "_locked", late)
    write_text_atomic(tmp_path / "plan.json", "{}")
    assert len(seen) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_scratch_sweeps_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = abandoned(tmp_path / "mixq-bench")
    with scratch("mixq-bench") as folder:
        assert list(tmp_path.iterdir()) == [folder]
        assert folder != left
