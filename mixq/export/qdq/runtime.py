"""qdq: standard ONNX files of 8 and 4 bits, for TensorRT, QNN and whatever reads plain ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, get_args

from mixq.errors import ExportError, MissingExtraError, UsageError
from mixq.export.onnx import file
from mixq.export.onnx.graph import FloatGraph, float_graph
from mixq.export.onnx.session import OnnxSession
from mixq.export.qdq import limits
from mixq.export.qdq.ranges import output_steps
from mixq.export.qdq.rewrite import Rewriter
from mixq.export.qdq.weights import stored_bytes
from mixq.export.runtime import INT8_TOLERANCE, Written
from mixq.export.source import Source
from mixq.files import one_line


class Qdq:
    """Plain QuantizeLinear and DequantizeLinear.

    Args:
        target: `onnx` writes what was measured; `tensorrt` makes the ranges of activations
            symmetric, and `qnn` quantizes the outputs of layers too, as these two document; both
            refuse plans that they document no support for. Neither was run on its hardware.
        outputs: whether outputs of layers with rounded inputs are quantized as well, which gives
            ONNX Runtime's CPU integer convolutions; `auto` is what the target asks for.

    Raises:
        UsageError: for another word.
    """

    name: ClassVar[str] = "qdq"
    extra: ClassVar[str] = "onnx"
    suffix: ClassVar[str] = ".onnx"
    is_folder: ClassVar[bool] = False

    def __init__(self, target: limits.Target = "onnx", outputs: str = "auto") -> None:
        choices = {"target": (target, get_args(limits.Target)),
                   "outputs": (outputs, ("auto", "yes", "no"))}  # fmt: skip
        for option, (value, known) in choices.items():
            if value not in known:
                raise UsageError(f"{option} is {value!r:.40}, but it takes {', '.join(known)}")
        self.target: limits.Target = target
        self.outputs = outputs == "yes" or (outputs == "auto" and target == "qnn")

    def check(self, source: Source) -> None:
        """Refuse formats that plain ONNX, or the target, cannot read.

        Raises:
            ExportError: naming the unit and what would do.
        """
        limits.check(source.units, self.target)

    def write(self, source: Source, path: Path) -> Written:
        """Trace the model, put integers where units were, check the file, write it.

        Raises:
            ExportError: if the model cannot be traced, or onnx's checker refuses the file.
            MissingExtraError: without onnx.
        """
        try:
            import onnx
        except ImportError as error:
            raise MissingExtraError("onnx", "onnx", "a QDQ file") from error
        from onnx_ir.passes.common import RemoveUnusedNodesPass

        graph = float_graph(source)
        steps = output_steps(source) if self.outputs else {}
        inner = graph.model.graph
        rewriter = Rewriter(inner, source.units, steps, symmetric=self.target == "tensorrt")
        for unit, name in graph.weights.items():
            rewriter.rewrite(unit, inner.initializers[name])
        RemoveUnusedNodesPass()(graph.model)
        written = self._weigh(source, graph)
        file.save(graph.model, path)
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ExportError(
                f"onnx's checker refuses the file: {one_line(error)}; this is a bug in mixq"
            ) from error
        return written

    def open(self, path: Path, *, threads: int = 1) -> OnnxSession:
        """Load a file in ONNX Runtime's CPU."""
        return OnnxSession(path, threads=threads)

    def _weigh(self, source: Source, graph: FloatGraph) -> Written:
        initializers = graph.model.graph.initializers
        parts = tuple(f"{unit}.{part}" for unit in graph.weights
                      for part in ("codes", "scales", "zeros", "half"))  # fmt: skip
        plain = [name for name in source.plain if name in initializers]
        sizes = {
            name: value.const_value.nbytes
            for name, value in initializers.items()
            if value.const_value is not None
        }
        units = [source.units[name] for name in graph.weights]
        predicted = sum(map(stored_bytes, units))
        predicted += sum(source.plain[name].nbytes for name in plain)
        wider = sum(stored_bytes(unit) - unit.packed.stored_bytes for unit in units)
        notes = [*graph.notes, "untested on TensorRT's and QNN's hardware"]
        if wider:
            notes.append(f"scales take 4 bytes here and 2 in the plan: {wider:,} bytes more")
        for target in get_args(limits.Target)[1:]:
            reasons = list(limits.refusals(source.units, target))
            if reasons:
                more = f" (and {len(reasons) - 1} more layers)" if len(reasons) > 1 else ""
                notes.append(f"{reasons[0]}{more}")
        return Written(
            tensor_bytes=sum(sizes[name] for name in parts if name in sizes)
            + sum(sizes[name] for name in plain),
            predicted_bytes=predicted,
            tolerance=INT8_TOLERANCE,
            notes=tuple(notes),
        )
