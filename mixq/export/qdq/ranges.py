"""Ranges of the outputs of quantized modules, observed on calibration data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from mixq.activations.fake import input_steps
from mixq.batch import call
from mixq.export.source import Source

Steps: TypeAlias = tuple[float, int]
"""Scale and uint8 zero point."""


@dataclass(frozen=True)
class OutputSteps:
    """Steps of what a module gives out, and of what its product is before the bias is added."""

    output: Steps
    product: Steps


def output_steps(source: Source) -> dict[str, OutputSteps]:
    """Steps of what each module with rounded inputs gives out, by unit.

    The ranges are the smallest and largest numbers on the whole calibration, stretched to zero.
    """
    ranges: dict[str, list[tuple[Tensor, Tensor]]] = {}
    handles = [
        source.applied.get_submodule(name.rpartition(".")[0]).register_forward_hook(
            _observer(name, ranges)
        )
        for name, unit in source.units.items()
        if unit.packed.format.activation == "static"
    ]
    try:
        with torch.no_grad():
            for batch in source.calibration.batches:
                call(source.applied, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: OutputSteps(*map(_steps, found)) for name, found in ranges.items()}


def _steps(found: tuple[Tensor, Tensor]) -> Steps:
    scale, zero = input_steps(*found)
    return float(scale), int(zero)


def _observer(
    name: str, ranges: dict[str, list[tuple[Tensor, Tensor]]]
) -> Callable[[nn.Module, Any, Any], None]:
    def observe(module: nn.Module, _args: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        bias, product = getattr(module, "bias", None), output
        if isinstance(bias, Tensor) and bias.shape == output.shape[-1:]:
            product = output - bias
        seen = [(item.amin().float(), item.amax().float()) for item in (output, product)]
        before = ranges.get(name, seen)
        ranges[name] = [
            (torch.minimum(low, old_low), torch.maximum(high, old_high))
            for (low, high), (old_low, old_high) in zip(seen, before, strict=True)
        ]

    return observe
