"""Runtime: what every export target does; one module of this room per target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from torch import Tensor

from mixq.batch import Batch
from mixq.export.source import Source

FLOAT_TOLERANCE = 1e-3
"""Largest relative difference of outputs where the runtime's activations are floats."""
INT8_TOLERANCE = 2e-2
"""The same where its kernels round activations to 8 bits; see `rounded_tolerance`."""
UNIT_ERROR = 5e-3
"""What one layer's rounded activations may add to the output, relative.

Measured with MatMulNBits on MiniLM (0.0283 of 36 layers) and SmolLM2 (0.044 of 211): layers round
independently of each other, so that squares add up, and one adds 0.0047 and 0.003.
"""


def rounded_tolerance(units: int) -> float:
    """Tolerance of outputs where a user asks for rounded activations in so many layers."""
    return max(INT8_TOLERANCE, UNIT_ERROR * math.sqrt(units))


@dataclass(frozen=True)
class Written:
    """What an exporter put into a file or folder.

    Attributes:
        tensor_bytes: of all tensors in it: codes, scales, zero points and all that stays plain.
        predicted_bytes: what they should take, from the plan and the runtime's way of storing
            formats alone; verified to 0.5%.
        tolerance: largest relative root mean square difference of the outputs from those of
            the applied plan: `FLOAT_TOLERANCE`, `INT8_TOLERANCE`, or more where a runtime's own
            arithmetic was measured to need it and its module says so.
        notes: what a user should know, a sentence each: formats that were mapped up, tensors
            that the file does not need, kernels that are slow.
        blocks: units whose kernels the exporter chose: columns that share one range of the rounded
            activations, 0 where these stay floats.
    """

    tensor_bytes: int
    predicted_bytes: int
    tolerance: float
    notes: tuple[str, ...] = ()
    blocks: Mapping[str, int] = field(default_factory=dict)


class Session(Protocol):
    """A file that a runtime has loaded."""

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The outputs for a batch, by the names of `mixq.sensitivity.outputs.floating_outputs`.

        `output` for a model that returns one tensor, else `logits`, `last_hidden_state`, `0`...
        """
        ...

    def close(self) -> None:
        """Free what the runtime holds."""
        ...


class Runtime(Protocol):
    """A target of `mixq export`.

    Attributes:
        name: as `--runtime` takes it.
        extra: which extra of mixq installs what it needs.
        is_folder: whether it writes a folder in place of a file.
        suffix: of the file, or of the folder, as in `model.onnx`.
    """

    name: ClassVar[str]
    extra: ClassVar[str]
    is_folder: ClassVar[bool]
    suffix: ClassVar[str]

    def check(self, source: Source) -> None:
        """Refuse early what this runtime cannot take.

        Raises:
            ExportError: a width, a group size, an architecture, with the legal choices.
            MissingExtraError: if the runtime is not installed.
        """
        ...

    def write(self, source: Source, path: Path) -> Written:
        """Write to `path`, a temporary place that the caller renames once it is verified."""
        ...

    def open(self, path: Path, *, threads: int = 1) -> Session:
        """Load what `write` wrote in the real runtime.

        Raises:
            ExportError: if it does not load, with the runtime's reason in one line.
            MissingExtraError: if the runtime is not installed.
        """
        ...
