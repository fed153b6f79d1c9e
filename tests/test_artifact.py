"""Artifact: exact bytes, the same outputs in another process, and nothing believed unseen."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import mixq
import mixq.artifact
import mixq.demo
from mixq.artifact import tensor_bytes
from mixq.errors import ArtifactError, OutputError
from mixq.formats import Format
from mixq.graph.state import fingerprint

from .plans import plan_for

GOLDEN = Path(__file__).parent / "data" / "plan-v1.json"

# torch.export's own, when a GraphModule is copied.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

MIX = (Format(4, 16), Format(8), Format(2, 16, "zero-point"), Format(16), Format(32))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(5, 20))
        self.embedding = nn.Embedding(30, 20)
        self.first = self.second = nn.Linear(20, 20)
        self.head = nn.Linear(20, 30, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("mask", torch.full((5, 1), float("-inf")).relu())
        self.register_buffer("nothing", torch.zeros(0, 4))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens) + self.shift + self.get_buffer("mask")
        y: Tensor = self.head(self.second(self.first(hidden)))
        return y


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(20, 16, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(x)[0]
        return y


def exported() -> nn.Module:
    torch.manual_seed(1)  # load needs the same graph twice
    example = (torch.zeros(2, 5, dtype=torch.long),)
    return torch.export.export(Tied().eval(), example).module()


def tokens() -> Tensor:
    return torch.randint(0, 30, (2, 5))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Linear(33, 7), lambda: torch.randn(4, 33)),
    "convolutions and counters": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, groups=4)),
        lambda: torch.randn(2, 3, 8, 8),
    ),
    "tied and used twice": (Tied, tokens),
    "lstm": (Recurrent, lambda: torch.randn(2, 6, 20)),
    "attention": (
        lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        lambda: torch.randn(2, 5, 16),
    ),
    "weight norm": (
        lambda: parametrizations.weight_norm(nn.Linear(20, 20)),
        lambda: torch.randn(4, 20),
    ),
    "exported": (exported, tokens),
    "bfloat16": (
        lambda: nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 9)).bfloat16(),
        lambda: torch.randn(4, 20).bfloat16(),
    ),
}


def in_eval(model: nn.Module) -> nn.Module:
    for module in model.modules():  # .eval() is refused by exported programs
        module.training = False
    return model


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, Tensor]:
    """A model, the same architecture with other weights, and an input."""
    make, data = CASES[request.param]
    torch.manual_seed(0)
    model, other = in_eval(make()), in_eval(make())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    return model, other, data()


@pytest.mark.parametrize("formats", [MIX, MIX[::-1], MIX[-1:]], ids=["mix", "mix turned", "w32"])
def test_loading_gives_the_same_model(
    case: tuple[nn.Module, nn.Module, Tensor], formats: tuple[Format, ...], tmp_path: Path
) -> None:
    model, other, data = case
    plan = plan_for(model, *formats)
    applied = plan.apply(model)
    path, again = tmp_path / "model.safetensors", tmp_path / "again.safetensors"
    before = fingerprint(other)
    saved = mixq.save(applied, path)
    loaded = mixq.load(path, other)
    assert saved == tensor_bytes(path) == plan.predicted.weight_bytes
    with torch.no_grad():
        assert torch.equal(loaded(data), applied(data))
    assert fingerprint(other) == before
    assert mixq.save(loaded, again) == saved
    assert again.read_bytes() == path.read_bytes()
    assert mixq.save(copy.deepcopy(loaded), again) == saved
    assert again.read_bytes() == path.read_bytes()


def test_bytes_on_disk_are_the_tensors_and_a_header(tmp_path: Path) -> None:
    model = nn.Linear(33, 7)
    path = tmp_path / "model.safetensors"
    saved = mixq.save(plan_for(model, Format(2, 16, "zero-point")).apply(model), path)
    header_bytes = struct.unpack("<Q", path.read_bytes()[:8])[0]
    assert path.stat().st_size == 8 + header_bytes + saved


def run(code: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_fresh_process_computes_the_same_bits(tmp_path: Path) -> None:
    path = tmp_path / "demo.safetensors"
    model, calibration, _ = mixq.demo.load()
    plan = plan_for(model, *MIX)
    applied = plan.apply(model)
    assert mixq.save(applied, path) == plan.predicted.weight_bytes
    batch = calibration.batches[0]
    assert isinstance(batch, Tensor)
    with torch.no_grad():
        expected = hashlib.sha256(applied(batch).numpy().tobytes()).hexdigest()
    code = """
