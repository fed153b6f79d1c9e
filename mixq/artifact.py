"""Artifact: a quantized model's tensors in one safetensors file, packed, without pickle."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Final

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mixq.apply import ORIGIN, replace_parameter
from mixq.errors import ArtifactError, FormatError, OutputError
from mixq.files import atomic_path, parse_json
from mixq.formats import Format
from mixq.graph.state import StoredTensor, stored_tensors
from mixq.packed_module import buffer_name, packed_parameters
from mixq.plan import first_problem
from mixq.quantize.weights import PackedWeight, tensor_specs

VERSION: Final = 1
_KEY: Final = "mixq"


class _Unit(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    format: str = Field(max_length=64)
    shape: list[int]
    rows: int = Field(ge=1)
    columns: int = Field(ge=1)
    dtype: str = Field(max_length=32)


class _Header(BaseModel):
    """The JSON in the file's metadata: which tensors are packed, and how."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = Field(ge=VERSION, le=VERSION)
    origin: str
    units: dict[str, _Unit]


def save(model: nn.Module, path: str | Path) -> int:
    """Write an applied model's tensors; the tensors' bytes, which the plan predicted exactly.

    Shared tensors are stored once. The file holds no code: `load` needs the architecture.

    Raises:
        ArtifactError: if `model` was not made by `Plan.apply` or `mixq.load`.
        OutputError: if the file cannot be written; then there is none.
    """
    origin = getattr(model, ORIGIN, None)
    if not isinstance(origin, str):
        raise ArtifactError(
            f"{type(model).__name__} holds no packed weights; save what plan.apply(model) returns"
        )
    stored = stored_tensors(model)
    tensors = {item.names[0]: item.tensor.detach().cpu().contiguous() for item in stored}
    units = {
        name: {
            "format": slot.format.name,
            "shape": list(slot.shape),
            "rows": slot.rows,
            "columns": slot.columns,
            "dtype": str(slot.dtype).removeprefix("torch."),
        }
        for name, _, parameter, slot in packed_parameters(model)
        if _any_part(name, parameter, tensors)
    }
    header = {"version": VERSION, "origin": origin, "units": units}
    try:
        with atomic_path(path) as temporary:
            # Clones: safetensors refuses tensors that are windows of one storage.
            save_file(
                {name: tensor.clone() for name, tensor in tensors.items()},
                temporary,
                metadata={_KEY: json.dumps(header, sort_keys=True)},
            )
    except SafetensorError as error:
        raise OutputError(
            f"{path} cannot be written: {error}; nothing was changed, make room or choose "
            "another place"
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
    header, tensors = _read(Path(path))
    stored = stored_tensors(model)
    packed = {name: _packed(path, name, unit, tensors) for name, unit in header.units.items()}
    plain = [item for item in stored if item.names[0] not in packed]
    _match(path, packed, plain, tensors, stored)
    loaded = copy.deepcopy(model)
    state = loaded.state_dict(keep_vars=True)
    for item in plain:
        with torch.no_grad():
            state[item.names[0]].copy_(tensors[item.names[0]])
    names = {item.names[0]: item.names for item in stored}
    for name, weight in packed.items():
        replace_parameter(loaded, names[name], weight)
    loaded.__dict__[ORIGIN] = header.origin
    return loaded


def tensor_bytes(path: str | Path) -> int:
    """Bytes of the tensors in an artifact, without the file's header.

    Raises:
        ArtifactError: if the file is damaged.
    """
    _, tensors = _read(Path(path))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _any_part(name: str, parameter: str, tensors: dict[str, Tensor]) -> bool:
    """Whether this name of a unit is the one that its tensors are stored under."""
    prefix = name.removesuffix(parameter)
    return any(
        prefix + buffer_name(parameter, part) in tensors for part in ("codes", "half")
    )


def _read(path: Path) -> tuple[_Header, dict[str, Tensor]]:
    if not path.is_file():
        raise ArtifactError(f"artifact {path} is not a file; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None:
                raise ArtifactError(
                    f"artifact {path} is a safetensors file, but mixq did not write it"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        first = str(error).splitlines()[0]
        raise ArtifactError(
            f"artifact {path} is damaged or not a safetensors file: {first}; save it again"
        ) from error
    data = parse_json(text, ArtifactError, f"the header of artifact {path}")
    try:
        return _Header.model_validate(data), tensors
    except ValidationError as error:
        raise ArtifactError(f"the header of artifact {path}: {first_problem(error)}") from error


def _packed(
    path: str | Path, name: str, unit: _Unit, tensors: dict[str, Tensor]
) -> PackedWeight:
    """One unit's packed weights, checked against what its format must have."""
    try:
        fmt = Format.parse(unit.format)
    except FormatError as error:
        raise ArtifactError(f"artifact {path}, unit {name!r:.100}: {error}") from error
    dtype = getattr(torch, unit.dtype, None)
    count = 1
    for size in unit.shape:
        count *= size
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ArtifactError(f"artifact {path}, unit {name!r:.100}: no dtype {unit.dtype!r}")
    if fmt.bits == 32 or min(unit.shape, default=0) < 1 or count != unit.rows * unit.columns:
        raise ArtifactError(
            f"artifact {path}, unit {name!r:.100}: shape {unit.shape}, {unit.rows} x "
            f"{unit.columns} and {fmt.name} do not belong together; save it again"
        )
    path_prefix, _, parameter = name.rpartition(".")
    prefix = f"{path_prefix}." if path_prefix else ""
    parts: dict[str, Tensor] = {}
    for part, (shape, part_dtype) in tensor_specs(
        fmt, tuple(unit.shape), unit.rows, unit.columns
    ).items():
        tensor = tensors.get(prefix + buffer_name(parameter, part))
        if tensor is None or tuple(tensor.shape) != shape or tensor.dtype != part_dtype:
            found = "missing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ArtifactError(
                f"artifact {path}, unit {name!r:.100}: {part} must be {part_dtype} {shape}, "
                f"but it is {found}; save it again"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"artifact {path}, unit {name!r:.100}: {part} is not finite")
        parts[part] = tensor
    return PackedWeight(fmt, tuple(unit.shape), unit.rows, unit.columns, dtype, parts)


def _match(
    path: str | Path,
    packed: dict[str, PackedWeight],
    plain: list[StoredTensor],
    tensors: dict[str, Tensor],
    stored: list[StoredTensor],
) -> None:
    """Refuse a file whose tensors are not exactly those of the model."""
    shapes = {item.names[0]: tuple(item.tensor.shape) for item in stored if item.is_parameter}
    for name, weight in packed.items():
        if shapes.get(name) != weight.shape:
            raise ArtifactError(
                f"artifact {path} has unit {name!r:.100} with shape {weight.shape}, but the "
                f"model's is {shapes.get(name, 'absent')}; pass the architecture it was made from"
            )
    for item in plain:
        tensor = tensors.get(item.names[0])
        if tensor is None or tensor.shape != item.tensor.shape or tensor.dtype != item.tensor.dtype:
            found = "absent" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ArtifactError(
                f"artifact {path}: {item.names[0]} must be {item.tensor.dtype} "
                f"{tuple(item.tensor.shape)} as in the model, but it is {found}; pass the "
                "architecture it was made from"
            )
    expected = len(plain) + sum(len(weight.tensors) for weight in packed.values())
    if len(tensors) != expected:
        raise ArtifactError(
            f"artifact {path} has {len(tensors)} tensors, but the model takes {expected}; pass "
            "the architecture it was made from"
        )
