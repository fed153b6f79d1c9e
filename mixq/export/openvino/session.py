"""OpenvinoSession: an IR file that OpenVINO has compiled for the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixq.batch import Batch
from mixq.errors import ExportError, MissingExtraError
from mixq.export.feed import feed
from mixq.files import one_line


class OpenvinoSession:
    """A file in OpenVINO.

    Args:
        file: the .xml; its .bin lies beside it.
        threads: that one call may use.

    Raises:
        ExportError: if OpenVINO does not load it.
        MissingExtraError: without openvino.
    """

    def __init__(self, file: Path, *, threads: int = 1) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("openvino", "openvino", "running an OpenVINO file") from error
        # Where the chip has bfloat16, OpenVINO would compute in it: another model than measured.
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            self._model: Any = openvino.Core().compile_model(str(file), "CPU", options)
        except RuntimeError as error:
            raise ExportError(
                f"{one_line(file)} does not load in OpenVINO {openvino.__version__}: "
                f"{one_line(error)}"
            ) from error
        self.input_names: tuple[str, ...] = tuple(i.any_name for i in self._model.inputs)
        self.output_names: tuple[str, ...] = tuple(o.any_name for o in self._model.outputs)

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The outputs by name; tensors are taken by name, or in the order of the graph's inputs.

        Raises:
            ExportError: if the graph does not take the batch.
        """
        arrays = feed(batch, self.input_names)
        try:
            results = self._model(arrays)
        except RuntimeError as error:
            raise ExportError(f"OpenVINO cannot run the batch: {one_line(error)}") from error
        return {
            name: torch.from_numpy(results[index].copy())
            for index, name in enumerate(self.output_names)
        }

    def kernels(self) -> dict[str, str]:
        """Which primitive and weight precision each executed matrix product and lookup has."""
        found = {}
        for node in self._model.get_runtime_model().get_ops():
            info = {
                key: node.get_rt_info()[key].astype(str)
                for key in ("layerType", "primitiveType", "runtimePrecision")
            }
            if info["layerType"] in ("FullyConnected", "MatMul", "Gather", "Convolution"):
                kind = f"{info['layerType']} {info['primitiveType']} {info['runtimePrecision']}"
                found[node.get_friendly_name()] = kind
        return found

    def close(self) -> None:
        """Free the compiled model."""
        self._model = None
