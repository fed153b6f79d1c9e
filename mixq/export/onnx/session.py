"""OnnxSession: a file that ONNX Runtime has loaded on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixq.batch import Batch
from mixq.errors import ExportError, MissingExtraError
from mixq.export.feed import feed
from mixq.files import one_line


class OnnxSession:
    """A file or serialized model in ONNX Runtime.

    Args:
        file: its path, or its bytes.
        threads: that one call may use.
        profile: prefix of a file that ONNX Runtime writes its own timings to, see `profile`.

    Raises:
        ExportError: if ONNX Runtime does not load it.
        MissingExtraError: without onnxruntime.
    """

    def __init__(
        self, file: Path | bytes, *, threads: int = 1, profile: str | None = None
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "onnx", "running an ONNX file") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # what fails is raised as well, and one line is enough
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, profile
        what = file if isinstance(file, bytes) else str(file)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                what, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its classes are private, and none is a bug of ours alone
            where = "the graph" if isinstance(file, bytes) else one_line(file)
            raise ExportError(
                f"{where} does not load in ONNX Runtime {onnxruntime.__version__}: "
                f"{one_line(error)}"
            ) from error
        self.input_names: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The outputs by name; tensors are taken by name, or in the order of the graph's inputs.

        Raises:
            ExportError: if the graph does not take the batch.
        """
        arrays = feed(batch, self.input_names)
        try:
            outputs = self._session.run(list(self.output_names), arrays)
        except Exception as error:  # as above
            raise ExportError(f"ONNX Runtime cannot run the batch: {one_line(error)}") from error
        return {
            name: torch.from_numpy(value)
            for name, value in zip(self.output_names, outputs, strict=True)
        }

    def profile(self) -> Path:
        """Stop timing and return the file of timings, one JSON object per kernel call."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Free the session."""
        self._session = None
