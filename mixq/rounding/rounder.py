"""Rounder: the packed weights of every unit in every format, each made once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from mixq.activations.wiring import granularity, input_quantizer, quantizable_inputs
from mixq.equalize.equalization import Equalization
from mixq.errors import FormatError
from mixq.formats import Format
from mixq.graph.units import WeightUnit
from mixq.moments.moments import Moments
from mixq.plan_weights import PlanWeights
from mixq.progress import Progress, silent, track
from mixq.quantize.gptq import Factor, prepare
from mixq.quantize.rounding import input_error, round_weights
from mixq.quantize.weights import PackedWeight, pack_codes, pack_weight
from mixq.rounding.bias import corrected_bias, find_biases
from mixq.rounding.replacement import Carried, InputQuantizer, Replacement, joined
from mixq.rounding.store import RoundedStore

STAGE = "rounding weights"


class Rounder:
    """What each format makes of each unit of one model.

    Whatever measures, applies or trains asks here, so that all see the same integers.

    Args:
        model: any module; never changed.
        units: its units by name.
        moments: of the units' inputs on calibration data, for the methods that use them.
        ranges: unit name to `input_scale` and `input_zero` of static activations.
        store: where rounded weights are kept for another process.
        fingerprint: of the calibration data behind moments and ranges.
        notes: what a user should know of them.
    """

    def __init__(
        self,
        model: nn.Module,
        units: Mapping[str, WeightUnit],
        moments: Mapping[str, Moments] | None = None,
        ranges: Mapping[str, Mapping[str, Tensor]] | None = None,
        store: RoundedStore | None = None,
        fingerprint: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.units = units
        self.moments = moments or {}
        self.fingerprint = fingerprint
        self.notes = tuple(notes)
        self._ranges = ranges or {}
        self._store = store or RoundedStore(None)
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._known: dict[tuple[str, Format], PackedWeight] = {}
        self._factor: tuple[str, Factor] | None = None

    def prepare(
        self, formats: Mapping[str, Sequence[Format]], progress: Progress = silent
    ) -> None:
        """Round every unit in those of its formats whose codes are kept."""
        steps = [
            (unit, fmt)
            for unit, choices in formats.items()
            for fmt in choices
            if fmt.needs_codes and (unit, fmt) not in self._known
        ]
        for unit, fmt in track(steps, STAGE, len(steps), progress):
            try:
                self.packed(unit, fmt)
            except FormatError:
                continue  # said again, with its reason, by whoever needs this one

    def packed(self, unit: str, fmt: Format) -> PackedWeight:
        """A unit's packed weights in a format of 16 or fewer bits.

        Raises:
            FormatError: if the weights do not fit the format, or it needs data that are not
                there.
        """
        weight, own = self._parameters[unit], self.units[unit]
        if not fmt.needs_codes:
            return pack_weight(weight, fmt, own.rows, own.columns)
        known = self._known.get((unit, fmt)) or self._store.get(unit, fmt, weight)
        if known is None:
            known = self._rounded(unit, fmt)
            self._store.put(unit, known)
        self._known[unit, fmt] = known
        return known

    def replacement(
        self,
        unit: str,
        fmt: Format,
        packed: PackedWeight | None = None,
        bias: Tensor | None = None,
    ) -> Replacement:
        """What takes the place of a unit's own numbers in a format.

        Args:
            unit: its name.
            fmt: the format.
            packed: its codes, by default those that this rounder makes.
            bias: corrected, by default as this rounder corrects it.

        Raises:
            FormatError: as `packed`.
        """
        own, weight = self.units[unit], self._parameters[unit]
        if fmt.bits == 32:
            return Replacement(self._named(own, weight.detach()))
        packed = packed or self.packed(unit, fmt)
        rounded = packed.unpacked()
        tensors = self._named(own, rounded)
        if fmt.bias_corrected and bias is not None:
            tensors[self._biases[unit]] = bias
        elif fmt.bias_corrected:
            tensors |= self._corrected(unit, fmt, rounded)
        inputs: dict[str, InputQuantizer] = {}
        if fmt.activation != "none":
            inputs = {path: self._quantizer(path, packed) for path in self._paths(unit, fmt)}
        return Replacement(tensors, inputs)

    def carried(self, unit: str, fmt: Format) -> Carried:
        """What another process has to be told to make the same replacement from weights alone.

        Raises:
            FormatError: as `packed`, if codes or a bias have to be told.
        """
        if not fmt.needs_codes:
            return Carried()
        packed = self.packed(unit, fmt)
        if not fmt.bias_corrected:
            return Carried(packed)
        (bias,) = self._corrected(unit, fmt, packed.unpacked()).values()
        return Carried(packed, bias)

    def joint(self, assignment: Mapping[str, Format]) -> Replacement:
        """What takes the place of the model's own numbers when every unit has its format.

        Raises:
            FormatError: as `packed`.
        """
        return joined(
            self.replacement(unit, fmt) for unit, fmt in assignment.items() if fmt.bits != 32
        )

    def plan_weights(
        self, assignment: Mapping[str, Format], equalization: Equalization | None = None
    ) -> PlanWeights | None:
        """What a plan of this assignment keeps beside its JSON; None if it needs nothing.

        Args:
            assignment: unit name to format.
            equalization: how this rounder's model was made of the original.

        Raises:
            FormatError: as `packed`.
        """
        kept = {unit: fmt for unit, fmt in assignment.items() if fmt.needs_codes}
        if not kept and equalization is None:
            return None
        others: dict[str, Tensor] = {}
        for unit, fmt in kept.items():
            if fmt.bias_corrected:
                others |= self._corrected(unit, fmt, self.packed(unit, fmt).unpacked())
        units = {unit: self.packed(unit, fmt) for unit, fmt in kept.items()}
        return PlanWeights(units, others, equalization)

    def layer_error(self, unit: str, fmt: Format, moments: Moments | None = None) -> float:
        """Mean squared error of the unit's own outputs, by the moments of its inputs.

        Without moments, all inputs count the same.

        Raises:
            FormatError: as `packed`.
        """
        if fmt.bits == 32:
            return 0.0
        own, seen = self.units[unit], moments or self.moments.get(unit)
        matrix = (own.rows, own.columns)
        weight = self._parameters[unit].detach().reshape(matrix)
        rounded = self.packed(unit, fmt).unpacked().reshape(matrix)
        if seen is None:
            return input_error(weight, rounded)
        return input_error(weight, rounded, seen.second, seen.diagonal)

    def matrix(self, unit: str) -> Tensor:
        """A unit's own weights, float32 of shape (rows, columns)."""
        own = self.units[unit]
        return self._parameters[unit].detach().to(torch.float32).reshape(own.rows, own.columns)

    def knowing(self, packed: Mapping[tuple[str, Format], PackedWeight]) -> Rounder:
        """This rounder with other codes for some units in some formats."""
        other = copy.copy(self)
        other._known = {**self._known, **packed}
        return other

    def rounded(self, unit: str, fmt: Format, weight: Tensor, second: Tensor) -> PackedWeight:
        """A unit's packed weights made of other weights for other inputs than its own.

        Args:
            unit: its name.
            fmt: its format.
            weight: what is rounded, shape (rows, columns).
            second: second moments of the inputs that it is rounded for.

        Raises:
            FormatError: if the weights do not fit the format.
        """
        codes = round_weights(weight, fmt, second=second)
        return pack_codes(codes, fmt, self._parameters[unit], **self._range(unit, fmt))

    @property
    def biases(self) -> Mapping[str, str]:
        """Unit name to the name of the bias that can be corrected for it."""
        return self._biases

    @cached_property
    def _biases(self) -> dict[str, str]:
        return find_biases(self.model, self.units)

    @cached_property
    def _entries(self) -> Mapping[str, Iterable[str]]:
        return quantizable_inputs(self.model, list(self.units.values()))

    def _rounded(self, unit: str, fmt: Format) -> PackedWeight:
        own, weight = self.units[unit], self._parameters[unit]
        moments = self.moments.get(unit)
        second = None if moments is None else moments.second
        codes = round_weights(
            weight.detach().reshape(own.rows, own.columns),
            fmt,
            second=second,
            diagonal=None if moments is None else moments.diagonal,
            factor=self._factor_of(unit, second) if fmt.method == "gptq" else None,
        )
        return pack_codes(codes, fmt, weight, **self._range(unit, fmt))

    def _range(self, unit: str, fmt: Format) -> Mapping[str, Tensor]:
        if fmt.activation != "static":
            return {}
        if unit not in self._ranges:
            raise FormatError(
                f"{fmt.name} needs the range of the inputs of {unit}, which is not known; "
                "use dynamic or no activations for this unit"
            )
        return self._ranges[unit]

    def _factor_of(self, unit: str, second: Tensor | None) -> Factor | None:
        if second is None:
            return None
        if self._factor is None or self._factor[0] != unit:  # formats of one unit come together
            self._factor = (unit, prepare(second))
        return self._factor[1]

    def _corrected(self, unit: str, fmt: Format, rounded: Tensor) -> dict[str, Tensor]:
        name = self._biases.get(unit)
        if name is None:
            raise FormatError(
                f"{unit} has no bias of its own that could be corrected; use "
                f"{fmt.name.replace('-bc', '')}"
            )
        weight = self._parameters[unit].detach()
        moments = self.moments.get(unit)
        bias = corrected_bias(self._parameters[name], weight, rounded, self.units[unit], moments)
        return {name: bias}

    def _quantizer(self, path: str, packed: PackedWeight) -> InputQuantizer:
        per = granularity(packed.format, self.model.get_submodule(path))
        return input_quantizer(packed.format, packed.tensors, per=per)

    def _paths(self, unit: str, fmt: Format) -> Iterable[str]:
        paths = self._entries.get(unit)
        if not paths:
            raise FormatError(
                f"{fmt.name} rounds what enters {unit}, which is no plain layer with one input; "
                "use a format without activations for it"
            )
        return paths

    @staticmethod
    def _named(unit: WeightUnit, weight: Tensor) -> dict[str, Tensor]:
        return dict.fromkeys((unit.name, *unit.aliases), weight)
