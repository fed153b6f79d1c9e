"""LoadedModel: what a model spec stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import nn

    from mixq.calibration import Calibration

    Evaluate: TypeAlias = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model with what its spec brought along.

    Attributes:
        name: `demo`, the spec of a function, or the name of a folder or file.
        model: in eval mode.
        calibration: inputs of the model; None if the spec has none.
        evaluate: metrics of a model on labelled data, higher or lower as the metric has it; an
            attribute `primary` names the headline metric. None if the spec has none.
        folder: the Hugging Face folder that the model came from, where its tokenizer lies.
        batch_size: samples of the only batches that the model takes; None if any will do.
    """

    name: str
    model: nn.Module
    calibration: Calibration | None = None
    evaluate: Evaluate | None = None
    folder: Path | None = None
    batch_size: int | None = None
