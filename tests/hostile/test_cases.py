"""What fuzzing found, one by one: each was a crash, a hang or a wrong answer before."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from mixq.tensor_file import _checksum

from .containers import zipped
from .oracle import judge
from .run_targets import placed
from .targets import TARGETS
from .values import Pairs, Raw, dump_json

Change = Callable[[bytes], bytes]


def edit(*path: Any, to: Any) -> Change:
    """The JSON file with another value at a path."""

    def change(data: bytes) -> bytes:
        tree = json.loads(data)
        *before, last = path
        place = tree
        for key in before:
            place = place[key]
        place[last] = to
        return dump_json(tree).encode("utf-8", "surrogatepass")

    return change


def text(content: str) -> Change:
    return lambda _: content.encode()


def checkpoint(**changes: Any) -> Change:
    """A checkpoint with the right checksum and another header or other numbers."""

    def change(data: bytes) -> bytes:
        from safetensors.torch import load

        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])["__metadata__"]["mixq"].partition(" ")[2]
        tree, tensors = json.loads(header), load(data)
        for key, value in changes.items():
            if isinstance(value, torch.Tensor):
                tensors[key.replace("_", " ")] = value
            else:
                tree[key] = value
        changed = dump_json(tree)
        return save(tensors, {"mixq": f"{_checksum(changed, tensors)} {changed}"})

    return change


def npz(header: str) -> Change:
    """An archive of one array with this header and 128 bytes of numbers."""
    raw = header.encode()
    member = b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw + bytes(128)
    return lambda _: zipped([("input.npy", member)])


def central(offset: int, value: int) -> Change:
    """An archive whose central headers all say something else."""

    def change(data: bytes) -> bytes:
        out, at = bytearray(data), data.find(b"PK\x01\x02")
        while at >= 0:
            out[at + offset : at + offset + 2] = value.to_bytes(2, "little")
            at = data.find(b"PK\x01\x02", at + 4)
        return bytes(out)

    return change


def method(number: int) -> Change:
    """Another way of compression."""
    return central(10, number)


def flagged(flags: int) -> Change:
    """Encrypted (1), or names in UTF-8 (0x800)."""
    return central(8, flags)


def bomb(_: bytes) -> bytes:
    """100 MB of zeros in 100 kB."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (25000000,), }"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(100_000_000)
    return zipped([("input.npy", member)], zipfile.ZIP_DEFLATED)


FAR = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }"
CASES: dict[str, tuple[str, Change]] = {
    "toml-key-of-many-parts-takes-hours": ("profile", text("a." * 200_000 + "a = 1")),
    "toml-key-in-a-recipe": ("recipe", text("a." * 30_000 + "a = 1")),
    "toml-key-in-a-suite": ("bench suite", text("a." * 30_000 + "a = 1")),
    "toml-quoted-key": ("profile", text('"a" . ' * 90_000 + "a = 1")),
    "toml-deep-array": ("profile", text("a = " + "[" * 100_000)),
    "profile-key-with-escape": ("profile", text('"\\u001b[31m" = 1')),
    "profile-key-with-line-break": ("profile", text('"\\r\\n" = 1')),
    "profile-extends-a-device": ("profile", text('name = "a"\nextends = "/dev/zero"')),
    "profile-extends-itself": ("profile", text('name = "a"\nextends = "./chip.toml"')),
    "profile-extends-nul": ("profile", text('name = "a"\nextends = "a/\\u0000"')),
    "profile-hides-half-of-a-base": (
        "profile",
        text('name = "a"\nextends = "raspberry_pi_5"\n[chip]\ncores = {}'),
    ),
    "plan-float-too-large": ("plan", edit("predicted", "error", to=Raw("1e400"))),
    "plan-key-twice": ("plan", edit("seed", to=Pairs((("a", 1), ("a", 2))))),
    "plan-weights-elsewhere": ("plan", edit("weights", to={"file": "../x", "sha256": "0" * 64})),
    "table-samples-beyond-floats": ("sensitivity table", edit("samples", to=Raw("9" * 400))),
    "table-entry-samples-beyond-floats": (
        "sensitivity table",
        edit("units", "b", "w2g16", "samples", to=Raw("9" * 400)),
    ),
    "frontier-without-compression": ("frontier", edit("plans", 0, "compression", to=0.0)),
    "frontier-without-latency": ("frontier", edit("plans", 0, "latency_s", to=0.0)),
    "frontier-of-formats-that-are-not": ("frontier", edit("plans", 0, "formats", to=[0, 9])),
    "frontier-of-negative-formats": ("frontier", edit("plans", 0, "formats", to=[0, -1])),
    "frontier-of-too-few-formats": ("frontier", edit("plans", 0, "formats", to=[0])),
    "checkpoint-of-infinite-loss": (
        "checkpoint of training",
        checkpoint(losses=[1.0, Raw("1e400")]),
    ),
    "checkpoint-of-lost-losses": ("checkpoint of training", checkpoint(losses=[1.0])),
    "checkpoint-of-looks-to-come": ("checkpoint of training", checkpoint(looked=[0, 99])),
    "checkpoint-of-one-number": ("checkpoint of training", checkpoint(now_a=torch.zeros(1))),
    "checkpoint-of-another-dtype": (
        "checkpoint of training",
        checkpoint(now_a=torch.zeros(3).int()),
    ),
    "checkpoint-of-nan": (
        "checkpoint of training",
        checkpoint(best_a=torch.tensor([0, 0, torch.nan])),
    ),
    "checkpoint-of-negative-squares": (
        "checkpoint of training",
        checkpoint(square_a=-torch.ones(3)),
    ),
    "journal-nested-too-deep": ("study journal", lambda data: data + b"[" * 100_000 + b"\n"),
    "npz-unknown-compression": ("calibration .npz", method(97)),
    "npz-encrypted": ("calibration .npz", flagged(1)),
    "npz-header-without-end": ("calibration .npz", npz("{'descr': (")),
    "npz-of-more-than-is-stored": ("calibration .npz", npz(FAR % (1 << 40))),
    "npz-of-negative-shape": ("calibration .npz", npz(FAR % -1)),
    "npz-of-digits": ("calibration .npz", npz(FAR % ("9" * 5000))),
    "npz-of-objects": (
        "calibration .npz",
        npz("{'descr': '|O', 'fortran_order': False, 'shape': (4,), }"),
    ),
    "npz-bomb": ("calibration .npz", bomb),
    "npz-without-arrays": ("calibration .npz", lambda _: zipped([])),
    "config-padding-outside": ("Hugging Face config", edit("pad_token_id", to=500)),
    "config-model-type-list": (
        "Hugging Face config",
        lambda d: edit("auto_map", to={})(edit("model_type", to=[])(d)),
    ),
    "config-a-million-layers": ("Hugging Face config", edit("num_hidden_layers", to=1_000_000)),
    "config-positions-of-gigabytes": (
        "Hugging Face config",
        edit("max_position_embeddings", to=1 << 31),
    ),
    "config-name-of-70000": ("Hugging Face config", edit("hidden_act", to="y" * 70_000)),
    "tokenizer-that-is-none": ("Hugging Face tokenizer", text('{"version": "1.0", "model": 6.0}')),
    "index-of-a-long-name": ("index of shards", edit("weight_map", "a", to="x" * 300)),
    "index-of-a-name-with-nul": ("index of shards", edit("weight_map", "a", to="a\0b")),
    "index-of-another-folder": ("index of shards", edit("weight_map", "a", to="../a.safetensors")),
    "gguf-tokenizer-of-a-float": (
        "tokenizer for GGUF",
        edit("model", to={"type": "BPE", "byte_fallback": True, "vocab": 1.5}),
    ),
    "gguf-tokenizer-of-a-bool": ("tokenizer for GGUF", edit("pre_tokenizer", to=True)),
    "quantized-config-without-architecture": ("quantized config", edit("architectures", to=[])),
    "pt2-encrypted": (".pt2 program", flagged(1)),
    "pt2-unknown-compression": (".pt2 program", method(97)),
    "pt2-name-not-utf8": (
        ".pt2 program",
        lambda d: flagged(0x800)(d).replace(b"archive_format", b"archive_f\xdfrmat"),
    ),
    "safetensors-header-longer-than-the-file": (
        "calibration .safetensors",
        lambda d: (1 << 62).to_bytes(8, "little") + d[8:],
    ),
}