import hashlib, sys, torch, mixq, mixq.demo
torch.set_num_threads(int(sys.argv[2]))  # sums are split among threads
model, calibration, _ = mixq.demo.load()
with torch.no_grad():
    output = mixq.load(sys.argv[1], model)(calibration.batches[0])
print(hashlib.sha256(output.numpy().tobytes()).hexdigest())
"""
    assert run(code, path, str(torch.get_num_threads())) == expected


def test_a_later_change_of_the_file_does_not_reach_the_model(tmp_path: Path) -> None:
    model, data = nn.Linear(20, 20), torch.randn(3, 20)
    path = tmp_path / "model.safetensors"
    applied = plan_for(model, Format(4)).apply(model)
    mixq.save(applied, path)
    loaded = mixq.load(path, model)
    with path.open("r+b") as file:  # in place: the same file, as a copy over it does
        file.write(b"\xff" * path.stat().st_size)
    assert torch.equal(loaded(data), applied(data))


def test_another_dtype_is_saved_as_it_is(tmp_path: Path) -> None:
    model, data = nn.Linear(20, 20), torch.randn(3, 20).bfloat16()
    path = tmp_path / "model.safetensors"
    applied = plan_for(model, Format(4)).apply(model).to(torch.bfloat16)
    mixq.save(applied, path)
    with pytest.raises(ArtifactError, match="pass the architecture it was made from"):
        mixq.load(path, model)
    assert torch.equal(mixq.load(path, model.bfloat16())(data), applied(data))


def message(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert text.isprintable()
    assert len(text) < 1000
    return text


@pytest.mark.parametrize("model", [nn.Linear(4, 4), nn.Sequential()], ids=["plain", "empty"])
def test_only_applied_models_are_saved(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no packed weights"):
        mixq.save(model, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_that_safetensors_lacks_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(20, 20)
    model.register_buffer("phases", torch.zeros(3, dtype=torch.complex128))
    with pytest.raises(ArtifactError, match="complex128") as refused:
        mixq.save(plan_for(model, Format(4)).apply(model), tmp_path / "model.safetensors")
    message(refused)
    assert list(tmp_path.iterdir()) == []


# ---- a disk that is full


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (
            "mixq.tensor_file.save_file",
            SafetensorError("I/O error: No space left (os error 28)\n"),
        ),
        ("mixq.tensor_file.save_file", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
        ("os.fsync", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
        ("pathlib.Path.replace", OSError(errno.EIO, os.strerror(errno.EIO))),
    ],
    ids=["safetensors", "writing", "syncing", "renaming"],
)
@pytest.mark.parametrize("old", [None, b"old"], ids=["new file", "old file"])
def test_a_failed_write_leaves_what_was_there(
    old: bytes | None, call: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    if old is not None:
        path.write_bytes(old)
    model = nn.Linear(20, 20)
    applied = plan_for(model, Format(4)).apply(model)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(call, fail)
    with pytest.raises(OutputError, match="cannot be written") as refused:
        mixq.save(applied, path)
    message(refused)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if old is None else [old])


def test_a_disk_that_fills_up_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    # The system's own limit on the size of a file, in a process of its own.
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    code = """
import resource, sys, mixq.demo
from mixq.errors import OutputError
from mixq.plan import Plan
from mixq.graph.state import fingerprint
model = mixq.demo.load()[0]
plan = Plan.load(sys.argv[2])
info = plan.model.model_copy(update={"fingerprint": fingerprint(model)})
applied = plan.model_copy(update={"model": info}).apply(model)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    mixq.save(applied, sys.argv[1])
except OutputError as error:
    print(error)
"""
    assert "cannot be written" in run(code, path, GOLDEN)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


# ---- files that are not what they seem


@pytest.fixture
def saved(tmp_path: Path) -> tuple[nn.Module, Path]:
    """A small model and its artifact: a packed unit of every kind, a bias, a counter."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(20, 4), nn.Linear(4, 5), nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4)
    ).eval()
    path = tmp_path / "model.safetensors"
    plan = plan_for(model, Format(4, 16, "zero-point"), Format(8), Format(16))
    mixq.save(plan.apply(model), path)
    return model, path


