"""openvino: an IR file of mixed widths, read by OpenVINO's `compile_model`."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from mixq.errors import ExportError, MissingExtraError, OutputError, UsageError
from mixq.export.onnx.file import save
from mixq.export.onnx.graph import FloatGraph, as_inputs, float_graph
from mixq.export.openvino.decompression import Decompression, is_packed, predicted_bytes
from mixq.export.openvino.session import OpenvinoSession
from mixq.export.runtime import (
    FLOAT_TOLERANCE,
    INT8_TOLERANCE,
    Written,
    rounded_tolerance,
)
from mixq.export.source import Source
from mixq.export.verify import output_difference
from mixq.files import one_line
from mixq.workshop import scratch

_GROUP = ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"]
"""What OpenVINO's CPU plug-in reads from the file itself (2026.4, Config::applyRtInfo)."""


class Openvino:
    """OpenVINO on CPUs; weights are compressed, activations stay floats.

    Its packed matrix products with zero points round activations to 8 bits by groups of 32 where
    the chip has integer dot products, as OpenVINO decides itself; a file may ask it not to.

    Args:
        activations: `auto` lets OpenVINO round where outputs keep their tolerance, `int8` always
            and with a wider one, `float` never, which gives the plan's outputs up to float sums.

    Raises:
        UsageError: for another word.
    """

    name: ClassVar[str] = "openvino"
    extra: ClassVar[str] = "openvino"
    suffix: ClassVar[str] = ".xml"
    is_folder: ClassVar[bool] = False

    def __init__(self, activations: str = "auto") -> None:
        if activations not in ("auto", "int8", "float"):
            raise UsageError(f"activations is {activations!r:.40}, but it takes auto, int8, float")
        self.activations = activations

    def check(self, source: Source) -> None:
        """Refuse what a weight-compressed file cannot say.

        Raises:
            ExportError: if a format rounds activations.
        """
        for name, unit in source.units.items():
            fmt = unit.packed.format
            if fmt.activation != "none":
                raise ExportError(
                    f"layer {name!r:.100} is planned as {fmt.name}, but an OpenVINO file of "
                    "compressed weights does not round activations; search with --activations "
                    "none, or export to onnxruntime"
                )

    def write(self, source: Source, path: Path) -> Written:
        """Trace the model, let OpenVINO read it, put packed constants where weights were.

        Raises:
            ExportError: if the model cannot be traced, or the file's name does not end in .xml.
            MissingExtraError: without openvino.
        """
        if find_spec("openvino") is None:
            raise MissingExtraError("openvino", "openvino", "an OpenVINO file")
        if path.suffix != ".xml":
            raise ExportError(
                f"{path.name!r:.100} is no name for an OpenVINO file, which ends in .xml and has "
                "its weights in a .bin beside it; choose such a name"
            )
        graph = float_graph(source)
        # OpenVINO maps what it reads from files, so that they have to outlive the model.
        with scratch("mixq-openvino") as folder:
            return self._write(source, graph, _read(graph, folder), path)

    def _write(self, source: Source, graph: FloatGraph, model: Any, path: Path) -> Written:
        parameters = {node.get_friendly_name(): node for node in model.get_parameters()}
        decompression = Decompression()
        for unit, name in graph.weights.items():
            parameter = parameters[name]
            _replace(parameter, decompression.weights(source.units[unit]))
            model.remove_parameter(parameter)
        model.validate_nodes_and_infer_types()
        if self.activations == "float":
            model.set_rt_info("0", _GROUP)
        _save(model, path)
        written = _weigh(source, graph, model, decompression.stored_bytes)
        if self.activations == "auto":
            session = self.open(path)
            difference = output_difference(source, session)
            session.close()
            if difference > written.tolerance:
                model.set_rt_info("0", _GROUP)
                _save(model, path)
                note = (
                    f"activations stay floats: rounded as OpenVINO does, outputs would differ by "
                    f"{difference:.1%}"
                )
                return replace(written, notes=(*written.notes, note))
        elif self.activations == "int8":
            return replace(written, tolerance=rounded_tolerance(len(graph.weights)))
        return written

    def open(self, path: Path, *, threads: int = 1) -> OpenvinoSession:
        """Load a file in OpenVINO."""
        return OpenvinoSession(path, threads=threads)


