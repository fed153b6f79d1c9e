"""torch: the packed safetensors file of `mixq apply`, which `mixq.load` brings back."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixq.artifact import load, save
from mixq.batch import Batch, call
from mixq.errors import ExportError
from mixq.export.runtime import FLOAT_TOLERANCE, Written
from mixq.export.source import Source
from mixq.graph.copying import copied
from mixq.graph.state import stored_tensors
from mixq.sensitivity.outputs import floating_outputs


class Torch:
    """PyTorch itself: packed modules that dequantize at every use, small and not fast."""

    name: ClassVar[str] = "torch"
    extra: ClassVar[str] = ""
    suffix: ClassVar[str] = ".mixq.safetensors"
    is_folder: ClassVar[bool] = False

    def __init__(self) -> None:
        self._architecture: nn.Module | None = None

    def check(self, source: Source) -> None:
        """Everything is taken; the architecture is kept for `open`."""
        self._architecture = source.model

    def write(self, source: Source, path: Path) -> Written:
        """Write the artifact; its bytes are the plan's exactly."""
        return Written(
            tensor_bytes=save(source.applied, path),
            predicted_bytes=source.plan.predicted.weight_bytes,
            tolerance=FLOAT_TOLERANCE,
            notes=("weights are dequantized at every use; plan.compile(model) is faster",),
        )

    def open(self, path: Path, *, threads: int = 1) -> TorchSession:
        """Load an artifact into a copy of the architecture whose weights are zero.

        Raises:
            ExportError: if no model was checked: the file holds no code.
        """
        if self._architecture is None:
            raise ExportError(
                f"{path.name!r:.100} holds no architecture; load it with mixq.load(path, model)"
            )
        empty = copied(self._architecture)
        with torch.no_grad():
            for item in stored_tensors(empty):  # other buffers are the architecture's own
                item.tensor.zero_()
        return TorchSession(load(path, empty).eval())


class TorchSession:
    """A model in PyTorch."""

    def __init__(self, model: nn.Module) -> None:
        self._model: nn.Module | None = model

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The floating-point outputs by name."""
        assert self._model is not None
        with torch.no_grad():
            return floating_outputs(call(self._model, batch))

    def close(self) -> None:
        """Free the model."""
        self._model = None
