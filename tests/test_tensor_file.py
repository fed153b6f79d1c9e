"""Tensor file: what was written comes back, and nothing else is ever believed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from mixq.errors import ArtifactError, OutputError, PlanError
from mixq.tensor_file import checksum_of, read_tensors, write_tensors

HEADER = {"version": 1, "units": {"a": {"format": "w4g64"}}, "text": "é \x7f \u2028"}
DTYPES = (torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.bool)


def tensors() -> dict[str, Tensor]:
    return {
        "codes": torch.arange(24, dtype=torch.uint8),
        "scales": torch.linspace(-1, 1, 6).to(torch.float16).reshape(2, 3),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3.5, dtype=torch.bfloat16),
    }


def read(path: Path) -> tuple[object, dict[str, Tensor], str]:
    return read_tensors(path, ArtifactError, "it")


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and torch.equal(raw(left[name]), raw(right[name]))
        for name in left
    )


def raw(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    named=st.dictionaries(
        NAMES.filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=4,
    ),
    header=st.dictionaries(NAMES, st.integers() | NAMES, max_size=3),
)
def test_a_round_trip_keeps_every_bit(
    tmp_path_factory: pytest.TempPathFactory,
    named: dict[str, tuple[torch.dtype, list[int]]],
    header: dict[str, object],
) -> None:
    path = tmp_path_factory.mktemp("files") / "a.safetensors"
    generator = torch.Generator().manual_seed(0)
    stored = {
        name: torch.randint(0, 100, shape, generator=generator).to(dtype)
        for name, (dtype, shape) in named.items()
    }
    checksum = write_tensors(path, stored, header)
    assert checksum == checksum_of(stored, header)
    found_header, found, found_checksum = read(path)
    assert (found_header, found_checksum) == (header, checksum)
    assert same(found, stored)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(12.0).reshape(3, 4).t(),
        lambda: torch.arange(12.0)[::2],
        lambda: torch.arange(3.0).expand(4, 3),
        lambda: torch.nn.Parameter(torch.arange(4.0)),
    ],
    ids=["transposed", "strided", "expanded", "parameter"],
)
def test_windows_are_stored_as_what_they_show(tmp_path: Path, make: Callable[[], Tensor]) -> None:
    tensor = make()
    # Two names of one storage, which safetensors by itself refuses.
    write_tensors(tmp_path / "a", {"a": tensor, "b": tensor}, {})
    _, found, _ = read(tmp_path / "a")
    assert torch.equal(found["a"], tensor.detach())
    assert torch.equal(found["b"], tensor.detach())


Change: TypeAlias = Callable[[dict[str, Tensor], dict[str, object]], object]
CHANGES: dict[str, Change] = {
    "a-bit": lambda t, h: t["codes"].__setitem__(3, 200),
    "a-name": lambda t, h: t.update(other=t.pop("codes")),
    "a-shape": lambda t, h: t.update(codes=t["codes"].reshape(4, 6)),
    "a-dtype": lambda t, h: t.update(codes=t["codes"].view(torch.int8)),
    "one-less": lambda t, h: t.pop("empty"),
    "two-swapped": lambda t, h: t.update(codes=t["scales"], scales=t["codes"]),
    "the-header": lambda t, h: h.update(version=2),
    "a-header-key": lambda t, h: h.update(extra=None),
    "minus-zero": lambda t, h: t.update(scalar=t["scalar"] * 0 * -1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_checksum_sees(change: Change) -> None:
    stored, header = {**tensors(), "scalar": torch.tensor(0.0)}, dict(HEADER)
    before = checksum_of(stored, header)
    change(stored, header)
    assert checksum_of(stored, header) != before


def test_the_order_of_names_does_not_count() -> None:
    turned = dict(reversed(tensors().items()))
    assert checksum_of(turned, HEADER) == checksum_of(tensors(), HEADER)


def test_the_same_content_is_the_same_file_in_every_process(tmp_path: Path) -> None:
    write_tensors(tmp_path / "here", tensors(), HEADER)
    program = (
        "import sys, torch; from mixq.tensor_file import write_tensors, read_tensors;"
        "from mixq.errors import PlanError;"
        "header, tensors, _ = read_tensors(sys.argv[1], PlanError, 'x');"
        "write_tensors(sys.argv[2], dict(reversed(tensors.items())), header)"
    )
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", program, tmp_path / "here", tmp_path / seed],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            timeout=120,
        )
        assert (tmp_path / seed).read_bytes() == (tmp_path / "here").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a"
    write_tensors(path, tensors(), HEADER)
    return path.read_bytes()


def places(content: bytes) -> dict[str, int]:
    """A byte of every kind of place."""
    (length,) = struct.unpack("<Q", content[:8])
    text = content.index(b"version")
    return {
        "length-low": 0,
        "length-high": 7,
        "json": 8,
        "name": content.index(b'"codes"') + 2,
        "dtype": content.index(b'"F16"') + 2,
        "shape": content.index(b'"shape":[') + 9,
        "offset": content.index(b'"data_offsets":[') + 16,
        "key": content.index(b'"mixq"') + 2,
        "checksum": content.index(b'"mixq"') + 12,
        "header": text + 2,
        "first-byte": 8 + length,
        "middle": 8 + length + (len(content) - 8 - length) // 2,
        "last-byte": len(content) - 1,
    }


@pytest.mark.parametrize("bit", [0, 5, 7])
@pytest.mark.parametrize(
    "place",
    [
        *("length-low", "length-high", "json", "name", "dtype", "shape", "offset", "key"),
        *("checksum", "header", "first-byte", "middle", "last-byte"),
    ],
)
def test_one_flipped_bit_at(tmp_path: Path, whole: bytes, place: str, bit: int) -> None:
    damaged = bytearray(whole)
    damaged[places(whole)[place]] ^= 1 << bit
    (tmp_path / "a").write_bytes(damaged)
    with pytest.raises(ArtifactError) as caught:
        read(tmp_path / "a")
    message = str(caught.value)
    assert "it" in message
    assert message.isprintable()


@pytest.mark.parametrize("keep", [0, 7, 8, 9, 200, -1], ids=lambda keep: f"first-{keep}")
def test_a_file_cut_short(tmp_path: Path, whole: bytes, keep: int) -> None:
    (tmp_path / "a").write_bytes(whole[:keep])
    with pytest.raises(ArtifactError, match="damaged or not a safetensors file"):
        read(tmp_path / "a")


def test_bytes_behind_the_end(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "a").write_bytes(whole + b"\0")
    with pytest.raises(ArtifactError, match="damaged"):
        read(tmp_path / "a")


def test_a_header_longer_than_the_file_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(ArtifactError, match="damaged"):
        read(tmp_path / "a")


def foreign(path: Path, metadata: dict[str, str] | None) -> None:
    save_file(tensors(), path, metadata=metadata)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}], ids=repr)
def test_somebody_elses_file(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    foreign(tmp_path / "a", metadata)
    with pytest.raises(ArtifactError, match="mixq did not write it"):
        read(tmp_path / "a")


@pytest.mark.parametrize(
    "text",
    ["", "no-space", "0 ", "{} {}", "0 [", '0 {"a": NaN}', "0 " + "[" * 100_000, '0 "\\ud800"'],
    ids=["empty", "no-space", "nothing", "no-checksum", "no-json", "nan", "deep", "surrogate"],
)
def test_a_header_that_is_no_header(tmp_path: Path, text: str) -> None:
    foreign(tmp_path / "a", {"mixq": text})
    with pytest.raises(ArtifactError) as caught:
        read(tmp_path / "a")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_a_pickle_is_data_and_nothing_more(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "exploded").touch, ())

    (tmp_path / "a").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "b").write_bytes(b"")
    torch.save(Bomb(), tmp_path / "b")
    for name in "ab":
        with pytest.raises(ArtifactError, match="damaged or not a safetensors file"):
            read(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["missing", "folder", "fifo", "nul\0"])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(PlanError, match="it is not a file; check the path"):
        read_tensors(tmp_path / name, PlanError, "it")


def test_the_kind_of_error_is_the_callers(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "a").write_bytes(whole[:-1])
    for kind in (ArtifactError, PlanError, OutputError):
        with pytest.raises(kind, match="the place"):
            read_tensors(tmp_path / "a", kind, "the place")


def test_a_dtype_that_safetensors_lacks(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="complex128"):
        write_tensors(tmp_path / "a", {"a": torch.zeros(2, dtype=torch.complex128)}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "code"),
    [("mixq.tensor_file.save_file", errno.ENOSPC), ("os.fsync", errno.EIO)],
    ids=["writing", "syncing"],
)
def test_a_failing_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    write_tensors(tmp_path / "a", {"a": torch.zeros(2)}, {})
    before = (tmp_path / "a").read_bytes()

    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(call, fails)
    with pytest.raises(OutputError, match="nothing was changed"):
        write_tensors(tmp_path / "a", tensors(), HEADER)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == before


WRITER = """
import sys, torch
from mixq.tensor_file import write_tensors