def _save(model: Any, path: Path) -> None:
    """Write a model.

    Raises:
        OutputError: if it cannot be written, for which OpenVINO has no other error than these.
    """
    import openvino

    for index, node in enumerate(model.get_ordered_ops()):
        # Names that OpenVINO makes up count what the process has made: bytes would differ.
        if node.get_friendly_name() == node.get_name():
            node.set_friendly_name(f"{node.get_type_name()}_{index}")
    try:
        openvino.save_model(model, str(path), compress_to_fp16=False)
    except RuntimeError as error:
        raise OutputError(
            f"OpenVINO cannot write {one_line(path.name)}: {one_line(error)}; make room or choose "
            "another place"
        ) from error


def _read(graph: FloatGraph, folder: Path) -> Any:
    """The graph in OpenVINO, with its units' weights as parameters."""
    import openvino

    path = folder / "float.onnx"
    with as_inputs(graph.model, graph.weights.values()):
        save(graph.model, path)
    return openvino.Core().read_model(path)


def _replace(parameter: Any, weights: Any) -> None:
    """Let everything that reads a parameter read `weights`.

    A product with the transposed weights becomes one that transposes them itself, which is the
    pattern that OpenVINO's kernels know.
    """
    from openvino import opset15 as ops

    for target in list(parameter.output(0).get_target_inputs()):
        node = target.get_node()
        products = [
            user
            for user in (t.get_node() for t in node.output(0).get_target_inputs())
            if user.get_type_name() == "MatMul"
        ]
        if node.get_type_name() != "Transpose" or not products:
            continue
        for product in products:
            if product.input_value(1).get_node() != node:
                continue
            flags = product.get_attributes()
            new = ops.matmul(
                product.input_value(0), weights, flags["transpose_a"], not flags["transpose_b"]
            )
            new.set_friendly_name(product.get_friendly_name())
            for user in list(product.output(0).get_target_inputs()):
                user.replace_source_output(new.output(0))
    for target in list(parameter.output(0).get_target_inputs()):
        target.replace_source_output(weights.output(0))


def _weigh(source: Source, graph: FloatGraph, model: Any, unit_bytes: int) -> Written:
    """Bytes of the constants against the prediction."""
    constants = {
        node.get_friendly_name(): node.get_byte_size()
        for node in model.get_ops()
        if node.get_type_name() == "Constant"
    }
    plain = [name for name in source.plain if name in constants]
    repeated = sum(
        predicted_bytes(source.units[name]) - source.units[name].packed.stored_bytes
        for name in graph.weights
    )
    notes = list(graph.notes)
    if repeated:
        notes.append(
            f"{repeated:,} bytes more than the plan stores: OpenVINO's kernels take groups of a "
            "power of two that divides the row, so scales are repeated for smaller ones"
        )
    units = [source.units[name] for name in graph.weights]
    matrices = [unit for unit in units if len(unit.packed.shape) == 2 and not unit.is_float]
    slow = [unit.name for unit in matrices if not is_packed(unit)]
    if slow:
        more = " ..." if len(slow) > 3 else ""
        notes.append(
            f"{len(slow)} of {len(matrices)} matrices have no packed kernel in OpenVINO and take "
            f"4 bytes per weight once they are loaded: {', '.join(slow[:3])}{more}"
        )
    rounds = any(is_packed(unit) and unit.zeros is not None for unit in matrices)
    return Written(
        tensor_bytes=unit_bytes + sum(constants[name] for name in plain),
        predicted_bytes=sum(map(predicted_bytes, units))
        + sum(source.plain[name].nbytes for name in plain),
        tolerance=INT8_TOLERANCE if rounds else FLOAT_TOLERANCE,
        notes=tuple(notes),
    )