def refusal(path: Path, model: nn.Module) -> str:
    before = fingerprint(model)
    with pytest.raises(ArtifactError) as refused:
        mixq.load(path, model)
    assert fingerprint(model) == before
    text = message(refused)
    assert path.name in text
    return text


def test_every_flipped_bit_is_noticed(saved: tuple[nn.Module, Path]) -> None:
    model, path = saved
    data = path.read_bytes()
    for index in range(len(data)):
        damaged = bytearray(data)
        damaged[index] ^= 1 << (index * 5 % 8)  # one bit of every byte
        path.write_bytes(damaged)
        refusal(path, model)


def test_every_truncation_is_noticed(saved: tuple[nn.Module, Path]) -> None:
    model, path = saved
    data = path.read_bytes()
    for length in {*range(0, len(data), 37), *range(20), len(data) - 1}:
        path.write_bytes(data[:length])
        refusal(path, model)
    path.write_bytes(data + b"\0")
    refusal(path, model)


def test_a_pickle_in_disguise_is_not_run(saved: tuple[nn.Module, Path], tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    model, path = saved
    path.write_bytes(pickle.dumps(Payload()))
    refusal(path, model)
    torch.save({"payload": Payload()}, path)  # a zip with a pickle in it
    assert zipfile.is_zipfile(path)
    refusal(path, model)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["missing", "folder", "pipe", "a\nb\x1b[2J"], ids=ascii)
def test_what_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="is not a file") as refused:
        mixq.load(tmp_path / name, nn.Linear(4, 4))
    message(refused)


def test_somebody_elses_safetensors_are_refused(saved: tuple[nn.Module, Path]) -> None:
    model, path = saved
    save_file(model.state_dict(), path)
    assert "mixq did not write it" in refusal(path, model)


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}


