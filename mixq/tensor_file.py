"""Tensor file: named tensors and a JSON header in one safetensors file with a checksum, no pickle.

The file's metadata hold one string, `mixq`: the SHA-256 of what follows and of every tensor, a
space, and the header. It is one because safetensors writes several in an order that differs from
run to run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mixq.errors import MixqError, OutputError
from mixq.files import atomic_path, is_regular, one_line, parse_json

_KEY: Final = "mixq"
_CHECKSUM: Final = re.compile(r"[0-9a-f]{64}")


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, object]
) -> str:
    """Write a tensor file, whole or not at all; its checksum, 64 hexadecimal digits.

    Raises:
        OutputError: if the file cannot be written; then there is none.
        KeyError: for a tensor of a dtype that safetensors lacks, naming the dtype.
    """
    # Clones: safetensors refuses tensors that are windows of one storage.
    flat = {name: item.detach().cpu().contiguous().clone() for name, item in tensors.items()}
    text = json.dumps(header, sort_keys=True)
    checksum = _checksum(text, flat)
    try:
        with atomic_path(path) as temporary:
            save_file(flat, temporary, metadata={_KEY: f"{checksum} {text}"})
    except SafetensorError as error:
        raise OutputError(
            f"{one_line(path)} cannot be written: {one_line(error)}; nothing was changed, make "
            "room or choose another place"
        ) from error
    return checksum


def checksum_of(tensors: Mapping[str, Tensor], header: Mapping[str, object]) -> str:
    """The checksum that a file of these would have."""
    flat = {name: item.detach().cpu().contiguous() for name, item in tensors.items()}
    return _checksum(json.dumps(header, sort_keys=True), flat)


def read_tensors(
    path: str | Path, kind: type[MixqError], where: str
) -> tuple[Any, dict[str, Tensor], str]:
    """Header, tensors in memory of their own, and checksum, which has been verified of these.

    safetensors itself refuses a header that is longer than the file or does not describe exactly
    the bytes behind it, so memory is bounded by the size of the file. The file is not mapped:
    whoever writes to it later changes no tensor, and whoever cuts it ends no process.

    Args:
        path: of the file.
        kind: what is raised.
        where: names the file in messages.

    Raises:
        MixqError: of that kind, if there is no such file, it is damaged or not ours.
    """
    if not is_regular(path):
        raise kind(f"{where} is not a file; check the path")
    try:
        with safe_open(path, framework="pt", backend="pread") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if _KEY not in metadata:  # before its tensors, which may be as large as a disk
                raise kind(f"{where} is a safetensors file, but mixq did not write it")
            names: list[str] = file.keys()
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        if isinstance(error, MixqError):
            raise
        raise kind(
            f"{where} is damaged or not a safetensors file: "
            f"{one_line(error) or type(error).__name__}; save it again"
        ) from error
    checksum, _, text = metadata[_KEY].partition(" ")
    header = parse_json(text, kind, f"the header of {where}")
    if checksum != _checksum(text, tensors):
        raise kind(
            f"{where} is damaged: its content does not match its checksum; save or copy it again"
        )
    return header, tensors, checksum


def stated_checksum(path: Path) -> str | None:
    """The checksum that a tensor file says it has, which is not verified; None if it says none."""
    try:
        with safe_open(path, framework="pt") as file:
            stated: str = (file.metadata() or {}).get(_KEY, "").partition(" ")[0]
    except (SafetensorError, OSError):
        return None
    return stated if _CHECKSUM.fullmatch(stated) else None


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name!r}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
