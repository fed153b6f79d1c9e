"""Artifact: a quantized model's tensors in one tensor file, packed, without pickle.

The header says which tensors are packed and how.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from mixq.apply import folds, origin, replace_parameter, set_folds, set_origin
from mixq.equalize.structure import restructure
from mixq.errors import ArtifactError, ModelError
from mixq.files import one_line
from mixq.graph.copying import copied
from mixq.graph.state import StoredTensor, stored_tensors
from mixq.packed_module import buffer_name, packed_parameters
from mixq.packed_units import OTHER_MODEL, describe, found, read_unit
from mixq.tensor_file import read_tensors, write_tensors
from mixq.validation import first_problem
from mixq.workshop import sweep

VERSION: Final = 1


class _Header(BaseModel):
    """The JSON in the file's metadata. Its units are checked one by one, when they are used."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    version: int = Field(ge=VERSION, le=VERSION)
    origin: str = Field(max_length=128)
    units: dict[str, Any]
    folds: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(
        [], max_length=100_000
    )


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
    tensors = {item.names[0]: item.tensor for item in stored_tensors(model)}
    header = {
        "version": VERSION, "origin": made_from, "units": _units(model, tensors),
        "folds": [list(names) for names in folds(model)],
    }  # fmt: skip
    sweep(Path(path).absolute().parent)
    try:
        write_tensors(path, tensors, header)
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
    folded = [(norm, bias) for norm, bias in header.folds]
    if folded:
        model = copied(model)
        try:
            restructure(model, folded, tensors)
        except ModelError as error:
            raise ArtifactError(f"{where}: {error}") from error
    items = {item.names[0]: item for item in stored_tensors(model)}
    packed = {
        name: read_unit(
            f"{where}, unit {name!r:.100}", name, unit, items.get(name), tensors, ArtifactError
        )
        for name, unit in header.units.items()
    }
    plain = [item for name, item in items.items() if name not in packed]
    for item in plain:
        _match(where, item, tensors)
    expected = len(plain) + sum(len(weight.tensors) for weight in packed.values())
    if len(tensors) != expected:
        raise ArtifactError(
            f"{where} has {len(tensors)} tensors, but the model takes {expected}; {OTHER_MODEL}"
        )
    loaded = copied(model, shared=[items[name].tensor for name in packed])
    state = loaded.state_dict(keep_vars=True)
    with torch.no_grad():
        for item in plain:
            state[item.names[0]].copy_(tensors[item.names[0]])
    for name, weight in packed.items():
        replace_parameter(loaded, items[name].names, weight)
    set_origin(loaded, header.origin)
    if folded:
        set_folds(loaded, folded)
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
            units[name] = describe(slot.filled({}))
    return units


def _read(path: Path, where: str) -> tuple[_Header, dict[str, Tensor]]:
    """The header and the tensors."""
    data, tensors, _ = read_tensors(path, ArtifactError, where)
    try:
        header = _Header.model_validate(data)
    except ValidationError as error:
        raise ArtifactError(f"the header of {where}: {first_problem(error)}") from error
    return header, tensors


def _match(where: str, item: StoredTensor, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a file in which a tensor of the model is missing or another."""
    name, own = item.names[0], item.tensor
    tensor = tensors.get(name)
    if tensor is None or tensor.shape != own.shape or tensor.dtype != own.dtype:
        raise ArtifactError(
            f"{where}: {name!r:.100} must be {found(own)} as in the model, but is "
            f"{found(tensor)}; {OTHER_MODEL}"
        )
