"""Memory that runs out: one line whoever says so, and no half file."""

from __future__ import annotations

import errno
import importlib
import os
from pathlib import Path

import pytest

from mixq.cli.memory import ADVICE, ran_out_of_memory
from mixq.errors import MissingExtraError

from .commands import Stage
from .fault import Fault
from .survive import survive

ENOUGH_FOR_NO_COMMAND = (4_000_000, 16_000_000, 8_000_000)
"""Beyond what the zygote has; below 2 MB safetensors ends the process, see docs/robustness.md."""


@pytest.mark.parametrize("name", ["analyze", "apply"])
def test_one_line_and_no_half_file(stage: Stage, tmp_path: Path, name: str) -> None:
    faults = [Fault(memory_bytes=size) for size in ENOUGH_FOR_NO_COMMAND]
    survival = survive(stage, name, faults, tmp_path / "hurt")
    assert survival.problems == []
    for outcome in survival.outcomes:
        assert outcome.status == 1
        assert outcome.errors[0].startswith("error: out of memory")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


TORCH = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 12288 bytes. Error code 12 (Cannot allocate memory)"
)
SAID = {
    "python": MemoryError(),
    "torch": RuntimeError(TORCH),
    "torch, cut short": RuntimeError(TORCH[:15]),
    "c++": RuntimeError("std::bad_alloc"),
    "cuda": RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "library": ImportError("libx.so: failed to map segment from shared object"),
    "thread": RuntimeError("can't start new thread"),
    "system": OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    "forgotten": SystemError("error return without exception set"),
    "wrapped": caused(
        MissingExtraError("onnxruntime", "onnx", "running it"),
        ImportError("onnxruntime.so: cannot allocate memory in static TLS block"),
    ),
}


@pytest.mark.parametrize("error", SAID.values(), ids=SAID)
def test_what_libraries_say(error: Exception) -> None:
    assert ran_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ImportError("No module named 'onnxruntime'"),
        OSError(errno.ENOSPC, "No space left on device"),
        SystemError("bad call"),
        KeyError("memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_want_of_memory(error: Exception) -> None:
    assert not ran_out_of_memory(error)


def test_even_while_an_error_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("anything")

    def no_room(_: BaseException) -> bool:
        raise MemoryError

    command_line = importlib.import_module("mixq.cli.main")
    monkeypatch.setattr(command_line, "app", fails)
    monkeypatch.setattr(command_line, "ran_out_of_memory", no_room)
    assert command_line.run(["search"]) == 1
    assert capfd.readouterr().err == f"error: {ADVICE}\n"