HOSTILE = {
    "empty": b"",
    "seven bytes": b"1234567",
    "no header": raw(b""),
    "header longer than the file": raw({}, length=1000),
    "huge header": raw({}, length=(1 << 63) - 1),
    "header of 2^64 - 1": raw({}, length=(1 << 64) - 1),
    "header of 100 MB announced": raw({}, length=100_000_000),
    "not JSON": raw(b"{'a': 1}"),
    "not UTF-8": raw(b'{"\xff": 1}'),
    "a list": raw([]),
    "deep": raw(b'{"a":' * 100_000),
    "deep metadata": raw(b'{"__metadata__":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    "metadata that are no strings": raw({"__metadata__": {"mixq": 1}}),
    "data missing": raw(one("F32", [4], 0, 16)),
    "data too long": raw(one("F32", [4], 0, 16), b"\0" * 17),
    "data before the start": raw(one("F32", [4], -16, 0)),
    "end before start": raw(one("F32", [4], 16, 0), b"\0" * 16),
    "shape times dtype is not the length": raw(one("F32", [5], 0, 16), b"\0" * 16),
    "shape that overflows to the length": raw(one("F32", [1 << 32, 1 << 32, 4], 0, 0)),
    "shape of 2^62": raw(one("F32", [1 << 62], 0, 16), b"\0" * 16),
    "negative shape": raw(one("F32", [-4], 0, 16), b"\0" * 16),
    "unknown dtype": raw(one("PICKLE", [16], 0, 16), b"\0" * 16),
    "overlapping tensors": raw(
        {**one("U8", [16], 0, 16), "b": one("U8", [16], 0, 16)["a"]}, b"\0" * 16
    ),
    "a hole": raw(one("U8", [8], 8, 16), b"\0" * 16),
    "huge integers": raw(
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}'
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[name])
    refusal(path, nn.Linear(4, 4))


def test_a_sparse_giant_is_refused_without_memory(tmp_path: Path) -> None:
    # 64 GiB that take no room on disk, announced as a header and as one tensor.
    path = tmp_path / "model.safetensors"
    for start in (raw(b"", length=1 << 35), raw(one("U8", [1 << 36], 0, 1 << 36))):
        with path.open("wb") as file:
            file.write(start)
            file.truncate((1 << 36) + len(start))
        refusal(path, nn.Linear(4, 4))


Edit = Callable[[dict[str, Any], dict[str, Tensor]], object]


def rewritten(path: Path, edit: Edit) -> None:
    """Change an artifact as somebody would who knows how to make the checksum."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["mixq"].partition(" ")[2])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    result = edit(header, tensors)
    text = result if isinstance(result, str) else json.dumps(header)
    checksum = mixq.tensor_file._checksum(text, tensors)
    path.unlink()
    save_file(tensors, path, metadata={"mixq": f"{checksum} {text}"})


def unit(field: str, value: object, name: str = "0.weight") -> Edit:
    return lambda header, _: header["units"][name].update({field: value})


def tensor(name: str, change: Callable[[Tensor], Tensor]) -> Edit:
    return lambda _, tensors: tensors.update({name: change(tensors[name])})


EDITS: dict[str, tuple[Edit, str]] = {
    "header not JSON": (lambda header, _: json.dumps(header)[:-1], "not valid JSON"),
    "header NaN": (lambda *_: '{"version": NaN}', "not valid JSON"),
    "header a list": (lambda *_: "[]", "header"),
    "header deep": (lambda *_: "[" * 10**5, "not valid JSON"),
    "header huge integer": (lambda *_: '{"version": ' + "9" * 5000 + "}", "not valid JSON"),
    "header large integer": (lambda *_: '{"version": ' + "9" * 4000 + "}", "version"),
    "another version": (lambda header, _: header.update(version=2), "version"),
    "version missing": (lambda header, _: header.pop("version"), "version"),
    "version true": (lambda header, _: header.update(version=True), "version"),
    "origin missing": (lambda header, _: header.pop("origin") and None, "origin"),
    "origin long": (lambda header, _: header.update(origin="x" * 10**6), "origin"),
    "units missing": (lambda header, _: header.pop("units"), "units"),
    "units a list": (lambda header, _: header.update(units=[]), "units"),
    "no units": (lambda header, _: header.update(units={}), "pass the architecture"),
    "unit a number": (lambda header, _: header["units"].update({"0.weight": 1}), "0.weight"),
    "unit missing": (lambda header, _: header["units"].pop("0.weight"), "0.weight"),
    "unit unknown": (
        lambda header, _: header["units"].update({"\x1b[2J\n": header["units"]["0.weight"]}),
        "not a parameter",
    ),
    "unit of a long name": (
        lambda header, _: header["units"].update({"n" * 10**6: header["units"]["0.weight"]}),
        "not a parameter",
    ),
    "unit a buffer": (
        lambda header, _: header["units"].update({"3.running_mean": header["units"]["0.weight"]}),
        "not a parameter",
    ),
    "many units": (
        lambda header, _: header["units"].update({str(n): 1 for n in range(10**5)}),
        "Input should be",
    ),
    "format unknown": (unit("format", "w3"), "bits is 3"),
    "format 32": (unit("format", "w32"), "w32"),
    "format other": (unit("format", "w4g16"), "tensors"),
    "format wider": (unit("format", "w8g16-zp"), "codes must be"),
    "format hostile": (unit("format", "\x1b[2J\n"), "format"),
    "format long": (unit("format", "w" * 10**6), "format"),
    "format a number": (unit("format", 4), "format"),
    "shape other": (unit("shape", [5, 16]), "pass the architecture"),
    "shape turned": (unit("shape", [20, 4]), "pass the architecture"),
    "shape negative": (unit("shape", [-4, -20]), "shape"),
    "shape zero": (unit("shape", [0, 20]), "shape"),
    "shape overflows": (unit("shape", [1 << 62] * 60), "pass the architecture"),
    "shape endless": (unit("shape", [1] * 10**6), "shape"),
    "shape huge integers": (unit("shape", [10**4000] * 60), "shape"),
    "rows other": (unit("rows", 5), "matrix"),
    "rows for columns": (
        lambda header, _: header["units"]["0.weight"].update(rows=20, columns=4),
        "must be",
    ),
    "rows zero": (unit("rows", 0), "rows"),
    "rows a string": (unit("rows", "4"), "rows"),
    "rows huge": (unit("rows", 10**4000), "rows"),
    "columns negative": (unit("columns", -20), "columns"),
    "dtype other": (unit("dtype", "float64"), "pass the architecture"),
    "dtype no dtype": (unit("dtype", "__class__"), "pass the architecture"),
    "dtype hostile": (unit("dtype", "\n\x1b[2J"), "pass the architecture"),
    "codes missing": (lambda _, tensors: tensors.pop("0.weight__codes"), "codes must be"),
    "codes short": (tensor("0.weight__codes", lambda t: t[:-1].clone()), "codes must be"),
    "codes signed": (tensor("0.weight__codes", lambda t: t.view(torch.int8)), "codes must be"),
    "codes reshaped": (tensor("0.weight__codes", lambda t: t[None]), "codes must be"),
    "scales NaN": (tensor("0.weight__scales", lambda t: t * float("nan")), "not finite"),
    "scales infinite": (tensor("1.weight__scales", lambda t: t * float("inf")), "not finite"),
    "half NaN": (tensor("2.weight__half", lambda t: t * float("nan")), "not finite"),
    "scales in float32": (tensor("0.weight__scales", Tensor.float), "scales must be"),
    "scales per row": (tensor("0.weight__scales", lambda t: t[:, :1].clone()), "scales must be"),
    "zeros missing": (lambda _, tensors: tensors.pop("0.weight__zeros"), "zeros must be"),
    "bias missing": (lambda _, tensors: tensors.pop("0.bias"), "'0.bias' must be"),
    "bias longer": (tensor("0.bias", lambda t: torch.zeros(5)), "'0.bias' must be"),
    "bias in float64": (tensor("0.bias", Tensor.double), "'0.bias' must be"),
    "counter a float": (tensor("3.num_batches_tracked", Tensor.float), "must be"),
    "one tensor more": (
        lambda _, tensors: tensors.update({"extra": torch.zeros(1)}),
        "has 14 tensors, but the model takes 13",
    ),
    "the weight beside its codes": (
        lambda _, tensors: tensors.update({"0.weight": torch.zeros(4, 20)}),
        "tensors",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_files_are_refused(name: str, saved: tuple[nn.Module, Path]) -> None:
    model, path = saved
    edit, words = EDITS[name]
    rewritten(path, edit)
    assert words in refusal(path, model)


def test_an_edit_of_nothing_is_accepted(saved: tuple[nn.Module, Path]) -> None:
    model, path = saved
    rewritten(path, lambda *_: None)
    mixq.load(path, model)


def test_a_wrong_checksum_is_refused(saved: tuple[nn.Module, Path]) -> None:
    model, path = saved
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    text = metadata["mixq"].partition(" ")[2]
    for checksum in ("", "0" * 64, " "):
        path.unlink()
        save_file(tensors, path, metadata={"mixq": f"{checksum} {text}"})
        refusal(path, model)


@pytest.mark.parametrize(
    "other",
    [
        nn.Linear(20, 4),
        nn.Sequential(nn.Linear(20, 4), nn.Linear(4, 5), nn.Linear(5, 4), nn.BatchNorm1d(4)),
        nn.Sequential(
            nn.Linear(20, 5), nn.Linear(5, 5), nn.Linear(5, 4, False), nn.BatchNorm1d(4)
        ),
        nn.Sequential(nn.Linear(20, 4), nn.Linear(4, 5), nn.Linear(5, 4, False), nn.LayerNorm(4)),
        nn.Sequential(
            nn.Linear(20, 4), nn.Linear(4, 5), nn.Linear(5, 4, False), nn.BatchNorm1d(4)
        ).double(),
    ],
    ids=["one layer", "a bias more", "another width", "another norm", "another dtype"],
)
def test_another_architecture_is_refused(other: nn.Module, saved: tuple[nn.Module, Path]) -> None:
    _, path = saved
    refusal(path, other)


def test_an_applied_model_is_another_architecture(saved: tuple[nn.Module, Path]) -> None:
    model, path = saved
    refusal(path, plan_for(model, Format(4)).apply(model))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own count")
def test_hostile_headers_take_little_memory(tmp_path: Path) -> None:
    # In a process of its own, whose peak is its own; torch alone takes 200 to 400 MB.
    path = tmp_path / "model.safetensors"
    text = json.dumps({"version": 1, "origin": "x", "units": {str(n): 1 for n in range(500_000)}})
    tensors = {"a": torch.zeros(1)}
    save_file(
        tensors,
        path,
        metadata={"mixq": f"{mixq.tensor_file._checksum(text, tensors)} {text}"},
    )
    code = """
import sys
from torch import nn
import mixq, mixq.artifact
model = nn.Linear(4, 4)
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
before = peak()
try:
    mixq.load(sys.argv[1], model)
except mixq.MixqError as error:
    print(error)
print((peak() - before) // path_bytes)
""".replace("path_bytes", str(path.stat().st_size))
    *_, growth = run(code, path).splitlines()
    assert int(growth) < 30  # times the size of the file: Python objects for what it spells out
