"""Measurements survive whatever ends a run, and are used again for nothing else."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.errors import OutputError
from mixq.formats import Format
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.metrics.divergence import Divergence
from mixq.sensitivity.metrics.metric import Metric
from mixq.sensitivity.metrics.weighted import Weighted
from mixq.sensitivity.store import Store

ERRORS = [0.1, 1e-300, 0.0]


def file_of(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_nothing_is_written_without_a_folder() -> None:
    store = Store(None)
    store.put("a", "w8", ERRORS)
    assert store.get("a", "w8") == ERRORS
    assert store.get("a", "w4") is None
    assert store.get("b", "w8") is None


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.dictionaries(
        st.tuples(st.text(max_size=8), st.text(max_size=4)),
        st.lists(st.floats(0, allow_infinity=False), min_size=1, max_size=4),
        max_size=5,
    )
)
def test_round_trip(tmp_path_factory: Any, entries: dict[tuple[str, str], list[float]]) -> None:
    folder = tmp_path_factory.mktemp("store")
    first = Store(folder, "model", "data")
    for (unit, fmt), errors in entries.items():
        first.put(unit, fmt, errors)
    second = Store(folder, "model", "data")
    assert {key: second.get(*key) for key in entries} == entries


def test_lines_are_appended(tmp_path: Path) -> None:
    Store(tmp_path, "model").put("a", "w8", ERRORS)
    before = file_of(tmp_path).read_bytes()
    Store(tmp_path, "model").put("a", "w4", ERRORS)
    after = file_of(tmp_path).read_bytes()
    assert after.startswith(before)
    assert [json.loads(line)["format"] for line in after.splitlines()] == ["w8", "w4"]


@pytest.mark.parametrize("other", [("m",), ("m", "c2"), ("m2", "c"), ("c", "m"), ("m", "c", "")])
def test_other_fingerprints_are_other_stores(tmp_path: Path, other: tuple[str, ...]) -> None:
    Store(tmp_path, "m", "c").put("a", "w8", ERRORS)
    assert Store(tmp_path, *other).get("a", "w8") is None
    assert Store(tmp_path, "m", "c").get("a", "w8") == ERRORS


X = torch.ones(2, 3)
MSE, KL = Weighted(), Weighted(Divergence())
PLAN = {"a": Format(4), "b": Format(2)}
Key: TypeAlias = tuple[str, Tensor, str, Metric, str, Mapping[str, Format] | None]
KEYS: dict[str, Key] = {
    "it": ("model", X, "data", MSE, "cpu", None),
    "weights": ("other", X, "data", MSE, "cpu", None),
    "data": ("model", X + 1, "data", MSE, "cpu", None),
    "rounding": ("model", X, "other data", MSE, "cpu", None),
    "metric": ("model", X, "data", KL, "cpu", None),
    "device": ("model", X, "data", MSE, "cuda", None),
    "plan": ("model", X, "data", MSE, "cpu", PLAN),
    "other-plan": ("model", X, "data", MSE, "cpu", {**PLAN, "b": Format(4)}),
}


def test_nothing_stale_is_used_again(tmp_path: Path) -> None:
    def store(name: str) -> Store:
        model, x, rounded, metric, device, plan = KEYS[name]
        rounder = Rounder(nn.Linear(3, 2), {}, fingerprint=rounded)
        return Store.of(tmp_path, model, Calibration.of(x.clone()), rounder, metric, device, plan)

    for number, name in enumerate(KEYS):
        assert store(name).get("a", "w8") is None, name
        store(name).put("a", "w8", [float(number)])
    for number, name in enumerate(KEYS):
        assert store(name).get("a", "w8") == [float(number)], name


def test_a_plan_is_the_same_in_any_order(tmp_path: Path) -> None:
    def store(plan: Mapping[str, Format]) -> Store:
        rounder = Rounder(nn.Linear(3, 2), {})
        return Store.of(tmp_path, "model", Calibration.of(X), rounder, MSE, plan=plan)

    store(PLAN).put("a", "w8", ERRORS)
    assert store(dict(reversed(PLAN.items()))).get("a", "w8") == ERRORS


def test_other_code_is_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path, "m").put("a", "w8", ERRORS)
    monkeypatch.setattr("mixq.sensitivity.store.CODE_VERSION", "other")
    assert Store(tmp_path, "m").get("a", "w8") is None


def test_a_loss_may_fall(tmp_path: Path) -> None:
    errors = [-0.5, 0.25]
    Store(tmp_path, "m", signed=True).put("a", "w8", errors)
    assert Store(tmp_path, "m", signed=True).get("a", "w8") == errors
    with pytest.raises(OutputError, match="no measurement"):
        Store(tmp_path, "m")


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "-1e999"])
def test_a_loss_is_a_number_all_the_same(tmp_path: Path, value: str) -> None:
    Store(tmp_path, "m", signed=True).put("a", "w8", ERRORS)
    line = f'{{"unit": "a", "format": "w4", "errors": [{value}]}}\n'
    with file_of(tmp_path).open("a") as file:
        file.write(line)
    with pytest.raises(OutputError, match="no measurement"):
        Store(tmp_path, "m", signed=True)


def test_every_torn_end_is_cut_off(tmp_path: Path) -> None:
    store = Store(tmp_path, "m")
    store.put("a", "w8", ERRORS)
    path = file_of(tmp_path)
    whole = path.read_bytes()
    store.put("a", "w4", ERRORS)
    full = path.read_bytes()
    for end in range(len(whole), len(full)):
        path.write_bytes(full[:end])
        again = Store(tmp_path, "m")
        assert again.get("a", "w8") == ERRORS
        assert again.get("a", "w4") is None
        assert path.read_bytes() == whole
        again.put("a", "w4", ERRORS)
        assert path.read_bytes() == full


GARBAGE: dict[str, bytes] = {
    "text": b"hello\n",
    "empty-line": b"\n",
    "nul": b"\0\0\0\n",
    "latin": b'{"unit": "\xff"}\n',
    "list": b"[1]\n",
    "no-errors": b'{"unit": "a", "format": "w8"}\n',
    "no-list": b'{"unit": "a", "format": "w8", "errors": 3}\n',
    "no-samples": b'{"unit": "a", "format": "w8", "errors": []}\n',
    "nan": b'{"unit": "a", "format": "w8", "errors": [NaN]}\n',
    "infinite": b'{"unit": "a", "format": "w8", "errors": [1e999]}\n',
    "negative": b'{"unit": "a", "format": "w8", "errors": [-1]}\n',
    "digits": b'{"unit": "a", "format": "w8", "errors": "12"}\n',
    "number": b'{"unit": 1, "format": "w8", "errors": [0.0]}\n',
    "bool": b'{"unit": "a", "format": "w8", "errors": [true]}\n',
    "word": b'{"unit": "a", "format": "w8", "errors": ["x"]}\n',
    "huge": b'{"unit": "a", "format": "w8", "errors": [1' + b"0" * 400 + b"]}\n",
    "nested": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("line", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused_in_one_line(tmp_path: Path, line: bytes) -> None:
    Store(tmp_path, "m").put("a", "w8", ERRORS)
    path = file_of(tmp_path)
    data = path.read_bytes() + line + path.read_bytes()
    path.write_bytes(data)
    with pytest.raises(OutputError, match=r"no measurement \(line 2\); delete") as refusal:
        Store(tmp_path, "m")
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert path.read_bytes() == data


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, "m")
    store.put("a", "w8", ERRORS)
    path = file_of(tmp_path)
    before = path.read_bytes()
    write = io.FileIO.write

    class Full(io.FileIO):
        """Takes ten bytes and is full, as a disk does in the middle of a line."""

        def write(self, data: Any) -> int:
            write(self, bytes(data)[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", lambda self, mode, buffering: Full(self, mode))
    with pytest.raises(OutputError, match="No space left on device; make room") as refusal:
        store.put("a", "w4", ERRORS)
    assert "\n" not in str(refusal.value)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert store.get("a", "w4") is None
    store.put("a", "w4", ERRORS)
    assert Store(tmp_path, "m").get("a", "w4") == ERRORS


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path, "m")
    store.put("a", "w8", ERRORS)
    path = file_of(tmp_path)
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left on device"):
        store.put("a", "w4", ERRORS)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "none", "m")
    with pytest.raises(OutputError, match="No such file or directory"):
        store.put("a", "w8", ERRORS)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    Store(tmp_path, "m").put("a", "w8", ERRORS)
    path = file_of(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match="cannot be read: Is a directory"):
        Store(tmp_path, "m")
