"""PlanWeights: the tensors of a plan that its JSON cannot hold, in one file beside it.

Rounding that saw calibration data, or training, cannot be repeated from a model's weights. So the
codes travel with the plan, and whoever applies it anywhere gets the same integers.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from mixq.equalize.equalization import Equalization
from mixq.errors import ArtifactError, PlanError
from mixq.files import one_line
from mixq.graph.state import StoredTensor, stored_tensors
from mixq.packed_units import describe, found, read_unit, unit_tensors
from mixq.quantize.weights import PackedWeight
from mixq.tensor_file import checksum_of, read_tensors, stated_checksum, write_tensors
from mixq.validation import first_problem

if TYPE_CHECKING:
    from mixq.plan import Plan

VERSION: Final = 1
_START: Final = 32
"""Characters of the file's name in the name under which replaced weights stay for a moment."""
_EQUALIZE: Final = "equalize "
_OTHER: Final = "other "
"""These mark the keys of tensors that are no part of a unit; no parameter name has a space."""


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    version: int = Field(ge=VERSION, le=VERSION)
    units: dict[str, Any]
    equalization: Any = None


@dataclass(frozen=True, eq=False)
class PlanWeights:
    """What a plan puts into a model beside what follows from the model's own weights.

    Attributes:
        units: packed weights by unit name, of every unit whose format needs codes.
        others: new values of other parameters and buffers by name: corrected biases, and what
            training has moved.
        equalization: how the model is rewritten before anything else.
    """

    units: Mapping[str, PackedWeight]
    others: Mapping[str, Tensor] = field(default_factory=dict)
    equalization: Equalization | None = None

    @cached_property
    def sha256(self) -> str:
        """Checksum of everything."""
        return checksum_of(self._tensors(), self._header())

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            OutputError: if it cannot be written.
        """
        write_tensors(path, self._tensors(), self._header())

    def _tensors(self) -> dict[str, Tensor]:
        stored = {_OTHER + name: tensor for name, tensor in self.others.items()}
        for name, packed in self.units.items():
            stored |= unit_tensors(name, packed)
        if self.equalization is not None:
            own = self.equalization.tensors()
            stored |= {_EQUALIZE + name: tensor for name, tensor in own.items()}
        return stored

    def _header(self) -> dict[str, object]:
        return {
            "version": VERSION,
            "units": {name: describe(packed) for name, packed in self.units.items()},
            "equalization": None if self.equalization is None else self.equalization.header(),
        }


def weights_of(plan: Plan, model: nn.Module) -> tuple[PlanWeights, nn.Module]:
    """A plan's weights, checked against the model, and the model as they rewrite it.

    Args:
        plan: made for this model.
        model: the original; left as it is, and given back where nothing is rewritten.

    Raises:
        PlanError: if a file is missing, damaged or another plan's, or does not fit the model.
    """
    held = plan._held
    if held is not None:
        rewritten = model if held.equalization is None else held.equalization.apply(model)
        weights = held
    elif plan.weights is None:
        weights, rewritten = PlanWeights({}), model
    else:
        weights, rewritten = _read(plan, model)
    unplanned = next((name for name in weights.units if name not in plan.layers), None)
    if unplanned is not None:
        raise PlanError(
            f"the codes beside the plan are for a layer {unplanned!r:.100} that it does not have; "
            "were the two edited apart? search again"
        )
    for name, layer in plan.layers.items():
        packed = weights.units.get(name)
        if packed is None and layer.format.needs_codes:
            raise PlanError(
                f"layer {name!r:.100} is stored as {layer.format.name}, whose codes the plan does "
                "not hold; was its JSON edited by hand? search again"
            )
        if packed is not None and (packed.format, packed.shape, packed.rows) != (
            layer.format, tuple(layer.shape), layer.matrix[0],
        ):  # fmt: skip
            raise PlanError(
                f"layer {name!r:.100} is planned as {layer.format.name}, but the codes beside the "
                f"plan are {packed.format.name}; were the two edited apart? search again"
            )
    return weights, rewritten


def save_beside(plan: Plan, path: Path) -> None:
    """Write a plan's weights to `path`, from memory or from where they lie now.

    Raises:
        OutputError: if the file cannot be written.
        PlanError: if the weights are not where they were.
    """
    if plan._held is not None:
        _keep_earlier(path)
        plan._held.save(path)
        return
    header, tensors, checksum = _open(plan)
    if checksum != _promised(plan):
        raise _another(plan)
    _keep_earlier(path)
    write_tensors(path, tensors, header)


def drop_earlier(path: Path, *, replaced: bool) -> None:
    """Delete what `save_beside` kept of earlier weights.

    Args:
        path: of the weights.
        replaced: whether the new plan is in place; if not, what the old one names stays.
    """
    same = stated_checksum(path) if path.is_file() else None
    with suppress(OSError):
        for kept in path.parent.glob(f".{escape(path.name[:_START])}.*.earlier"):
            if replaced or (same is not None and kept == _earlier(path, same)):
                kept.unlink()


def _keep_earlier(path: Path) -> None:
    """Keep the weights at `path` under their checksum until the next plan is in place.

    Between the renames of the new weights and of the new plan, the old plan stands beside weights
    that are not its own; whoever is killed there leaves it, and it finds its own under this name.
    """
    checksum = stated_checksum(path)
    if checksum is not None:
        with suppress(OSError):  # it is there already, or the file system has no links
            os.link(path, _earlier(path, checksum))


def _earlier(path: Path, checksum: str) -> Path:
    return path.with_name(f".{path.name[:_START]}.{checksum[:32]}.earlier")


def _read(plan: Plan, model: nn.Module) -> tuple[PlanWeights, nn.Module]:
    data, tensors, checksum = _open(plan)
    where = _where(plan)
    if checksum != _promised(plan):
        raise _another(plan)
    try:
        header = _Header.model_validate(data)
    except ValidationError as error:
        raise PlanError(f"the header of {where}: {first_problem(error)}") from error
    equalization = None
    if header.equalization is not None:
        own = {
            key.removeprefix(_EQUALIZE): tensor.clone()
            for key, tensor in tensors.items()
            if key.startswith(_EQUALIZE)
        }
        try:
            equalization = Equalization.from_tensors(header.equalization, own)
        except ArtifactError as error:
            raise PlanError(f"{where}: {error}") from error
        model = equalization.apply(model)
    stored = {item.names[0]: item for item in stored_tensors(model)}
    units = {
        name: read_unit(
            f"{where}, unit {name!r:.100}", name, unit, stored.get(name), tensors, PlanError
        )
        for name, unit in header.units.items()
    }
    others = _others(where, tensors, stored, units)
    return PlanWeights(units, others, equalization), model


def _others(
    where: str,
    tensors: Mapping[str, Tensor],
    stored: Mapping[str, StoredTensor],
    units: Container[str],
) -> dict[str, Tensor]:
    """New values of parameters and buffers, each checked against the model's own."""
    by_name = {name: item for item in stored.values() for name in item.names}
    others: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if not key.startswith(_OTHER):
            continue
        name = key.removeprefix(_OTHER)
        own = by_name[name].tensor if name in by_name else None
        if own is not None and by_name[name].names[0] in units:
            raise PlanError(
                f"{where}: {name!r:.100} is there twice, packed and plain; search again"
            )
        if own is None or own.shape != tensor.shape or own.dtype != tensor.dtype:
            raise PlanError(
                f"{where}: {name!r:.100} is {found(tensor)}, but the model's is {found(own)}; "
                "search again for this model"
            )
        others[name] = tensor.clone()
    return others


def _open(plan: Plan) -> tuple[Any, dict[str, Tensor], str]:
    info = plan.weights
    assert info is not None
    if plan._folder is None:
        raise PlanError(
            f"the plan's weights are in {info.file} beside the plan's own file; read the plan "
            "with mixq.Plan.load(path)"
        )
    path = plan._folder / info.file
    if not path.is_file():
        raise PlanError(
            f"{_where(plan)} is missing; it holds the codes of the plan, so keep the two files "
            "together"
        )
    earlier = _earlier(path, info.sha256)
    if stated_checksum(path) != info.sha256 and earlier.is_file():
        path = earlier
    return read_tensors(path, PlanError, _where(plan))


def _promised(plan: Plan) -> str:
    assert plan.weights is not None
    return plan.weights.sha256


def _where(plan: Plan) -> str:
    assert plan.weights is not None
    return f"plan weights {one_line((plan._folder or Path()) / plan.weights.file)}"


def _another(plan: Plan) -> PlanError:
    return PlanError(
        f"{_where(plan)} belongs to another plan: its checksum is not the one that the plan "
        "names; keep the two files together"
    )
