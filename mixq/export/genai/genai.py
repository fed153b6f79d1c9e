"""Genai: the runtime `onnxruntime-genai`, a folder that generates text."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mixq.errors import ExportError
from mixq.export.genai import builder
from mixq.export.genai.blocks import blocks_bytes, check_format
from mixq.export.genai.nodes import Writer
from mixq.export.genai.places import Place, places
from mixq.export.genai.session import TextSession
from mixq.export.runtime import INT8_TOLERANCE, Written
from mixq.export.source import Source

if TYPE_CHECKING:
    import onnx_ir as ir

MODEL = "model.onnx"
DATA = "model.onnx.data"


class Genai:
    """onnxruntime-genai: a causal language model with its cache, its settings and its tokenizer.

    The graph is that of its own model builder, made from the plan's floats; every packed unit in
    it becomes MatMulNBits or GatherBlockQuantized with the plan's integers. See `docs/genai.md`.
    """

    name: ClassVar[str] = builder.NAME
    extra: ClassVar[str] = builder.EXTRA
    is_folder: ClassVar[bool] = True

    def check(self, source: Source) -> None:
        """Refuse formats, architectures and folders that it cannot take.

        Raises:
            ExportError: with the legal choices.
            MissingExtraError: if it is not installed.
        """
        builder.check_installed()
        for name, layer in source.plan.layers.items():
            check_format(name, layer.format)
        builder.check_model(source)

    def write(self, source: Source, path: Path) -> Written:
        """Write the folder `path`; while it is made, it takes about 8 bytes per weight.

        Raises:
            ExportError: as `check`, or if the builder or its graph leaves a unit out.
            MissingExtraError: if it is not installed.
        """
        self.check(source)
        import onnx_ir as ir

        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=path) as work:
            built = builder.build(source, Path(work))
            model = ir.load(built / MODEL)
            graph = model.graph
            found = places(graph, source)
            kept = _kept_bytes(graph, found)
            writer = Writer(graph)
            for place in found:
                writer.write(place)
            ir.save(model, path / MODEL, external_data=DATA)
            for file in built.iterdir():
                if file.name not in (MODEL, DATA):
                    shutil.copyfile(file, path / file.name)
        return Written(
            tensor_bytes=tensor_bytes(path),
            predicted_bytes=kept + sum(map(blocks_bytes, source.units.values())),
            tolerance=INT8_TOLERANCE,
            notes=_notes(source, kept),
        )

    def open(self, path: Path, *, threads: int = 1) -> TextSession:
        """Load the folder in ONNX Runtime, and in onnxruntime-genai once text is asked for.

        Raises:
            ExportError: if it does not load.
            MissingExtraError: if it is not installed.
        """
        builder.check_installed()
        return TextSession(path, threads)


def tensor_bytes(path: Path) -> int:
    """Bytes of all tensors of a written folder's graph."""
    import onnx_ir as ir

    values = ir.load(path / MODEL).graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def _kept_bytes(graph: ir.Graph, found: list[Place]) -> int:
    """What stays as the builder made it: norms, biases, units at 32 bits, rotary tables."""
    replaced = {place.value.name for place in found}
    return sum(
        value.const_value.nbytes
        for name, value in graph.initializers.items()
        if name not in replaced and value.const_value is not None
    )


def _notes(source: Source, kept: int) -> tuple[str, ...]:
    plain = sum(tensor.numel() * 4 for tensor in source.plain.values())
    if kept <= plain:
        return ()
    return (
        f"{kept - plain:,} bytes are tables of rotary positions that the model builder adds; "
        "the plan does not count them",
    )
