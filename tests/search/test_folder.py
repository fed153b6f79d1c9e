"""run_folder: locked, claimed by one run, and never another's files lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest
from torch import nn

import mixq.search.folder as folder_module
from mixq.errors import OutputError
from mixq.files import atomic_path
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.rounding.rounder import Rounder
from mixq.rounding.store import RoundedStore
from mixq.search.folder import LOCK, RUN, request_of, run_folder

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


@pytest.mark.parametrize(
    "held",
    [
        "plan.json",
        "plan.weights.safetensors",
        "study.journal",
        "measurements-00.jsonl",
        "audit.json",
        "audit-00.jsonl",
    ],
)
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


ROUNDED = "rounded-0123456789abcdef"
UNIT = f"{'0a' * 16}.safetensors"
TORN = f".{'0a' * 16}.x3k_9abc"
"""What a kill leaves of a unit that was being written."""


def leave_rounded(folder: Path, *names: str) -> Path:
    rounded = folder / ROUNDED
    leave(rounded, *names)
    return rounded


def test_anothers_rounded_weights_are_refused_then_deleted(tmp_path: Path) -> None:
    with run_folder(tmp_path, OTHER):
        rounded = leave_rounded(tmp_path, UNIT, TORN)
    with pytest.raises(OutputError, match="another model"), run_folder(tmp_path, ME):
        pass
    assert {path.name for path in rounded.iterdir()} == {UNIT, TORN}
    with run_folder(tmp_path, ME, overwrite=True):
        assert not rounded.exists()


NOT_OURS = (
    *("rounded-0123456789abcde", "rounded-0123456789abcdef0", "rounded-0123456789ABCDEF"),
    *("rounded-notes", "my-rounded-0123456789abcdef"),
)


@pytest.mark.parametrize("name", NOT_OURS)
def test_folders_of_other_names_are_not_ours(tmp_path: Path, name: str) -> None:
    leave(tmp_path / name, UNIT)
    with run_folder(tmp_path, ME):
        pass
    with run_folder(tmp_path, OTHER):  # nothing of a run is there to protect
        leave(tmp_path, "plan.json")
    with run_folder(tmp_path, ME, overwrite=True):
        pass
    assert (tmp_path / name / UNIT).exists()


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "model.safetensors", f"{UNIT}.bak", f"{'0A' * 16}.safetensors", ".hidden"],
)
def test_a_file_of_somebody_else_among_rounded_weights_stays(tmp_path: Path, name: str) -> None:
    with run_folder(tmp_path, OTHER):
        rounded = leave_rounded(tmp_path, UNIT, name)
    with run_folder(tmp_path, ME, overwrite=True):
        assert [path.name for path in rounded.iterdir()] == [name]


def test_a_link_to_rounded_weights_is_not_followed(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "run"
    rounded = tmp_path / ROUNDED
    leave(elsewhere, UNIT)
    leave(folder, "plan.json")
    (folder / ROUNDED).symlink_to(elsewhere)
    with run_folder(folder, ME, overwrite=True):
        pass
    assert (elsewhere / UNIT).exists()
    assert (folder / ROUNDED).is_symlink()
    assert not rounded.exists()


def test_a_file_with_the_name_of_that_folder_is_not_ours(tmp_path: Path) -> None:
    leave(tmp_path, "plan.json", ROUNDED)
    with run_folder(tmp_path, ME, overwrite=True):
        assert (tmp_path / ROUNDED).read_text(encoding="utf-8") == ROUNDED


def test_our_own_rounded_weights_stay(tmp_path: Path) -> None:
    with run_folder(tmp_path, ME):
        rounded = leave_rounded(tmp_path, UNIT, TORN)
    with run_folder(tmp_path, ME, overwrite=True):
        assert {path.name for path in rounded.iterdir()} == {UNIT, TORN}


def test_the_names_are_those_that_rounding_gives(tmp_path: Path) -> None:
    store = RoundedStore(tmp_path, "a", "b")
    linear = nn.Linear(32, 4)
    (unit,) = find_units(linear)
    store.put(
        "weight", Rounder(linear, {"weight": unit}).packed("weight", Format.parse("w4-clip"))
    )
    (folder,) = tmp_path.iterdir()
    (file,) = folder.iterdir()
    assert folder_module.ROUNDED.fullmatch(folder.name)
    assert folder_module.ROUNDED_UNIT.fullmatch(file.name)
    with atomic_path(file) as temporary:
        assert folder_module.ROUNDED_UNIT.fullmatch(temporary.name)


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


ASKED = {"target_compression": 6.0, "pin": ["head.*=8"]}


def test_what_a_search_was_asked_is_there_from_the_start(tmp_path: Path) -> None:
    with run_folder(tmp_path, ME, request=ASKED):
        assert request_of(tmp_path) == ASKED
    # Nothing is finished yet, so that another wish replaces it.
    with run_folder(tmp_path, ME, request={"seed": 1}) as folder:
        assert request_of(tmp_path) == {"seed": 1}
        folder.write("done")
    with run_folder(tmp_path, ME, request=ASKED) as folder:
        assert request_of(tmp_path) == {"seed": 1}  # a refusal would leave the run as it was
        folder.write("done")
    assert request_of(tmp_path) == ASKED


@pytest.mark.parametrize("text", [None, "{", "[]", '{"request": 3}', "{}"])
def test_no_request(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / RUN).write_text(text, encoding="utf-8")
    with pytest.raises(OutputError, match="--resume"):
        request_of(tmp_path)
