"""Contents: every tensor of an mlx folder, what it takes, and the configuration beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from mixq.errors import ExportError
from mixq.export.hugging_face import config_of, formats, halves
from mixq.export.mlx.architecture import mlx_config, renamed, skeleton
from mixq.export.mlx.layout import Layout, layout_of, tensors_of
from mixq.export.mlx.library import flattened, layers
from mixq.export.mlx.tensors import from_mlx, to_mlx
from mixq.export.source import Source
from mixq.files import one_line
from mixq.graph.state import stored_tensors


@dataclass(frozen=True, eq=False)
class Contents:
    """What goes into the folder.

    Attributes:
        source: the quantized model.
        settings: the configuration as mlx-lm reads it, without the quantization.
        plain: mlx arrays of all that holds no codes, by mlx-lm's names.
        units: unit name of every module of mlx-lm that holds codes, by its path.
        layouts: of those modules.
        others: paths of the modules that could hold codes and do not.
    """

    source: Source
    settings: Mapping[str, Any]
    plain: Mapping[str, Any]
    units: Mapping[str, str]
    layouts: Mapping[str, Layout]
    others: tuple[str, ...]

    @classmethod
    def of(cls, source: Source) -> Self:
        """The contents for a plan, checked.

        Raises:
            ExportError: for an architecture, a unit or a format that mlx has not.
            MissingExtraError: without mlx-lm.
        """
        settings = mlx_config(config_of(source))
        model = skeleton(settings)
        names = {
            alias: unit.name
            for unit in source.units.values()
            if not unit.is_float
            for alias in unit.names
        }
        plain, kept = renamed(
            model,
            {name: to_mlx(tensor) for name, tensor in _plain(source).items()},
            {alias: source.units[name].packed.shape for alias, name in names.items()},
        )
        plain = _fitting(model, plain, kept, str(settings["model_type"]))
        modules = {p: m for p, m in model.named_modules() if hasattr(m, "to_quantized")}
        units, layouts = {}, {}
        for name, fmt in formats(source.plan).items():
            if fmt.is_float:
                continue
            paths = [
                theirs.removesuffix(".weight")
                for theirs, ours in kept.items()
                if names[ours] == name and theirs.removesuffix(".weight") in modules
            ]
            if not paths:
                raise ExportError(
                    f"unit {name!r:.100} is planned as {fmt.name}, but mlx quantizes Linear and "
                    f"Embedding alone, and mlx-lm's {settings['model_type']} has it elsewhere; "
                    "keep it at 16 or 32 bits"
                )
            for path in paths:
                units[path] = name
                layouts[path] = layout_of(
                    name,
                    fmt,
                    source.units[name].packed.columns,
                    is_embedding=isinstance(modules[path], layers().Embedding),
                )
        return cls(source, settings, plain, units, layouts, tuple(set(modules) - set(units)))

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, with bits and group size of every module that has them."""
        if not self.units:
            return dict(self.settings)
        usual = Counter((item.group_size, item.bits) for item in self.layouts.values())
        size, bits = usual.most_common(1)[0][0]
        quantization: dict[str, Any] = {"group_size": size, "bits": bits, "mode": "affine"}
        for path, layout in sorted(self.layouts.items()):
            quantization[path] = {"group_size": layout.group_size, "bits": layout.bits}
        quantization |= dict.fromkeys(sorted(self.others), False)
        return {**self.settings, "quantization": quantization}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything that is stored, by its name in the file."""
        stored = {name: from_mlx(array) for name, array in self.plain.items()}
        for path, name in self.units.items():
            parts = tensors_of(self.source.units[name], self.layouts[path])
            stored |= {f"{path}.{part}": tensor for part, tensor in parts.items()}
        return stored

    @property
    def predicted_bytes(self) -> int:
        """Bytes of all tensors."""
        matrices = {
            path: self.source.plan.layers[name].matrix for path, name in self.units.items()
        }
        coded = sum(self.layouts[path].stored_bytes(*matrices[path]) for path in self.units)
        half = halves(self.source.plan)
        plain = sum(
            int(array.size) * (2 if name in half else int(array.itemsize))
            for name, array in self.plain.items()
        )
        return coded + plain

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know."""
        planned = self.source.plan.predicted.weight_bytes
        more = self.predicted_bytes - planned
        if not self.units:
            return ()
        return (
            f"mlx takes {more:+,} bytes ({more / planned:+.1%}) beside the plan's {planned:,}: it "
            "stores a bias for every group, repeats scales of groups above 128, and keeps those "
            "of embeddings and the biases of zero points in float32",
        )


def _plain(source: Source) -> dict[str, Tensor]:
    """What holds no codes, by all of transformers' names: 16-bit units as they are stored."""
    units = {name: unit for unit in source.units.values() for name in unit.names}
    found = {}
    for item in stored_tensors(source.restored):
        for name in item.names:
            unit = units.get(name)
            if unit is None:
                found[name] = item.tensor
            elif unit.is_float:
                found[name] = unit.packed.tensors["half"]
    return found


def _fitting(
    model: Any, plain: Mapping[str, Any], kept: Container[str], kind: str
) -> dict[str, Any]:
    """The plain tensors that mlx-lm's model has parameters for.

    Raises:
        ExportError: if it has a parameter that is not there.
    """
    theirs = flattened(model.parameters())
    missing = [
        name
        for name, array in theirs.items()
        if name not in kept and (name not in plain or plain[name].shape != array.shape)
    ]
    if missing:
        raise ExportError(
            f"mlx-lm's {kind} has a tensor {one_line(missing[0], 100)} of shape "
            f"{theirs[missing[0]].shape} that the model has not; choose another runtime"
        )
    # A tied head has a second name that mlx-lm may not know.
    return {name: array for name, array in plain.items() if name in theirs}
