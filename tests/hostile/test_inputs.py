"""Files that are none, that change while they are read, or that are pickles: every reader."""

from __future__ import annotations

import os
import signal
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import save, save_file

from mixq import tensor_file
from mixq.artifact import load as load_artifact
from mixq.artifact import save as save_artifact
from mixq.calibration import Calibration
from mixq.errors import MixqError, SourceError
from mixq.files import open_regular, read_bounded
from mixq.sources import LoadedModel, load_calibration, load_model, tensors
from mixq.streaming.shards import Shards

from .oracle import judge
from .run_targets import X, calibrated, model, placed
from .target import Target
from .targets import TARGETS

EVERY = pytest.mark.parametrize(
    "target", TARGETS, ids=lambda target: target.name.replace(" ", "-")
)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails instead of hanging."""

    def late(_: int, __: FrameType | None) -> None:
        raise AssertionError(f"it hangs for more than {seconds} s")

    old = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_fifo(path: Path) -> None:
    fifo(path.with_name("pipe"))
    path.symlink_to("pipe")


KINDS: dict[str, Callable[[Path], None]] = {
    "fifo": fifo,
    "link-to-a-device": lambda path: path.symlink_to("/dev/zero"),
    "link-to-a-fifo": link_to_fifo,
    "folder": Path.mkdir,
    "dangling-link": lambda path: path.symlink_to("nowhere"),
    "link-to-itself": lambda path: path.symlink_to(path.name),
}


@EVERY
def test_what_is_no_file_is_refused_at_once(target: Target, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target.seeds(folder)
        target = placed(target, folder)
        path = folder / target.file
        for kind, make in KINDS.items():
            path.unlink(missing_ok=True)
            make(path)
            with within(20):
                refusal, found = None, None
                try:
                    found = target.read(path)
                except MixqError as error:
                    refusal = str(error)
                if refusal is not None:
                    assert refusal.isprintable(), kind
                else:  # what was not kept is made again
                    assert target.name in ("rounded weights", "checkpoint of training"), found
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
            path.with_name("pipe").unlink(missing_ok=True)


@EVERY
def test_a_pickle_in_disguise_is_refused(target: Target, folder: Path, trap: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target.seeds(folder)
        target = placed(target, folder)
        for content in (trap, trap + b"\n", struct.pack("<Q", len(trap)) + trap):
            verdict = judge(target, content, folder, seconds=20)
            unread = target.name in ("rounded weights", "measurements", "study journal")
            assert verdict.kind == "refused" or (unread and verdict.kind == "accepted"), verdict


@EVERY
def test_an_empty_file(target: Target, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target.seeds(folder)
        target = placed(target, folder)
        verdict = judge(target, b"", folder, seconds=20)
        unread = target.name in ("rounded weights", "measurements", "study journal")
        assert verdict.kind == ("accepted" if unread else "refused"), verdict.why


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "y/" * 3000, "", "\ud800", "a\nb"])
def test_names_that_the_system_does_not_take(name: str) -> None:
    readers: list[Callable[[str], object]] = [
        lambda spec: load_calibration(spec, LoadedModel("m", model())),
        load_model,
        lambda spec: load_model(f"{spec}.pt2"),
        lambda path: read_bounded(path, 10, SourceError, "text"),
        lambda path: load_artifact(path, model()),
    ]
    for read in readers:
        with pytest.raises(MixqError) as refusal:
            read(name)
        assert str(refusal.value).isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_permission_denied(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(SourceError, match="Permission denied"):
        read_bounded(path, 10, SourceError, "plan")


def test_what_was_opened_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that takes a file's place between the look and the opening."""
    fifo(tmp_path / "pipe")
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    with within(10), pytest.raises(OSError, match="no regular file"):
        open_regular(tmp_path / "pipe")


def test_a_file_that_is_cut_while_its_tensors_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mapped, it would end the process by SIGBUS."""
    path = tmp_path / "a.safetensors"
    save_artifact(calibrated().apply(model()), path)
    opened = safetensors.safe_open

    def cut(*args: Any, **kwargs: Any) -> Any:
        file = opened(*args, **kwargs)
        os.truncate(path, path.stat().st_size - 100)
        return file

    monkeypatch.setattr(tensor_file, "safe_open", cut)
    with pytest.raises(MixqError, match="damaged"):
        load_artifact(path, model())


def test_weights_that_change_behind_their_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was checked is what is used: the same bytes, not the same file."""
    calibrated().save(tmp_path / "plan.json")
    whole = calibrated().apply(model())(X)
    weights = tmp_path / "plan.weights.safetensors"
    checksum = tensor_file._checksum

    def changing(text: str, found: Any) -> str:
        answer = checksum(text, found)
        with weights.open("r+b") as file:
            file.seek(-400, os.SEEK_END)
            file.write(b"\x7f" * 400)
        return answer

    monkeypatch.setattr(tensor_file, "_checksum", changing)
    plan = type(calibrated()).load(tmp_path / "plan.json")
    assert torch.equal(plan.apply(model())(X), whole)


def test_an_npz_that_is_another_one_when_it_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    np.savez(tmp_path / "c.npz", input=X.numpy())
    check = tensors._check_sizes

    def swapped(*args: Any) -> None:
        check(*args)
        np.savez(tmp_path / "c.npz", input=X.numpy() * 2)

    monkeypatch.setattr(tensors, "_check_sizes", swapped)
    found = load_calibration(str(tmp_path / "c.npz"), LoadedModel("m", model()))
    assert found.fingerprint == Calibration.of([{"input": X}]).fingerprint


def test_calibration_that_is_overwritten_while_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_file({"input": X}, path)
    found = load_calibration(str(path), LoadedModel("m", model()))
    path.write_bytes(save({"input": X * 0}))
    assert found.fingerprint == Calibration.of([{"input": X}]).fingerprint


def test_a_shard_that_is_cut_between_header_and_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": X}, path)
    shards = Shards(tmp_path)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(SourceError, match="damaged"):
        shards.fetch(["a"])
