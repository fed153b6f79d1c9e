"""How folds and scalings are stored: a header for JSON, and tensors by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from mixq.equalize.folding import Fold, Side
from mixq.equalize.scaling import Part, Purpose, Scaling
from mixq.errors import ArtifactError
from mixq.files import one_line

Name = Annotated[str, Field(max_length=4096)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Fold(_Model):
    norm: Name
    side: Side
    weight: Name
    bias: Name


class _Scaling(_Model):
    purpose: Purpose
    producers: list[Name]
    consumers: list[Name]


class _Header(_Model):
    version: Literal[1]
    folds: list[_Fold]
    scalings: list[_Scaling]
    skipped: list[str]


def header(
    folds: Sequence[Fold], scalings: Sequence[Scaling], skipped: Sequence[str]
) -> dict[str, Any]:
    """What the tensors belong to, fit for JSON."""
    return _Header(
        version=1,
        folds=[
            _Fold(norm=fold.norm, side=fold.side, weight=fold.weight.name, bias=fold.bias)
            for fold in folds
        ],
        scalings=[
            _Scaling(
                purpose=scaling.purpose,
                producers=[part.name for part in scaling.producers],
                consumers=[part.name for part in scaling.consumers],
            )
            for scaling in scalings
        ],
        skipped=list(skipped),
    ).model_dump()


def tensors(folds: Sequence[Fold], scalings: Sequence[Scaling]) -> dict[str, Tensor]:
    """Factors and indices by name; copies, because safetensors refuses shared memory."""
    found = {f"folds.{i}.index": fold.weight.index for i, fold in enumerate(folds)}
    for i, scaling in enumerate(scalings):
        found[f"scalings.{i}.factor"] = scaling.factor
        for j, part in enumerate(scaling.parts):
            found[f"scalings.{i}.parts.{j}.index"] = part.index
    return {name: tensor.contiguous().clone() for name, tensor in found.items()}


def read(
    data: object, stored: Mapping[str, Tensor]
) -> tuple[tuple[Fold, ...], tuple[Scaling, ...], tuple[str, ...]]:
    """Folds, scalings and what was skipped; the inverse of `header` and `tensors`.

    Raises:
        ArtifactError: if they do not fit together, or are out of range.
    """
    try:
        found = _Header.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"the equalization's header is damaged at {one_line(where, 100)!r}: "
            f"{one_line(first['msg'], 100)}; save it again"
        ) from error
    folds = tuple(
        Fold(
            norm=fold.norm,
            side=fold.side,
            weight=Part(fold.weight, _index(f"folds.{i}.index", stored)),
            bias=fold.bias,
        )
        for i, fold in enumerate(found.folds)
    )
    scalings = tuple(_scaling(i, item, stored) for i, item in enumerate(found.scalings))
    return folds, scalings, tuple(found.skipped)


def _scaling(number: int, item: _Scaling, stored: Mapping[str, Tensor]) -> Scaling:
    name = f"scalings.{number}.factor"
    factor = _tensor(name, torch.float32, stored)
    if factor.dim() != 1 or not bool((factor.isfinite() & (factor > 0)).all()):
        raise ArtifactError(
            f"the equalization's tensor {name!r} must be one row of positive numbers; "
            "save it again"
        )
    parts = [
        Part(part, _index(f"scalings.{number}.parts.{j}.index", stored, len(factor)))
        for j, part in enumerate([*item.producers, *item.consumers])
    ]
    made = len(item.producers)
    return Scaling(item.purpose, factor, tuple(parts[:made]), tuple(parts[made:]))


def _index(name: str, stored: Mapping[str, Tensor], channels: int | None = None) -> Tensor:
    index = _tensor(name, torch.int32, stored)
    last = torch.iinfo(torch.int32).max if channels is None else channels
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) <= last:
        raise ArtifactError(
            f"the equalization's tensor {name!r} names channels outside of 0..{last}; save it "
            "again"
        )
    return index


def _tensor(name: str, dtype: torch.dtype, stored: Mapping[str, Tensor]) -> Tensor:
    tensor = stored.get(name)
    if tensor is None or tensor.dtype != dtype:
        found = "missing" if tensor is None else tensor.dtype
        raise ArtifactError(
            f"the equalization's tensor {name!r} must be {dtype}, but is {found}; save it again"
        )
    return tensor.clone()
