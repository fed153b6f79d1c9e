"""Artifact: a quantized model's tensors in one safetensors file, packed, without pickle.

The file's metadata hold one string, `mixq`: the SHA-256 of what follows and of every tensor, a
space, and JSON that says which tensors are packed and how. It is one because safetensors writes
several in an order that differs from run to run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mixq.apply import copied, origin, replace_parameter, set_origin
from mixq.errors import ArtifactError, FormatError, OutputError
from mixq.files import atomic_path, one_line, parse_json
from mixq.formats import Format
from mixq.graph.state import StoredTensor, stored_tensors
from mixq.packed_module import buffer_name, packed_parameters
from mixq.plan import first_problem
from mixq.quantize.weights import PackedWeight, tensor_specs

VERSION: Final = 1
_KEY: Final = "mixq"
_OTHER: Final = "pass the architecture it was made from"

Size = Annotated[int, Field(ge=1, le=1 << 62)]


class _Unit(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    format: str = Field(max_length=64)
    shape: list[Size] = Field(max_length=64)
    rows: Size
    columns: Size
    dtype: str = Field(max_length=32)


class _Header(BaseModel):
    """The JSON in the file's metadata. Its units are checked one by one, when they are used."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    version: int = Field(ge=VERSION, le=VERSION)
    origin: str = Field(max_length=128)
    units: dict[str, Any]


def save(model: nn.Module, path: str | Path) -> int:
    """Write an applied model's tensors; the tensors' bytes, which the plan predicted exactly.

    Shared tensors are stored once. The file holds no code: `load` needs the architecture.

    Raises:
        ArtifactError: if `model` was not made by `Plan.apply` or `mixq.load`, or has a tensor of
            a dtype that safetensors lacks.
        OutputError: if the file cannot be written; then there is none.
    """
    made_from = origin(model)
    if made_from is None:
        raise ArtifactError(
            f"{type(model).__name__} holds no packed weights; save what plan.apply(model) returns"
        )
    # Clones: safetensors refuses tensors that are windows of one storage.
    tensors = {
        item.names[0]: item.tensor.detach().cpu().contiguous().clone()
        for item in stored_tensors(model)
    }
    header = {"version": VERSION, "origin": made_from, "units": _units(model, tensors)}
    text = json.dumps(header, sort_keys=True)
    metadata = {_KEY: f"{_checksum(text, tensors)} {text}"}
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except SafetensorError as error:
        raise OutputError(
            f"{one_line(path)} cannot be written: {one_line(error)}; nothing was changed, make "
            "room or choose another place"
        ) from error
    except KeyError as error:
        raise ArtifactError(
            f"{type(model).__name__} has a tensor of dtype {one_line(error)}, which safetensors "
            "lacks; convert it first"
        ) from error
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def load(path: str | Path, model: nn.Module) -> nn.Module:
    """A copy of `model` with the weights of an artifact, packed as they were saved.

    Args:
        path: what `save` wrote.
        model: the same architecture; its own weights do not matter.

    Raises:
        ArtifactError: if the file is damaged, or is for another architecture.
    """
    where = f"artifact {one_line(path)}"
    header, tensors = _read(Path(path), where)
    items = {item.names[0]: item for item in stored_tensors(model)}
    packed = {
        name: _packed(f"{where}, unit {name!r:.100}", name, unit, items.get(name), tensors)
        for name, unit in header.units.items()
    }
    plain = [item for name, item in items.items() if name not in packed]
    for item in plain:
        _match(where, item, tensors)
    expected = len(plain) + sum(len(weight.tensors) for weight in packed.values())
    if len(tensors) != expected:
        raise ArtifactError(
            f"{where} has {len(tensors)} tensors, but the model takes {expected}; {_OTHER}"
        )
    loaded = copied(model, shared=[items[name].tensor for name in packed])
    state = loaded.state_dict(keep_vars=True)
    with torch.no_grad():
        for item in plain:
            state[item.names[0]].copy_(tensors[item.names[0]])
    for name, weight in packed.items():
        replace_parameter(loaded, items[name].names, weight)
    set_origin(loaded, header.origin)
    return loaded


