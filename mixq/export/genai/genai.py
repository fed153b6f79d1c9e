"""Genai: the runtime `onnxruntime-genai`, a folder that generates text."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from mixq.export.genai import builder
from mixq.export.genai.parts import lay_out
from mixq.export.genai.places import Place, places
from mixq.export.genai.session import MODEL, TextSession
from mixq.export.onnx.file import tensor_bytes
from mixq.export.onnx.kernel import Kernel, kernels
from mixq.export.onnx.rewrite import rewrite
from mixq.export.onnx.rounding import activation_effects
from mixq.export.onnxruntime import MARGIN, TRIES, ActivationChoice, OnnxRuntime
from mixq.export.runtime import FLOAT_TOLERANCE, INT8_TOLERANCE, Written
from mixq.export.source import Source
from mixq.export.verify import output_difference

if TYPE_CHECKING:
    import onnx_ir as ir

DATA: Final = "model.onnx.data"
LAYER_ERROR: Final = 1e-2
"""Relative error that rounding the activations of one decoder layer adds to the logits.

Measured on SmolLM2-135M at groups of 64 (docs/genai.md). Those of several layers are independent
and add in squares, so that four layers reach `INT8_TOLERANCE`, and thirty 5.5e-2.
"""


class Genai:
    """onnxruntime-genai: a causal language model with its cache, its settings and its tokenizer.

    The graph is that of its own model builder, made from the plan's floats; every packed unit in
    it becomes MatMulNBits or GatherBlockQuantized with the plan's integers. See `docs/genai.md`.

    Args:
        activations: what products make of activations: `int8` rounds them to 8 bits by blocks,
            the fastest way, with a tolerance that grows with the layers; `auto` rounds as coarsely
            as `INT8_TOLERANCE` allows, by kernels that are no slower than fp32; `float` rounds
            nothing, and is many times slower than fp32 at 8 and 2 bits.

    Raises:
        UsageError: for another word.
    """

    name: ClassVar[str] = builder.NAME
    extra: ClassVar[str] = builder.EXTRA
    suffix: ClassVar[str] = ".genai"
    is_folder: ClassVar[bool] = True

    def __init__(self, activations: ActivationChoice = "auto") -> None:
        self.activations = OnnxRuntime(activations).activations

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
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=path) as work:
            built = builder.build(source, Path(work))
            for file in built.iterdir():
                if file.name not in (MODEL, DATA):
                    shutil.copyfile(file, path / file.name)
            everywhere = self._everywhere(source)
            if self.activations == "auto" and everywhere:
                return self._chosen(source, built, path)
            return self._pack(source, built, path, everywhere)

    def open(self, path: Path, *, threads: int = 1) -> TextSession:
        """Load the folder in ONNX Runtime, and in onnxruntime-genai once text is asked for.

        Raises:
            ExportError: if it does not load.
            MissingExtraError: if it is not installed.
        """
        builder.check_installed()
        return TextSession(path, threads=threads)

    def _chosen(self, source: Source, built: Path, path: Path) -> Written:
        """As `OnnxRuntime.write`: chosen by estimates, measured, chosen again."""
        effects = activation_effects(source).fast()
        aim = MARGIN * INT8_TOLERANCE
        written = self._pack(source, built, path, effects.choose(aim))
        for _ in range(TRIES - 1):
            session = self.open(path)
            difference = output_difference(source, session)
            session.close()
            if difference <= written.tolerance:
                break
            aim *= MARGIN * INT8_TOLERANCE / difference
            written = self._pack(source, built, path, effects.choose(aim))
        return written

    def _everywhere(self, source: Source) -> dict[str, Kernel]:
        place = 0 if self.activations == "int8" else -1
        packed = {name: unit.packed for name, unit in source.units.items()}
        ladders = {name: kernels(p.format, p.columns) for name, p in packed.items()}
        return {name: ladder[place] for name, ladder in ladders.items() if ladder}

    def _pack(
        self, source: Source, built: Path, path: Path, chosen: Mapping[str, Kernel]
    ) -> Written:
        """Put the plan's integers into the builder's graph."""
        import onnx_ir as ir

        model = ir.load(built / MODEL)
        found = places(model.graph, source)
        kept = _kept_bytes(model.graph, found)
        weights, parts, wholes = lay_out(model.graph, found)
        own = {part: chosen[whole] for part, whole in wholes.items() if whole in chosen}
        done = rewrite(model, weights, parts, chosen=own)
        ir.save(model, path / MODEL, external_data=DATA)
        tolerance = FLOAT_TOLERANCE
        if done.rounds_activations:
            layers = getattr(source.model.config, "num_hidden_layers", 1)
            is_bounded = self.activations == "auto"
            tolerance = INT8_TOLERANCE if is_bounded else rounded_tolerance(layers)
        return Written(
            tensor_bytes=tensor_bytes(ir.load(path / MODEL)),
            predicted_bytes=kept + sum(u.packed.stored_bytes for u in source.units.values()),
            tolerance=tolerance,
            notes=_notes(model.graph),
        )


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
