"""Mutations of safetensors files and zip archives: their headers, members and lies about sizes."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from random import Random

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mixq.tensor_file import _checksum

from .mutate import changed, json_text, plain
from .values import STRINGS, dump_json

LENGTHS = (0, 1, 7, 8, 1 << 20, 100 << 20, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)


def safetensors_file(data: bytes, rng: Random) -> bytes:
    """A safetensors file with another header, other data, or a header that lies."""
    if len(data) < 8 or not rng.randrange(4):
        return plain(data, rng)
    length = struct.unpack("<Q", data[:8])[0]
    if not rng.randrange(12):
        return (
            struct.pack("<Q", rng.choice((*LENGTHS, length + 1, length - 1)) % (1 << 64))
            + data[8:]
        )
    header = json_text(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def tensor_file(data: bytes, rng: Random) -> bytes:
    """A file of `mixq.tensor_file` with another header or other tensors and the right checksum."""
    if not rng.randrange(3):
        return safetensors_file(data, rng)
    try:
        length = struct.unpack("<Q", data[:8])[0]
        text = json.loads(data[8 : 8 + length])["__metadata__"]["mixq"].partition(" ")[2]
        tensors = load(data)
        tree = json.loads(text)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
            struct.error, AssertionError):  # fmt: skip
        return safetensors_file(data, rng)
    if rng.randrange(3):
        try:
            text = dump_json(changed(tree, rng))
        except RecursionError:
            return plain(data, rng)
    else:
        tensors = _other_tensors(tensors, rng)
    try:
        return save(tensors, {"mixq": f"{_checksum(text, tensors)} {text}"})
    except (UnicodeEncodeError, SafetensorError):
        return plain(data, rng)


def _other_tensors(tensors: dict[str, Tensor], rng: Random) -> dict[str, Tensor]:
    if not tensors:
        return {"a": torch.zeros(1)}
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    rest = {key: value for key, value in tensors.items() if key != name}
    match rng.randrange(8):
        case 0:
            return rest
        case 1:
            return {**rest, rng.choice(STRINGS[:60]): tensor}
        case 2:
            return {**tensors, rng.choice(STRINGS[:60]): tensor.clone()}
        case 3:
            return {**rest, name: torch.zeros(rng.choice(((), (0,), (1,), (3, 5), (1, 1, 1, 1))))}
        case 4:
            types = (torch.int8, torch.float16, torch.bfloat16, torch.int64, torch.bool)
            return {**rest, name: tensor.to(rng.choice(types))}
        case 5:
            return {**rest, name: tensor.reshape(-1)}
    raw = bytearray(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    if not raw:
        return rest
    for _ in range(rng.choice((1, 4))):
        at = rng.randrange(len(raw))
        piece = rng.choice(
            (b"\xff\xff\xff\xff", b"\x00\x00\xc0\x7f", b"\0\0\0\0", rng.randbytes(4))
        )
        raw[at : at + 4] = piece[: len(raw[at : at + 4])]
    return {
        **rest,
        name: torch.frombuffer(raw, dtype=torch.uint8).view(tensor.dtype).view(tensor.shape),
    }


KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
"""Compressions that Python can write."""


def archive(member: Callable[[str, bytes, Random], bytes]) -> Callable[[bytes, Random], bytes]:
    """Mutations of a zip archive whose members are changed by `member(name, content, rng)`."""

    def mutate(data: bytes, rng: Random) -> bytes:
        if not rng.randrange(4):
            return _lying(data, rng)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as source:
                members = [(name, source.read(name)) for name in source.namelist()]
                kind = source.infolist()[0].compress_type if members else zipfile.ZIP_STORED
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError,
                ValueError, KeyError, struct.error):  # fmt: skip
            return plain(data, rng)
        except Exception:  # zlib.error and lzma's have no base in common
            return plain(data, rng)
        if not members or kind not in KINDS:
            return plain(data, rng)
        at = rng.randrange(len(members))
        name, content = members[at]
        match rng.randrange(10):
            case 0:
                del members[at]
            case 1:
                members.append((name, content))
            case 2:
                members[at] = (_name(rng, name), content)
            case 3:
                members.append((_name(rng, name), b"\x80\x04."))
            case 4:
                kind = rng.choice(KINDS)
            case _:
                members[at] = (name, member(name, content, rng))
        return zipped(members, kind)

    return mutate


def _name(rng: Random, name: str) -> str:
    folder = name.rpartition("/")[0]
    hostile = rng.choice(STRINGS[:60]).encode("utf-8", "replace").decode()
    return rng.choice((hostile, f"{folder}/{hostile}", f"{name}/{hostile}", f"{hostile}.npy"))[
        :60000
    ]


def zipped(members: list[tuple[str, bytes]], kind: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of these members, names that occur twice among them."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(buffer, "w", kind) as target:
            for name, content in members:
                info = zipfile.ZipInfo(name or "x")
                info.compress_type = kind
                target.writestr(info, content)
    return buffer.getvalue()


def _lying(data: bytes, rng: Random) -> bytes:
    """Other sizes, offsets, methods, flags or names in one header, or changed bytes."""
    signature = rng.choice((b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"))
    starts = [at for at in range(len(data) - 4) if data[at : at + 4] == signature][:50]
    if not starts or not rng.randrange(4):
        return plain(data, rng)
    at = rng.choice(starts)
    fields = {
        b"PK\x01\x02": (6, 8, 10, 16, 20, 24, 28, 30, 34, 42),
        b"PK\x03\x04": (4, 6, 8, 14, 18, 22, 26, 28),
    }
    offset = rng.choice(fields.get(signature, (4, 8, 10, 12, 16, 20)))
    wide = rng.choice((2, 4))
    value = rng.choice((0, 1, 8, 0x7FFF, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, rng.randrange(1 << 32)))
    out = bytearray(data)
    field = (value & ((1 << (8 * wide)) - 1)).to_bytes(wide, "little")
    out[at + offset : at + offset + wide] = field
    return bytes(out)


def npy_member(_: str, content: bytes, rng: Random) -> bytes:
    """An array with another header: descr, order and shape that are not so."""
    if len(content) < 12 or not rng.randrange(3):
        return plain(content, rng)
    header = content[10 : 10 + struct.unpack("<H", content[8:10])[0]]
    descr = rng.choice(
        (
            "<f4",
            "<f8",
            "|O",
            "<U9",
            "|S4",
            ">f4",
            "<c16",
            "<M8[s]",
            "|V4",
            "<i8",
            "|b1",
            "<f2",
            "<m8",
            "<u8",
            "|i1",
            "x",
            "f4,f4",
        )
    )
    shape = rng.choice(
        (
            "()",
            "(1,)",
            "(0,)",
            "(-1,)",
            "(3, -1)",
            "(1<<40,)",
            "(99999999999,)",
            "(1,)*64",
            "(2**62, 4)",
            "(True,)",
            "(1.0,)",
            "[1]",
            "(1000000, 1000000)",
            "None",
            "(" * 500,
            "__import__('os')",
            "(9" + "9" * 5000 + ",)",
        )
    )
    old = header.decode("latin1")
    text = rng.choice(
        (f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (4, 8), }}",
         f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}",
         f"{{'descr': [('a', '{descr}')], 'fortran_order': True, 'shape': {shape}, }}",
         old.replace("False", rng.choice(("True", "1", "None"))),
         old[: rng.randrange(len(old) + 1)])
    )  # fmt: skip
    raw = text.encode()[:60000]
    return content[:8] + struct.pack("<H", len(raw)) + raw + content[10 + len(header) :]


def program_member(name: str, content: bytes, rng: Random) -> bytes:
    """A part of a `.pt2`: JSON by its tree, all else by its bytes."""
    return json_text(content, rng) if name.endswith(".json") else plain(content, rng)