def tensor_bytes(path: str | Path) -> int:
    """Bytes of the tensors in an artifact, without the file's header.

    Raises:
        ArtifactError: if the file is damaged.
    """
    _, tensors = _read(Path(path), f"artifact {one_line(path)}")
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _units(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, object]]:
    """What the file says of every unit, under the name that its tensors are stored under."""
    units: dict[str, dict[str, object]] = {}
    for name, _, parameter, slot in packed_parameters(model):
        prefix = name.removesuffix(parameter)
        if any(prefix + buffer_name(parameter, part) in tensors for part in ("codes", "half")):
            units[name] = {
                "format": slot.format.name,
                "shape": list(slot.shape),
                "rows": slot.rows,
                "columns": slot.columns,
                "dtype": _dtype_name(slot.dtype),
            }
    return units


def _read(path: Path, where: str) -> tuple[_Header, dict[str, Tensor]]:
    """The header, and the tensors as windows of the mapped file.

    safetensors itself refuses a header that is longer than the file or does not describe exactly
    the bytes behind it, so memory is bounded by the size of the file.
    """
    if not path.is_file():
        raise ArtifactError(f"{where} is not a file; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            names: list[str] = file.keys()
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:  # torch maps the file
        raise ArtifactError(
            f"{where} is damaged or not a safetensors file: {one_line(error)}; save it again"
        ) from error
    if _KEY not in metadata:
        raise ArtifactError(f"{where} is a safetensors file, but mixq did not write it")
    checksum, _, text = metadata[_KEY].partition(" ")
    data = parse_json(text, ArtifactError, f"the header of {where}")
    try:
        header = _Header.model_validate(data)
    except ValidationError as error:
        raise ArtifactError(f"the header of {where}: {first_problem(error)}") from error
    if checksum != _checksum(text, tensors):
        raise ArtifactError(
            f"{where} is damaged: its content does not match its checksum; save or copy it again"
        )
    return header, tensors


def _packed(
    where: str, name: str, data: object, item: StoredTensor | None, tensors: Mapping[str, Tensor]
) -> PackedWeight:
    """One unit's packed weights, checked against the model and what its format must have."""
    try:
        unit = _Unit.model_validate(data)
        fmt = Format.parse(unit.format)
    except ValidationError as error:
        raise ArtifactError(f"{where}: {first_problem(error)}") from error
    except FormatError as error:
        raise ArtifactError(f"{where}: {error}") from error
    if item is None or not item.is_parameter:
        raise ArtifactError(f"{where} is not a parameter of the model; {_OTHER}")
    shape, dtype = tuple(item.tensor.shape), item.tensor.dtype
    if tuple(unit.shape) != shape or unit.dtype != _dtype_name(dtype):
        raise ArtifactError(
            f"{where} is {unit.dtype!r} {tuple(unit.shape)!r:.60}, but the model's is "
            f"{_dtype_name(dtype)} {shape}; {_OTHER}"
        )
    if fmt.bits == 32 or unit.rows * unit.columns != math.prod(shape):
        raise ArtifactError(
            f"{where}: {fmt.name} as a matrix of {unit.rows} x {unit.columns} does not belong to "
            f"shape {shape}; save it again"
        )
    prefix, _, parameter = name.rpartition(".")
    parts: dict[str, Tensor] = {}
    for part, (size, stored_as) in tensor_specs(fmt, shape, unit.rows, unit.columns).items():
        key = buffer_name(parameter, part)
        tensor = tensors.get(f"{prefix}.{key}" if prefix else key)
        if tensor is None or tuple(tensor.shape) != size or tensor.dtype != stored_as:
            raise ArtifactError(
                f"{where}: {part} must be {stored_as} {size}, but is {_found(tensor)}; "
                "save it again"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{where}: {part} is not finite; save it again")
        # A clone: whoever overwrites the file must not change the model.
        parts[part] = tensor.clone()
    return PackedWeight(fmt, shape, unit.rows, unit.columns, dtype, parts)


def _match(where: str, item: StoredTensor, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a file in which a tensor of the model is missing or another."""
    name, own = item.names[0], item.tensor
    tensor = tensors.get(name)
    if tensor is None or tensor.shape != own.shape or tensor.dtype != own.dtype:
        raise ArtifactError(
            f"{where}: {name!r:.100} must be {_found(own)} as in the model, but is "
            f"{_found(tensor)}; {_OTHER}"
        )


def _found(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)!r:.60}"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name!r}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
