"""run_folder: locked, claimed by one run, and never another's files lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from mixq.errors import OutputError
from mixq.search.folder import LOCK, RUN, run_folder

ME = {"model": "sha256:1", "hardware": "sha256:2"}
OTHER = {"model": "sha256:9", "hardware": "sha256:2"}


def run_file(folder: Path) -> dict[str, object]:
    data: dict[str, object] = json.loads((folder / RUN).read_text(encoding="utf-8"))
    return data


def leave(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(name, encoding="utf-8")


def test_a_fresh_folder_is_made_and_claimed(tmp_path: Path) -> None:
    with run_folder(tmp_path / "a" / "b", ME) as folder:
        assert folder.path == tmp_path / "a" / "b"
        assert folder.state == "running"
    assert run_file(folder.path) == {"schema_version": 1, "identity": ME, "state": "running"}


def test_write_replaces_run_json(tmp_path: Path) -> None:
    with run_folder(tmp_path, ME) as folder:
        folder.write("done", {"seed": 3})
        assert folder.state == "done"
    assert run_file(tmp_path) == {
        "schema_version": 1, "identity": ME, "state": "done", "seed": 3
    }  # fmt: skip


def test_going_on_leaves_run_json_as_it_is(tmp_path: Path) -> None:
    with run_folder(tmp_path, ME) as folder:
        folder.write("done", {"seed": 3})
    before = (tmp_path / RUN).read_bytes()
    with run_folder(tmp_path, ME):
        pass
    assert (tmp_path / RUN).read_bytes() == before


def test_a_part_of_the_identity_is_enough_and_is_completed(tmp_path: Path) -> None:
    model = {"model": ME["model"]}
    with run_folder(tmp_path, model):
        leave(tmp_path, "sensitivity.json")
    with run_folder(tmp_path, ME) as folder:
        assert folder.identity == ME
    with run_folder(tmp_path, model) as folder:
        assert folder.identity == ME
    with (
        pytest.raises(OutputError, match="another hardware"),
        run_folder(tmp_path, ME | {"hardware": "x"}),
    ):
        pass


@pytest.mark.parametrize("held", ["plan.json", "study.journal", "measurements-00.jsonl"])
def test_anothers_run_is_refused_then_overwritten(tmp_path: Path, held: str) -> None:
    with run_folder(tmp_path, OTHER):
        leave(tmp_path, held, "notes.txt")
    before = (tmp_path / RUN).read_bytes()
    with (
        pytest.raises(OutputError, match=r"another model; .*--overwrite"),
        run_folder(tmp_path, ME),
    ):
        pass
    assert (tmp_path / held).read_text(encoding="utf-8") == held
    assert (tmp_path / RUN).read_bytes() == before
    with run_folder(tmp_path, ME, overwrite=True):
        assert not (tmp_path / held).exists()
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "notes.txt"
    assert run_file(tmp_path)["identity"] == ME


def test_overwrite_keeps_what_is_our_own(tmp_path: Path) -> None:
    with run_folder(tmp_path, ME):
        leave(tmp_path, "plan.json")
    with run_folder(tmp_path, ME, overwrite=True):
        assert (tmp_path / "plan.json").exists()


def test_a_run_that_left_nothing_is_taken_over(tmp_path: Path) -> None:
    with run_folder(tmp_path, OTHER):
        pass
    with run_folder(tmp_path, ME):
        assert run_file(tmp_path)["identity"] == ME


def test_files_without_a_run_are_not_ours(tmp_path: Path) -> None:
    leave(tmp_path, "plan.json")
    with (
        pytest.raises(OutputError, match=r"plan.json, but no readable run.json"),
        run_folder(tmp_path, ME),
    ):
        pass
    assert not (tmp_path / RUN).exists()


def test_overwrite_removes_links_and_not_what_they_point_to(tmp_path: Path) -> None:
    leave(tmp_path / "elsewhere", "plan.json")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "plan.json").symlink_to(tmp_path / "elsewhere" / "plan.json")
    with run_folder(folder, ME, overwrite=True):
        pass
    assert (tmp_path / "elsewhere" / "plan.json").exists()
    assert not (folder / "plan.json").is_symlink()


def test_one_at_a_time(tmp_path: Path) -> None:
    with (
        run_folder(tmp_path, ME),
        pytest.raises(OutputError, match="in use by another mixq"),
        run_folder(tmp_path, ME),
    ):
        pass
    with run_folder(tmp_path, ME):
        pass


def test_the_lock_is_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), run_folder(tmp_path, ME):
        raise KeyError
    with run_folder(tmp_path, ME):
        pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        pytest.raises(OutputError, match="cannot be locked: No locks available"),
        run_folder(tmp_path, ME),
    ):
        pass


def test_an_escape_in_the_name_is_shown_harmless(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    weird = tmp_path / "\x1b[31m"
    (weird / LOCK).mkdir(parents=True)
    with pytest.raises(OutputError) as caught, run_folder(weird, ME):
        pass
    assert "\x1b" not in str(caught.value)
