"""Bias: the parameter that can take back the mean shift of a unit's output."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from mixq.errors import FormatError
from mixq.graph.units import WeightUnit
from mixq.moments.moments import Moments
from mixq.quantize.rounding import bias_shift


def find_biases(model: nn.Module, units: Mapping[str, WeightUnit]) -> dict[str, str]:
    """Unit name to the name of its module's bias, where each row of the unit has one of its own.

    Only linear layers and convolutions whose weight and bias belong to them alone.
    """
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    found = {}
    for name, unit in units.items():
        path, _, leaf = name.rpartition(".")
        if leaf != "weight" or unit.aliases:
            continue
        module = model.get_submodule(path)
        if not isinstance(module, nn.Linear | _ConvNd) or isinstance(module, _ConvTransposeNd):
            continue
        bias = module._parameters.get("bias")
        if bias is not None and bias.numel() == unit.rows and uses[id(bias)] == 1:
            found[name] = f"{path}.bias" if path else "bias"
    return found


def corrected_bias(
    bias: Tensor, weight: Tensor, rounded: Tensor, unit: WeightUnit, moments: Moments | None
) -> Tensor:
    """The bias with which the unit's mean output on calibration data is the original's.

    Raises:
        FormatError: if the unit's inputs are not known.
    """
    if moments is None:
        raise FormatError(
            f"the bias of {unit.name} cannot be corrected, because what enters it is not known; "
            "use the format without -bc"
        )
    matrix = (unit.rows, unit.columns)
    shift = bias_shift(weight.reshape(matrix), rounded.reshape(matrix), moments.mean)
    return (bias.detach().to(torch.float32) + shift).to(bias.dtype)