big = {"a": torch.zeros(4_000_000), "b": torch.ones(4_000_000)}
print("ready", flush=True)
for turn in range(1000):
    write_tensors(sys.argv[1], big, {"turn": turn})
"""


def test_a_kill_while_writing_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_tensors(path, {"a": torch.zeros(2)}, {"turn": -1})
    turns = []
    for pause_s in (0.0, 0.013, 0.05, 0.11):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process, process.stdout:
            assert process.stdout.readline() == "ready\n"
            time.sleep(pause_s)
            process.send_signal(signal.SIGKILL)
        header, _, _ = read(path)
        assert isinstance(header, dict)
        turns.append(header["turn"])
    assert turns[0] in (-1, 0, 1)
    assert all(isinstance(turn, int) for turn in turns)


def test_what_was_read_outlives_the_file(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", tensors(), HEADER)
    _, found, _ = read(tmp_path / "a")
    write_tensors(tmp_path / "a", {name: item + 1 for name, item in tensors().items()}, HEADER)
    (tmp_path / "a").unlink()
    assert same(found, tensors())


def test_the_checksum_is_one_that_anyone_can_compute() -> None:
    stored = {"b": torch.tensor([1, 2], dtype=torch.int16), "a": torch.tensor([[0.5]])}
    text = json.dumps(HEADER, sort_keys=True)
    digest = hashlib.sha256(text.encode())
    digest.update(b"'a'|torch.float32|(1, 1)|" + struct.pack("<f", 0.5))
    digest.update(b"'b'|torch.int16|(2,)|" + struct.pack("<2h", 1, 2))
    assert checksum_of(stored, HEADER) == digest.hexdigest()
