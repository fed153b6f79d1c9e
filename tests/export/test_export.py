"""mixq.export: a verified file in its place, or everything as it was."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mixq
from mixq.errors import ExportError, OutputError, UsageError
from mixq.export import registry
from mixq.formats import Format
from tests.export.fake import Change, Fake
from tests.plans import plan_for


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("fake", "Fake"), ("fake-folder", "FakeFolder")):
        monkeypatch.setitem(registry.RUNTIMES, name, f"tests.export.fake:{kind}")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(32, 8).eval()


def export(path: Path, runtime: str = "fake", **options: Any) -> Any:
    net = model()
    plan = plan_for(net, Format.parse("w8g32"))
    data = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    return mixq.export(net, plan, path, runtime=runtime, calibration=data, **options)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden files too."""
    items = sorted(folder.rglob("*"))
    return {str(i.relative_to(folder)): i.read_bytes() if i.is_file() else None for i in items}


FAILURES: dict[str, tuple[dict[str, Any], type[BaseException], str]] = {
    "check": ({"fail": "check"}, ExportError, "check fails"),
    "write": ({"fail": "write"}, ExportError, "write fails"),
    "open": ({"fail": "open"}, ExportError, "open fails"),
    "run": ({"fail": "run"}, ExportError, "run fails"),
    "disk-full": (
        {"fail": "write", "error": OSError(errno.ENOSPC, "No space left on device")},
        OutputError, "No space left on device; nothing was changed",
    ),
    "ctrl-c": ({"fail": "run", "error": KeyboardInterrupt()}, KeyboardInterrupt, "^$"),
    "a-bug": ({"fail": "open", "error": ZeroDivisionError("bug")}, ZeroDivisionError, "bug"),
    "bytes": ({"sizes": (1006, 1000)}, ExportError, "1,006 bytes of tensors where 1,000 were"),
    "outputs": (
        {"change": lambda o: {n: 1.01 * t for n, t in o.items()}},
        ExportError, "computes outputs that differ from the plan's by 0.01 of their size",
    ),
    "nan": (
        {"change": lambda o: {n: t * torch.nan for n, t in o.items()}},
        ExportError, "differ from the plan's by nan",
    ),
    "shape": (
        {"change": lambda o: {n: t[:, :2] for n, t in o.items()}},
        ExportError, r"output 'output' has shape \(16, 2\), but the model's has \(16, 8\)",
    ),
    "missing": ({"change": lambda o: {"other": o["output"]}}, ExportError, "no output 'output'"),
}  # fmt: skip


@pytest.mark.parametrize("there", ["nothing", "an-old-one"])
@pytest.mark.parametrize("runtime", ["fake", "fake-folder"])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_changes_nothing(name: str, runtime: str, there: str, tmp_path: Path) -> None:
    options, kind, message = FAILURES[name]
    target = tmp_path / "model.fake"
    if there == "an-old-one":
        if runtime == "fake":
            target.write_bytes(b"old")
        else:
            target.mkdir()
            (target / "weights").write_bytes(b"old")
    before = contents(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        export(target, runtime, overwrite=True, **options)
    assert contents(tmp_path) == before
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [None, lambda o: {"output": o["output"][:, :1]}])
def test_a_session_is_closed_either_way(change: Change | None, tmp_path: Path) -> None:
    before = Fake.closed
    if change is None:
        export(tmp_path / "model.fake")
    else:
        with pytest.raises(ExportError):
            export(tmp_path / "model.fake", change=change)
    assert Fake.closed == before + 1


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    """kill -9 while the file is being verified."""
    target = tmp_path / "model.fake"
    target.write_bytes(b"old")
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom mixq.export import registry\n"
        "from tests.export import test_export as t\n"
        "registry.RUNTIMES['fake'] = 'tests.export.fake:Fake'\n"
        "t.Fake.run = lambda self, batch: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"t.export(Path({str(target)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir() if not item.name.startswith(".")] == [
        "model.fake"
    ]


def test_a_verified_file_takes_the_old_ones_place(tmp_path: Path) -> None:
    target = tmp_path / "model.fake"
    target.write_bytes(b"old")
    steps: list[tuple[str, int, int]] = []
    done = export(target, progress=lambda *step: steps.append(step))
    assert contents(tmp_path) == {"model.fake": b"new"}
    assert (done.file_bytes, done.tensor_bytes, done.predicted_bytes) == (3, 1000, 1000)
    assert done.difference <= done.tolerance == 1e-3
    assert done.notes == ("a note",)
    assert steps == [("exporting to fake", i, 3) for i in range(4)]
    assert done.to_json()["notes"] == ["a note"]


def test_what_a_file_refers_to_is_there_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    replace = Path.replace

    def recorded(self: Path, target: Path) -> Path:
        order.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", recorded)
    done = export(tmp_path / "model.fake", beside=True)
    assert order == ["model.fake.data", "model.fake"]
    assert contents(tmp_path) == {"model.fake": b"new", "model.fake.data": b"new"}
    assert done.file_bytes == 6


def test_a_folder_is_replaced_whole_if_that_is_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "of-another-export").write_bytes(b"old")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"folder exists, .* pass --overwrite"):
        export(target, "fake-folder")
    assert contents(tmp_path) == before
    export(target, "fake-folder", overwrite=True)
    assert contents(tmp_path) == {
        "folder": None,
        "folder/config": b"new",
        "folder/weights": b"new",
    }


def test_a_folder_that_cannot_be_moved_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "weights").write_bytes(b"old")
    before, rename = contents(tmp_path), Path.rename

    def refusing(self: Path, place: Path) -> Path:
        if place == target and (self / "config").exists():
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, place)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(OutputError, match="Input/output error; nothing was changed"):
        export(target, "fake-folder", overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("place", "runtime", "message"),
    [
        ("no/such/model.fake", "fake", "there is no folder .*/no/such; make it"),
        ("here", "fake", "here is a folder, but runtime fake writes a file"),
        ("file", "fake-folder", "file is a file, but runtime fake writes a folder"),
        ("model\0.fake", "fake", "a name has no NUL"),
        ("n" * 300, "fake", "File name too long"),
    ],
)
def test_places_that_cannot_be_written(
    place: str, runtime: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=message) as caught:
        export(tmp_path / place, runtime)
    assert contents(tmp_path) == before
    assert "\n" not in str(caught.value)


def test_runtimes_and_options_have_names() -> None:
    with pytest.raises(UsageError, match="runtime 'onnx' is unknown; choose one of onnxruntime, "):
        registry.runtime("onnx")
    for options in ({"speed": 11}, {"name": "x"}, {"runtime": "x"}):
        with pytest.raises(UsageError, match="runtime 'torch' does not take these options"):
            registry.runtime("torch", **options)


@pytest.mark.parametrize("name", [name for name in registry.RUNTIMES if "fake" not in name])
def test_every_runtime_keeps_the_interface(name: str) -> None:
    made = registry.runtime(name)
    assert made.name == name
    assert isinstance(made.is_folder, bool)
    assert f"model{made.suffix}" != "model"
    assert all(callable(getattr(made, part)) for part in ("check", "write", "open"))