@pytest.mark.parametrize(("name", "change"), CASES.values(), ids=CASES)
def test_refused_cleanly(name: str, change: Change, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = next(one for one in TARGETS if one.name == name)
        seed = target.seeds(folder)[0]
        target = placed(target, folder)
        judge(target, seed, folder, seconds=60)
        verdict = judge(target, change(seed), folder)
    assert verdict.kind == "refused", verdict.why


TAKEN: dict[str, tuple[str, Change]] = {
    "rows-of-no-tokens": (
        "published rows",
        lambda data: data.replace(b",128,8,32,,latency", b",0,8,32,,latency"),
    ),
    "suite-of-a-name-too-long": (
        "bench suite",
        lambda data: data.replace(b'spec = "demo"', b'spec = "' + b"x" * 900 + b'"'),
    ),
    "config-architecture-number": ("Hugging Face config", edit("architectures", to=5)),
    "config-architectures-empty": ("Hugging Face config", edit("architectures", to=[])),
    "table-of-errors-that-overflow": (
        "sensitivity table",
        edit("units", "a.weight", "w8", "per_sample", to=[0.0, 1.7e308, 0.5]),
    ),
}


@pytest.mark.parametrize(("name", "change"), TAKEN.values(), ids=TAKEN)
def test_taken_for_what_it_is(name: str, change: Change, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = next(one for one in TARGETS if one.name == name)
        seed = target.seeds(folder)[0]
        verdict = judge(target, change(seed), folder)
    assert verdict.kind == "accepted", verdict.why


SAFETENSORS = {
    "overlapping": {"a": [0, 16], "b": [8, 24]},
    "negative": {"a": [-8, 8]},
    "beyond-the-end": {"a": [0, 1 << 40]},
    "backwards": {"a": [16, 0]},
    "with-a-gap": {"a": [0, 16], "b": [24, 40]},
    "huge": {"a": [0, (1 << 64) - 1]},
}


@pytest.mark.parametrize("reader", ["artifact", "calibration .safetensors", "shards",
                                    "Hugging Face weights", "rounded weights"])  # fmt: skip
@pytest.mark.parametrize("offsets", SAFETENSORS.values(), ids=SAFETENSORS)
def test_offsets_that_lie(reader: str, offsets: dict[str, list[int]], folder: Path) -> None:
    entries = {
        name: {"dtype": "F32", "shape": [4], "data_offsets": place}
        for name, place in offsets.items()
    }
    header = json.dumps(entries).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(40)
    target = next(one for one in TARGETS if one.name == reader)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target.seeds(folder)
        verdict = judge(placed(target, folder), content, folder)
    assert verdict.kind == ("accepted" if reader == "rounded weights" else "refused"), verdict.why
    assert verdict.peak_bytes < 50_000_000
