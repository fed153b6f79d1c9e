"""onnxruntime: ONNX files with packed weights and ONNX Runtime's low-bit kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final, Literal, TypeAlias, get_args

from mixq.errors import UsageError
from mixq.export.onnx import file
from mixq.export.onnx.graph import FloatGraph, float_graph
from mixq.export.onnx.kernel import Kernel, kernels
from mixq.export.onnx.rewrite import Rewritten, Unpack, rewrite
from mixq.export.onnx.rounding import Effects, activation_effects
from mixq.export.onnx.session import OnnxSession
from mixq.export.runtime import FLOAT_TOLERANCE, INT8_TOLERANCE, Written, rounded_tolerance
from mixq.export.source import Source
from mixq.export.verify import output_difference

ActivationChoice: TypeAlias = Literal["auto", "int8", "float"]
MARGIN: Final = 0.8
"""Share of the tolerance that kernels are chosen for: effects are estimates."""
TRIES: Final = 4


class OnnxRuntime:
    """ONNX Runtime on CPUs.

    Args:
        activations: what MatMulNBits makes of activations: `int8` rounds them to 8 bits by
            blocks, which is fast; `float` keeps them, which has a fast kernel at 4 bits only;
            `auto` rounds as coarsely as the tolerance of the output allows, layer by layer.
        unpack: when weights that no kernel reads, those of convolutions first of all, become
            floats: on every `call`, which keeps them small in memory, or once at `load`, which
            makes them as fast as 32 bits.

    Raises:
        UsageError: for another word.
    """

    name: ClassVar[str] = "onnxruntime"
    extra: ClassVar[str] = "onnx"
    suffix: ClassVar[str] = ".onnx"
    is_folder: ClassVar[bool] = False

    def __init__(self, activations: ActivationChoice = "auto", unpack: Unpack = "call") -> None:
        for option, value, known in (
            ("activations", activations, get_args(ActivationChoice)),
            ("unpack", unpack, get_args(Unpack)),
        ):
            if value not in known:
                raise UsageError(f"{option} is {value!r:.40}, but it takes {', '.join(known)}")
        self.activations: ActivationChoice = activations
        self.unpack: Unpack = unpack

    def check(self, source: Source) -> None:
        """Everything is taken: what has no kernel is dequantized."""

    def write(self, source: Source, path: Path) -> Written:
        """Trace the model, pack its units, write one file.

        Raises:
            ExportError: if the model cannot be traced.
            MissingExtraError: without onnxscript.
        """
        graph = float_graph(source)
        if self.activations != "auto":
            chosen = _everywhere(source, self.activations)
            return self._write(source, graph, path, chosen, rounded_tolerance(len(chosen)))
        effects = activation_effects(source)
        aim = MARGIN * INT8_TOLERANCE
        written = self._write(source, graph, path, _fastest(effects, aim), INT8_TOLERANCE)
        for _ in range(TRIES - 1):
            session = self.open(path)
            difference = output_difference(source, session)
            session.close()
            if difference <= written.tolerance:
                break
            # Effects are estimates, and those that were chosen are rather too small.
            aim *= MARGIN * INT8_TOLERANCE / difference
            written = self._write(source, graph, path, _fastest(effects, aim), INT8_TOLERANCE)
        return written

    def open(self, path: Path, *, threads: int = 1) -> OnnxSession:
        """Load a file in ONNX Runtime."""
        return OnnxSession(path, threads=threads)

    def _write(
        self,
        source: Source,
        traced: FloatGraph,
        path: Path,
        chosen: Mapping[str, Kernel],
        tolerance: float,
    ) -> Written:
        graph = replace(traced, model=traced.model.clone())
        done = rewrite(graph.model, graph.weights, source.units, chosen=chosen, unpack=self.unpack)
        written = weigh(source, graph, done, chosen, tolerance)
        file.save(graph.model, path)
        return written


def _fastest(effects: Effects, aim: float) -> dict[str, Kernel]:
    """Kernels that keep the aim; those that are slower than fp32 only if nothing else does."""
    chosen = effects.fast().choose(aim)
    return chosen if effects.of(chosen) <= aim else effects.choose(aim)


def _everywhere(source: Source, activations: ActivationChoice) -> dict[str, Kernel]:
    """The fastest kernel of each unit, or the most accurate one."""
    place = 0 if activations == "int8" else -1
    ladders = {
        name: kernels(unit.packed.format, unit.packed.columns)
        for name, unit in source.units.items()
        if unit.packed.format.activation == "none"
    }
    return {name: ladder[place] for name, ladder in ladders.items() if ladder}


def weigh(
    source: Source,
    graph: FloatGraph,
    done: Rewritten,
    chosen: Mapping[str, Kernel],
    tolerance: float,
) -> Written:
    """The bytes of a rewritten graph against those that the plan says, and what to know of it."""
    initializers = graph.model.graph.initializers
    plain = [name for name in source.plain if name in initializers]
    plain_bytes = sum(source.plain[name].nbytes for name in plain)
    written = sum(
        value.const_value.nbytes
        for value in (initializers[name] for name in plain)
        if value.const_value is not None
    )
    predicted = {name: source.units[name].packed.stored_bytes for name in done.unit_bytes}
    return Written(
        tensor_bytes=sum(done.unit_bytes.values()) + written,
        predicted_bytes=sum(predicted.values()) + plain_bytes,
        tolerance=tolerance if done.rounds_activations else FLOAT_TOLERANCE,
        blocks={name: kernel.block if kernel.rounds else 0 for name, kernel in chosen.items()},
        notes=(
            *graph.notes,
            *_left_out(source, done.unit_bytes, plain),
            *_kernels(done, source, chosen),
        ),
    )


def _left_out(source: Source, units: Mapping[str, int], plain: list[str]) -> list[str]:
    """What the graph does not hold because no output needs it."""
    names = [name for name in source.units if name not in units]
    lost = sum(source.units[name].packed.stored_bytes for name in names)
    others = [name for name in source.plain if name not in plain]
    lost += sum(source.plain[name].nbytes for name in others)
    if not names and not others:
        return []
    shown = ", ".join([*names, *others][:3])
    more = len(names) + len(others) - 3
    return [
        f"{lost:,} bytes of the model are not in the file, because no output needs them: {shown}"
        + (f" and {more} more" if more > 0 else "")
    ]


def _kernels(done: Rewritten, source: Source, chosen: Mapping[str, Kernel]) -> list[str]:
    """What runs slower than fp32 would."""
    notes = _dequantized(done, source)
    floats = [name for name, kernel in chosen.items() if kernel.cost > 1]
    if floats:
        notes.append(
            f"{len(floats)} of {len(done.kernels)} units keep floating-point activations, which "
            "is slow at 8 and 2 bits, because rounding them changes the outputs too much: "
            f"{', '.join(floats[:3])}" + (" ..." if len(floats) > 3 else "")
        )
    return notes


def _dequantized(done: Rewritten, source: Source) -> list[str]:
    slow = [name for name, kinds in done.kernels.items()
            if "DequantizeLinear" in kinds and not source.units[name].is_float]  # fmt: skip
    if not slow:
        return []
    return [
        f"{len(slow)} of {len(done.kernels)} units have no low-bit kernel in ONNX Runtime and are "
        f"dequantized on every pass (unpack=load does it once): {', '.join(slow[:3])}"
        + (" ..." if len(slow) > 3 else "")
    ]
