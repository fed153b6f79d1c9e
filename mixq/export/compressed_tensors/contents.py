"""Contents: every tensor of a compressed-tensors folder, and the configuration beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from mixq.export.compressed_tensors.layout import Scheme, scheme_of, tensors_of
from mixq.export.hugging_face import config_of, formats, halves, owner
from mixq.export.source import Source
from mixq.files import one_line
from mixq.graph.state import stored_tensors


@dataclass(frozen=True, eq=False)
class Contents:
    """What goes into the folder.

    Attributes:
        source: the quantized model.
        schemes: of every unit with codes, by its name.
        plain: everything else that is stored, by its name.
    """

    source: Source
    schemes: Mapping[str, Scheme]
    plain: Mapping[str, Tensor]

    @classmethod
    def of(cls, source: Source) -> Self:
        """The contents for a plan, checked.

        Raises:
            ExportError: for a unit that the format has no words for.
        """
        schemes = {}
        for name, fmt in formats(source.plan).items():
            if not fmt.is_float:
                unit = source.units[name]
                owners = [owner(source.model, alias) for alias in unit.names]
                schemes[name] = scheme_of(name, fmt, unit.packed.columns, owners)
        return cls(source, schemes, _plain(source))

    @property
    def config(self) -> dict[str, Any]:
        """The configuration; each scheme names its modules, so that nothing else is touched."""
        config = config_of(self.source)
        if not self.schemes:
            return config
        targets: dict[Scheme, list[str]] = {}
        for name, scheme in self.schemes.items():
            targets.setdefault(scheme, []).extend(self._paths(name))
        containers = {scheme.container for scheme in targets}
        config["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": containers.pop() if len(containers) == 1 else "mixed-precision",
            "quantization_status": "compressed",
            "config_groups": {
                scheme.name: {"targets": sorted(paths), **scheme.arguments()}
                for scheme, paths in targets.items()
            },
            "ignore": [],
        }
        return config

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything that is stored, by its name in the file."""
        stored = dict(self.plain)
        for name, scheme in self.schemes.items():
            parts = tensors_of(self.source.units[name], scheme)
            for path in self._paths(name):
                # Clones: safetensors refuses two names for one storage.
                stored |= {f"{path}.{part}": tensor.clone() for part, tensor in parts.items()}
                # transformers ties the codes of the other modules to those of the first.
                parts.pop("weight", None)
        return stored

    @property
    def predicted_bytes(self) -> int:
        """Bytes of all tensors."""
        layers = self.source.plan.layers
        coded = sum(
            scheme.stored_bytes(*layers[name].matrix, len(self._paths(name)))
            for name, scheme in self.schemes.items()
        )
        half = halves(self.source.plan)
        plain = sum(
            tensor.numel() * (2 if name in half else tensor.element_size())
            for name, tensor in self.plain.items()
        )
        return coded + plain

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know."""
        planned = self.source.plan.predicted.weight_bytes
        more = self.predicted_bytes - planned
        if not self.schemes:
            return ()
        notes = [
            f"compressed-tensors takes {more:+,} bytes ({more / planned:+.1%}) beside the plan's "
            f"{planned:,}: it fills rows up to 4 bytes, stores the shape of packed weights, and "
            "the scales of shared weights once for each of their modules",
            "transformers turns codes into floats at the first batch: the folder is small, the "
            "memory of the model is not",
        ]
        layers = self.source.plan.layers
        wider = [n for n, scheme in self.schemes.items() if scheme.bits > layers[n].bits]
        if wider:
            first = wider[0]
            notes.append(
                f"{len(wider)} units take more bits than planned ({one_line(first, 80)} "
                f"{self.schemes[first].bits} for {layers[first].bits}), because transformers does "
                "not load packed zero points, embeddings or shared weights; the values are the "
                "plan's, and a search with --grids symmetric and --pin '*embed*=8' avoids it"
            )
        return tuple(notes)

    def _paths(self, name: str) -> list[str]:
        """The modules that hold a unit."""
        return [alias.removesuffix(".weight") for alias in self.source.units[name].names]


def _plain(source: Source) -> dict[str, Tensor]:
    """What holds no codes, under its first name; 16-bit units as they are stored."""
    units = {name: unit for unit in source.units.values() for name in unit.names}
    found = {}
    for item in stored_tensors(source.restored):
        unit = units.get(item.names[0])
        if unit is None:
            found[item.names[0]] = item.tensor
        elif unit.is_float:
            found[item.names[0]] = unit.packed.tensors["half"]
    return found
