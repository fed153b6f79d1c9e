"""Packed units in a tensor file: how the header describes them, and the way back, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Final

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from mixq.errors import FormatError, MixqError
from mixq.formats import Format
from mixq.graph.state import StoredTensor
from mixq.packed_module import buffer_name
from mixq.quantize.weights import PackedWeight, tensor_specs
from mixq.validation import first_problem

OTHER_MODEL: Final = "pass the architecture it was made from"

Size = Annotated[int, Field(ge=1, le=1 << 62)]


class UnitHeader(BaseModel):
    """What a file says of one unit."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    format: str = Field(max_length=64)
    shape: list[Size] = Field(max_length=64)
    rows: Size
    columns: Size
    dtype: str = Field(max_length=32)


def describe(packed: PackedWeight) -> dict[str, object]:
    """What a header says of a unit; `read_unit` reads it."""
    return {
        "format": packed.format.name,
        "shape": list(packed.shape),
        "rows": packed.rows,
        "columns": packed.columns,
        "dtype": dtype_name(packed.dtype),
    }


def unit_tensors(name: str, packed: PackedWeight) -> dict[str, Tensor]:
    """A unit's stored tensors under the names that they have in a file."""
    return {unit_key(name, part): tensor for part, tensor in packed.tensors.items()}


def unit_key(name: str, part: str) -> str:
    """Name in a file of one part of a unit."""
    prefix, _, parameter = name.rpartition(".")
    key = buffer_name(parameter, part)
    return f"{prefix}.{key}" if prefix else key


def read_unit(
    where: str,
    name: str,
    data: object,
    item: StoredTensor | None,
    tensors: Mapping[str, Tensor],
    kind: type[MixqError],
) -> PackedWeight:
    """One unit's packed weights, checked against the model and what its format must have.

    Args:
        where: names the file and the unit in messages.
        name: of the unit.
        data: its part of the header.
        item: the model's own tensor of that name.
        tensors: of the file.
        kind: what is raised.

    Raises:
        MixqError: of that kind.
    """
    try:
        unit = UnitHeader.model_validate(data)
        fmt = Format.parse(unit.format)
    except ValidationError as error:
        raise kind(f"{where}: {first_problem(error)}") from error
    except FormatError as error:
        raise kind(f"{where}: {error}") from error
    if item is None or not item.is_parameter:
        raise kind(f"{where} is not a parameter of the model; {OTHER_MODEL}")
    shape, dtype = tuple(item.tensor.shape), item.tensor.dtype
    if tuple(unit.shape) != shape or unit.dtype != dtype_name(dtype):
        raise kind(
            f"{where} is {unit.dtype!r} {tuple(unit.shape)!r:.60}, but the model's is "
            f"{dtype_name(dtype)} {shape}; {OTHER_MODEL}"
        )
    if fmt.bits == 32 or unit.rows * unit.columns != math.prod(shape):
        raise kind(
            f"{where}: {fmt.name} as a matrix of {unit.rows} x {unit.columns} does not belong to "
            f"shape {shape}; save it again"
        )
    parts: dict[str, Tensor] = {}
    for part, (size, stored_as) in tensor_specs(fmt, shape, unit.rows, unit.columns).items():
        tensor = tensors.get(unit_key(name, part))
        if tensor is None or tuple(tensor.shape) != size or tensor.dtype != stored_as:
            raise kind(
                f"{where}: {part} must be {stored_as} {size}, but is {found(tensor)}; "
                "save it again"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise kind(f"{where}: {part} is not finite; save it again")
        if part == "input_scale" and not float(tensor) > 0:
            raise kind(f"{where}: {part} is {float(tensor):g}, not positive; save it again")
        # A clone: whoever overwrites the file must not change the model.
        parts[part] = tensor.clone()
    return PackedWeight(fmt, shape, unit.rows, unit.columns, dtype, parts)


def found(tensor: Tensor | None) -> str:
    """Dtype and shape of what was found, in words."""
    return "missing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)!r:.60}"


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` of `torch.float32`."""
    return str(dtype).removeprefix("torch.")
