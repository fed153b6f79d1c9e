"""The `.pt2` archive: which of its parts are data, checked before torch reads any of them.

A `.pt2` file is a zip file (torch/export/pt2_archive/_package.py of torch 2.13):

    models/NAME.json                        the program; see mixq.sources.pt2_program
    data/weights/NAME_weights_config.json   name, shape and file of every weight
    data/weights/weight_I                   raw bytes, or a pickled tensor subclass
    data/constants/...                      the same, and pickled objects: custom_obj_, opaque_obj_
    data/sample_inputs/NAME.pt              pickled
    data/aotinductor/...                    compiled libraries

Raw bytes and JSON are carried over, sample inputs are left out (nothing here needs them), all
else is refused. Older versions wrote the weights as `data/weights/NAME.pt`, a pickle too.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mixq.errors import SourceError
from mixq.files import one_line
from mixq.sources.pt2_program import checked_program

MEMBERS: Final = 100_000
"""Most files in an archive; a model has one per weight."""
JSON_BYTES: Final = 2**28
"""Largest program; that of a model with 200 layers has a few megabytes."""

_PROGRAM: Final = re.compile(r"models/(?P<name>[A-Za-z0-9_]+)\.json")
_RAW: Final = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+")
_CONFIG: Final = re.compile(
    r"data/(?P<kind>weights|constants)/[A-Za-z0-9_]+_(?P=kind)_config\.json"
)
_SAMPLE_INPUTS: Final = re.compile(r"data/sample_inputs/[A-Za-z0-9_]+\.pt")
_COPIED: Final = ("archive_format", "archive_version", "byteorder", ".data/version")
_DROPPED: Final = re.compile(r"extra/.*|\.data/serialization_id")
_PICKLED: Final = re.compile(r"data/constants/(custom|opaque)_obj_.*|.*\.(pt|pkl|pickle)")


@dataclass(frozen=True)
class CheckedArchive:
    """A copy of a `.pt2` archive that holds nothing but data.

    Attributes:
        content: the bytes of the copy, for torch to read.
        output_classes: classes of transformers whose instances the program takes or returns;
            torch must know them when it reads the copy.
    """

    content: bytes
    output_classes: frozenset[str]


def checked_archive(path: Path) -> CheckedArchive:
    """The data of an archive, after all of it was inspected.

    A copy, because a file made to deceive can look different to two zip readers.

    Raises:
        SourceError: if the file is damaged, or holds pickled objects or code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            return _rewritten(path, archive, members)
    except (
        *(zipfile.BadZipFile, zipfile.LargeZipFile, OSError, EOFError, NotImplementedError),
        *(RuntimeError, ValueError, KeyError, OverflowError, struct.error),
    ) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"{str(path)!r} is no intact .pt2 archive: {one_line(error)}; export it again"
        ) from error


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by their name without the archive's root folder."""
    infos = archive.infolist()
    names = [info.filename.partition("/")[2] for info in infos]
    stored = sum(info.file_size for info in infos)
    if len(infos) > MEMBERS or stored > path.stat().st_size:
        raise _refusal(path, f"claims {len(infos)} files of {stored} bytes, more than fit into it")
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise _refusal(path, "is compressed, which torch.export.save never does")
    if len(set(names)) != len(names) or len({i.filename.partition("/")[0] for i in infos}) > 1:
        raise _refusal(path, "has two files of one name or more than one root folder")
    return dict(zip(names, infos, strict=True))


def _rewritten(
    path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]
) -> CheckedArchive:
    programs = [match["name"] for match in map(_PROGRAM.fullmatch, members) if match]
    if len(programs) != 1:
        raise _refusal(path, f"has {len(programs)} programs, but mixq works on exactly one")
    sizes = {name: info.file_size for name, info in members.items()}
    output_classes: set[str] = set()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as copy:
        for name, info in members.items():
            if _DROPPED.fullmatch(name) or name.endswith("/"):
                continue
            if name in _COPIED or _RAW.fullmatch(name):
                content = archive.read(info)
            elif _SAMPLE_INPUTS.fullmatch(name):
                content = b""  # torch takes an empty file for "no sample inputs"
            elif config := _CONFIG.fullmatch(name):
                payload = _json(path, archive, info)
                _check_payload(path, payload, f"data/{config['kind']}", sizes)
                content = json.dumps(payload).encode()
            elif _PROGRAM.fullmatch(name):
                program, output_classes = checked_program(path, _json(path, archive, info))
                content = json.dumps(program).encode()
            elif _PICKLED.fullmatch(name):
                raise _refusal(path, f"holds pickled objects ({name})")
            else:
                raise _refusal(path, f"holds {name!r}, which is neither a weight nor a program")
            copy.writestr(f"model/{name}", content)
    return CheckedArchive(buffer.getvalue(), frozenset(output_classes))


def _json(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> dict[str, Any]:
    if info.file_size > JSON_BYTES:
        raise _refusal(path, f"has a program of {info.file_size} bytes, more than {JSON_BYTES}")
    try:
        content = json.loads(archive.read(info))
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"has damaged JSON in {info.filename}") from error
    if not isinstance(content, dict):
        raise _refusal(path, f"has no JSON object in {info.filename}")
    return content


def _check_payload(path: Path, payload: Any, folder: str, sizes: dict[str, int]) -> None:
    """Refuse a table of weights that names pickles, or shapes that no file backs."""
    table = payload.get("config")
    if not isinstance(table, dict):
        raise _refusal(path, f"has no table of {folder}")
    for name, entry in table.items():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise _refusal(path, f"holds {name!r} as a pickled object")
        member = f"{folder}/{entry.get('path_name')}"
        if member not in sizes or _RAW.fullmatch(member) is None:
            raise _refusal(path, f"has no bytes for {name!r}")
        # torch allocates the whole shape where the file is empty, whatever the shape says.
        if sizes[member] == 0 and not _is_empty(entry.get("tensor_meta")):
            raise _refusal(path, f"has no bytes for {name!r}")


def _is_empty(tensor_meta: Any) -> bool:
    """Whether the shape of a serialized tensor has no elements."""
    sizes = tensor_meta.get("sizes") if isinstance(tensor_meta, dict) else None
    return isinstance(sizes, list) and {"as_int": 0} in sizes


def _refusal(path: Path, reason: str) -> SourceError:
    return SourceError(
        f"{str(path)!r} {reason}, so it is not loaded; export a plain model with "
        "torch.export.save, or pass package.module:function"
    )
