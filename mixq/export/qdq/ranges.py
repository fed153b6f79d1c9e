"""Ranges of the outputs of quantized modules, observed on calibration data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mixq.activations.fake import input_steps
from mixq.batch import call
from mixq.export.source import Source


def output_steps(source: Source) -> dict[str, tuple[float, int]]:
    """Scale and uint8 zero point of what each module with rounded inputs gives out, by unit.

    The ranges are the smallest and largest numbers on the whole calibration, stretched to zero.
    """
    owners = {}
    for name, unit in source.units.items():
        if unit.packed.format.activation == "static":
            owner = source.applied.get_submodule(name.rpartition(".")[0])
            owners[name] = owner
    ranges: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [owner.register_forward_hook(_observer(n, ranges)) for n, owner in owners.items()]
    try:
        with torch.no_grad():
            for batch in source.calibration.batches:
                call(source.applied, batch)
    finally:
        for handle in handles:
            handle.remove()
    steps = {}
    for name, (low, high) in ranges.items():
        scale, zero = input_steps(low, high)
        steps[name] = (float(scale), int(zero))
    return steps


def _observer(
    name: str, ranges: dict[str, tuple[Tensor, Tensor]]
) -> Callable[[nn.Module, Any, Any], None]:
    def observe(_module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            low, high = output.amin().float(), output.amax().float()
            if name in ranges:
                before = ranges[name]
                low, high = torch.minimum(low, before[0]), torch.maximum(high, before[1])
            ranges[name] = (low, high)

    return observe
