"""The runtime `npz`: linear layers in a row, for `npz_network`, which is numpy alone."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from npz_network import ACTIVATIONS, Network
from torch import Tensor, nn

from mixq.batch import Batch, named_tensors
from mixq.errors import ExportError
from mixq.export.runtime import FLOAT_TOLERANCE, Written
from mixq.export.source import Source
from mixq.formats import Format

WITH_WEIGHTS = ("Linear", "Embedding")


class Npz:
    """A target of `mixq export`, as mixq knows it by the entry point `npz`."""

    name: ClassVar[str] = "npz"
    extra: ClassVar[str] = ""  # needs nothing that mixq does not
    suffix: ClassVar[str] = ".npz"
    is_folder: ClassVar[bool] = False

    def check(self, source: Source) -> None:
        """Refuse what an .npz file or numpy cannot hold, naming it and what would do."""
        for name, unit in source.units.items():
            fmt = unit.packed.format
            if not holds(fmt):
                raise ExportError(
                    f"layer {name!r:.100} is planned as {fmt.name}, but an npz file holds float16 "
                    "and integers of 8, 4 and 2 bits with float activations; search with "
                    "--activations none --half float16"
                )
        for path, module in layers(source.model):
            kind = type(module).__name__
            if kind not in (*WITH_WEIGHTS, *ACTIVATIONS):
                raise ExportError(
                    f"layer {path or 'model'!r:.100} is a {kind}, but npz_network runs "
                    f"nn.Sequential of {', '.join((*WITH_WEIGHTS, *ACTIVATIONS))}; choose another "
                    "runtime"
                )

    def write(self, source: Source, path: Path) -> Written:
        """Write the plan's own codes, packed as they are."""
        canonical = {
            alias: name
            for name, layer in source.plan.layers.items()
            for alias in (name, *layer.aliases)
        }
        program: dict[str, Any] = {"layers": [], "units": {}}
        arrays = {name: tensor.numpy() for name, tensor in source.plain.items()}
        for place, module in layers(source.model):
            layer = {"kind": type(module).__name__}
            if layer["kind"] in WITH_WEIGHTS:
                layer["weight"] = canonical[f"{place}.weight"]
                has_bias = getattr(module, "bias", None) is not None
                layer["bias"] = f"{place}.bias" if has_bias else ""
            program["layers"].append(layer)
        for name, unit in source.units.items():
            packed = unit.packed
            if unit.is_float:
                arrays[name] = packed.tensors["half"].numpy()
                continue
            arrays |= {f"{name}/{part}": t.numpy() for part, t in packed.tensors.items()}
            program["units"][name] = {
                "rows": packed.rows,
                "columns": packed.columns,
                "bits": packed.format.bits,
                "group_size": packed.format.group_size,
            }
        planned = sum(unit.packed.stored_bytes for unit in source.units.values())
        planned += sum(tensor.nbytes for tensor in source.plain.values())
        text = np.frombuffer(json.dumps(program).encode(), np.uint8)
        save(path, arrays | {"program": text})
        return Written(
            tensor_bytes=sum(array.nbytes for array in arrays.values()),
            predicted_bytes=planned,
            tolerance=FLOAT_TOLERANCE,
        )

    def open(self, path: Path, *, threads: int = 1) -> Session:
        """Load a file; numpy has no say in its threads."""
        try:
            return Session(Network(str(path)))
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise ExportError(
                f"{path.name!r:.100} is no npz file of a network; export it again"
            ) from error


class Session:
    """A file in numpy."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The output of a batch that has one input."""
        ((_, tensor),) = named_tensors(batch)
        return {"output": torch.from_numpy(self._network(tensor.numpy()))}

    def close(self) -> None:
        """Nothing is held."""


def holds(fmt: Format) -> bool:
    """Whether numpy has what a format needs."""
    return fmt.activation == "none" and fmt.grid != "bfloat16"


def layers(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested nn.Sequential in their order, by path."""
    if not isinstance(model, nn.Sequential):
        yield path, model
        return
    for name, child in model.named_children():
        yield from layers(child, f"{path}.{name}" if path else name)


def save(path: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """As np.savez, without the time of day that it puts into the archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())
