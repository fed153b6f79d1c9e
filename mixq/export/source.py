"""Source: the quantized model that an exporter writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mixq.apply import apply, replace_values
from mixq.calibration import Calibration
from mixq.graph.copying import copied
from mixq.graph.state import stored_tensors
from mixq.packed_module import packed_parameters, packed_tensors
from mixq.plan import Plan
from mixq.plan_weights import weights_of
from mixq.quantize.packing import unpack
from mixq.quantize.weights import PackedWeight

ByteArray = npt.NDArray[np.uint8]
HalfArray = npt.NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class Unit:
    """One packed weight unit of a plan, as plain arrays.

    Attributes:
        name: its canonical name in the plan.
        names: all names of the parameter in `state_dict()`; tied weights have several.
        packed: its format, shape, matrix and stored tensors.
    """

    name: str
    names: tuple[str, ...]
    packed: PackedWeight

    @property
    def is_float(self) -> bool:
        """Whether it is stored as 16-bit floats."""
        return self.packed.format.is_float

    @cached_property
    def codes(self) -> ByteArray:
        """Unsigned codes, shape (rows, columns); the value that each stands for is `weight`."""
        p = self.packed
        flat = unpack(p.tensors["codes"], p.format.bits, p.rows * p.columns)
        codes: ByteArray = flat.view(p.rows, p.columns).numpy()
        return codes

    @property
    def scales(self) -> HalfArray:
        """Scales, float16 of shape (rows, groups)."""
        scales: HalfArray = self.packed.tensors["scales"].numpy()
        return scales

    @cached_property
    def zeros(self) -> ByteArray | None:
        """Zero points (rows, groups) of the zero-point grid, else None.

        Without them and without minimums every code is less 2^(bits-1) before it is scaled.
        """
        p = self.packed
        if "zeros" not in p.tensors:
            return None
        groups = p.format.groups_per_row(p.columns)
        zeros: ByteArray = (
            unpack(p.tensors["zeros"], p.format.bits, p.rows * groups).view(p.rows, groups).numpy()
        )
        return zeros

    @property
    def minimums(self) -> HalfArray | None:
        """Float minimums (rows, groups) of the affine grid: weight = code x scale + minimum."""
        found = self.packed.tensors.get("minimums")
        return None if found is None else found.numpy()

    def weight(self) -> Tensor:
        """The weights that the codes stand for, of the parameter's shape and dtype."""
        return self.packed.unpacked()


@dataclass(frozen=True, eq=False)
class Source:
    """A plan applied to a model, with what an exporter needs beside it.

    Attributes:
        plan: the bit allocation.
        model: the original, in eval mode and untouched.
        applied: what `plan.apply(model)` returns; its outputs are what a file must reproduce.
        calibration: inputs, for shapes, for ranges of activations and for the check of the file.
        folder: a Hugging Face folder with the model's configuration and tokenizer, if there is
            one: what was passed, or where transformers says that the model came from.
    """

    plan: Plan
    model: nn.Module
    applied: nn.Module
    calibration: Calibration
    folder: Path | None = None
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        plan: Plan,
        calibration: Calibration,
        folder: Path | None = None,
    ) -> Self:
        """Apply a plan to a model.

        Raises:
            PlanError: if the plan is for another model.
        """
        return cls(plan, model, apply(plan, model).eval(), calibration, folder or _origin(model))

    @property
    def units(self) -> Mapping[str, Unit]:
        """Every packed unit by its canonical name; units at 32 bits are in `plain`."""
        if "units" not in self._cache:
            self._cache["units"] = units_of(self.plan, self.applied)
        units: Mapping[str, Unit] = self._cache["units"]
        return units

    @property
    def restored(self) -> nn.Module:
        """A copy of the applied model with plain float parameters, as any tool takes it.

        It has the same structure and the parameter names of the applied model, and computes with
        the same weights; activations are not rounded. Made once, about 4 bytes per weight.
        """
        if "restored" not in self._cache:
            self._cache["restored"] = restored(self.plan, self.model, self.units)
        model: nn.Module = self._cache["restored"]
        return model

    @cached_property
    def plain(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers that are not packed, by their first name."""
        packed = {name for unit in self.units.values() for name in unit.names}
        return {
            item.names[0]: item.tensor
            for item in stored_tensors(self.restored)
            if item.names[0] not in packed
        }


def restored(plan: Plan, model: nn.Module, units: Mapping[str, Unit]) -> nn.Module:
    """A copy of `model`, rewritten as the plan says, that holds the units' floats."""
    weights, rewritten = weights_of(plan, model)
    floats = copied(rewritten)
    state = floats.state_dict(keep_vars=True)
    with torch.no_grad():
        for unit in units.values():
            state[unit.names[0]].copy_(unit.weight())  # tied names show the same storage
    replace_values(floats, weights.others)
    return floats.requires_grad_(False).eval()


def units_of(plan: Plan, applied: nn.Module) -> dict[str, Unit]:
    """Every packed unit of an applied model by its canonical name."""
    found: dict[str, tuple[list[str], PackedWeight]] = {}
    keys: dict[tuple[int, ...], str] = {}
    for name, module, parameter, slot in packed_parameters(applied):
        tensors = packed_tensors(module, parameter)
        key = tuple(tensor.data_ptr() for tensor in tensors.values())
        first = keys.setdefault(key, name)
        found.setdefault(first, ([], slot.filled(tensors)))[0].append(name)
    aliases = {alias: name for name, layer in plan.layers.items() for alias in layer.aliases}
    units = {}
    for first, (names, packed) in found.items():
        canonical = next((n for n in names if n in plan.layers), aliases.get(first, first))
        units[canonical] = Unit(canonical, tuple(names), packed)
    return units


def _origin(model: nn.Module) -> Path | None:
    """Where transformers says that a model came from, if that is a folder here."""
    path = getattr(getattr(model, "config", None), "_name_or_path", "")
    return Path(path) if isinstance(path, str) and path and Path(path).is_dir() else None
