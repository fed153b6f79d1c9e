"""Contents: every tensor of a compressed-tensors folder, and the configuration beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from mixq.export.compressed_tensors.layout import Scheme, scheme_of, tensors_of
from mixq.export.hugging_face import config_of, formats, halves, owner
from mixq.export.source import Source
from mixq.graph.state import stored_tensors


@dataclass(frozen=True, eq=False)
class Contents:
    """What goes into the folder.

    Attributes:
        source: the quantized model.
        units: unit name of every module that holds codes, by its path.
        schemes: of those modules.
        plain: everything else that is stored, by its name.
    """

    source: Source
    units: Mapping[str, str]
    schemes: Mapping[str, Scheme]
    plain: Mapping[str, Tensor]

    @classmethod
    def of(cls, source: Source) -> Self:
        """The contents for a plan, checked.

        Raises:
            ExportError: for a unit that the format has no words for.
        """
        units, schemes = {}, {}
        for name, fmt in formats(source.plan).items():
            if fmt.is_float:
                continue
            unit = source.units[name]
            for alias in unit.names:
                path, module, leaf = owner(source.model, alias)
                schemes[path] = scheme_of(name, module, leaf, fmt, unit.packed.columns)
                units[path] = name
        return cls(source, units, schemes, _plain(source))

    @property
    def is_untied(self) -> bool:
        """Whether a packed weight has several modules, each of which stores its own copy."""
        return len(set(self.units.values())) < len(self.units)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration; each scheme names its modules, so that nothing else is touched."""
        config = config_of(self.source)
        if self.is_untied:
            config["tie_word_embeddings"] = False
        if not self.units:
            return config
        groups = {
            scheme.name: {
                "targets": sorted(p for p, other in self.schemes.items() if other == scheme),
                **scheme.arguments(),
            }
            for scheme in sorted(set(self.schemes.values()), key=lambda scheme: scheme.name)
        }
        containers = {scheme.container for scheme in self.schemes.values()}
        config["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": containers.pop() if len(containers) == 1 else "mixed-precision",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": [],
        }
        return config

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything that is stored, by its name in the file."""
        stored = dict(self.plain)
        for path, name in self.units.items():
            parts = tensors_of(self.source.units[name], self.schemes[path])
            # Clones: safetensors refuses two names for one storage.
            stored |= {f"{path}.{part}": tensor.clone() for part, tensor in parts.items()}
        return stored

    @property
    def predicted_bytes(self) -> int:
        """Bytes of all tensors."""
        layers = self.source.plan.layers
        coded = sum(
            scheme.stored_bytes(*layers[self.units[path]].matrix)
            for path, scheme in self.schemes.items()
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
        notes = [
            f"compressed-tensors takes {more:+,} bytes ({more / planned:+.1%}) beside the plan's "
            f"{planned:,}: it fills rows up to 4 bytes and stores the shape of packed weights",
            "transformers turns codes into floats at the first batch: the folder is small, the "
            "memory of the model is not",
        ]
        if self.is_untied:
            notes.append("weights that modules share are stored once for each of them, untied")
        return tuple(notes)


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
