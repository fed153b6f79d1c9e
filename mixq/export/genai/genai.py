"""Genai: the runtime `onnxruntime-genai`, a folder that generates text."""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mixq.export.genai import builder
from mixq.export.genai.parts import lay_out
from mixq.export.genai.places import Place, places
from mixq.export.genai.session import MODEL, TextSession
from mixq.export.onnx.file import tensor_bytes
from mixq.export.onnx.matmul import INT8_ACTIVATIONS
from mixq.export.onnx.rewrite import rewrite
from mixq.export.runtime import FLOAT_TOLERANCE, INT8_TOLERANCE, Written
from mixq.export.source import Source

if TYPE_CHECKING:
    import onnx_ir as ir

DATA = "model.onnx.data"
LAYER_ERROR = 1e-2
"""Relative error that rounding the activations of one decoder layer adds to the logits.

Measured on SmolLM2-135M at groups of 64 (docs/genai.md). Those of several layers are independent
and add in squares, so that four layers reach `INT8_TOLERANCE`, and thirty 5.5e-2.
"""


@dataclass(frozen=True)
class Genai:
    """onnxruntime-genai: a causal language model with its cache, its settings and its tokenizer.

    The graph is that of its own model builder, made from the plan's floats; every packed unit in
    it becomes MatMulNBits or GatherBlockQuantized with the plan's integers. See `docs/genai.md`.

    Attributes:
        accuracy_level: of MatMulNBits: 4 rounds activations to 8 bits by blocks, 0 keeps floats
            and is many times slower.
    """

    name: ClassVar[str] = builder.NAME
    extra: ClassVar[str] = builder.EXTRA
    suffix: ClassVar[str] = ".genai"
    is_folder: ClassVar[bool] = True
    accuracy_level: int = INT8_ACTIVATIONS

    def check(self, source: Source) -> None:
        """Refuse architectures and folders that it cannot take.

        Raises:
            ExportError: with the legal choices.
            MissingExtraError: if it is not installed.
        """
        builder.check_model(source)

    def write(self, source: Source, path: Path) -> Written:
        """Write the folder `path`; while it is made, it takes about 8 bytes more per weight.

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
            found = places(model.graph, source)
            kept = _kept_bytes(model.graph, found)
            weights, parts = lay_out(model.graph, found)
            done = rewrite(model, weights, parts, accuracy_level=self.accuracy_level)
            ir.save(model, path / MODEL, external_data=DATA)
            for file in built.iterdir():
                if file.name not in (MODEL, DATA):
                    shutil.copyfile(file, path / file.name)
        layers = getattr(source.model.config, "num_hidden_layers", 1)
        return Written(
            tensor_bytes=tensor_bytes(ir.load(path / MODEL)),
            predicted_bytes=kept + sum(u.packed.stored_bytes for u in source.units.values()),
            tolerance=rounded_tolerance(layers) if done.rounds_activations else FLOAT_TOLERANCE,
            notes=_notes(model.graph),
        )

    def open(self, path: Path, *, threads: int = 1) -> TextSession:
        """Load the folder in ONNX Runtime, and in onnxruntime-genai once text is asked for.

        Raises:
            ExportError: if it does not load.
            MissingExtraError: if it is not installed.
        """
        builder.check_installed()
        return TextSession(path, threads=threads)


def _kept_bytes(graph: ir.Graph, found: list[Place]) -> int:
    """What stays as the builder made it: norms, biases, units at 32 bits, rotary tables."""
    replaced = {place.value.name for place in found}
    return sum(
        value.const_value.nbytes
        for name, value in graph.initializers.items()
        if name not in replaced and value.const_value is not None
    )


def rounded_tolerance(layers: int) -> float:
    """Tolerance of the logits of so many decoder layers whose activations are rounded."""
    return max(INT8_TOLERANCE, LAYER_ERROR * math.sqrt(layers))


def _notes(graph: ir.Graph) -> tuple[str, ...]:
    tables = sum(
        value.const_value.nbytes
        for name, value in graph.initializers.items()
        if name.startswith(("cos_cache", "sin_cache")) and value.const_value is not None
    )
    if not tables:
        return ()
    return (
        f"{tables:,} bytes are the model builder's tables of rotary positions, which the plan "
        "does not count",
    )
