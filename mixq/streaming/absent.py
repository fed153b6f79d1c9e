"""Absent: a parameter that has a shape and no data, and says so when it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from mixq.errors import ModelError

LOOKS: Final = frozenset({"__get__", "dim", "numel", "size", "element_size", "is_floating_point"})
"""What may be asked of it: attributes and sizes."""


class Absent(nn.Parameter):
    """Lies on the meta device, whose tensors torch multiplies with real ones to garbage."""

    @classmethod
    def of(cls, parameter: Tensor) -> Self:
        """In place of a parameter of the same shape, dtype and wish for gradients."""
        meta = parameter.detach().to("meta")
        made: Self = torch.Tensor._make_subclass(cls, meta, parameter.requires_grad)
        return made

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        _types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Refuse everything but looks.

        Raises:
            ModelError: for an operation.
        """
        if func.__name__ in LOOKS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        raise ModelError(
            "weights are used without calling the module that they belong to, so they are not in "
            "memory; analyze this model without --stream"
        )


def without_data(model: nn.Module) -> None:
    """Put absent parameters in place of all that `model` has; what is tied stays tied."""
    made: dict[nn.Parameter, Absent] = {}
    for module in model.modules():
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter not in made:
                made[parameter] = Absent.of(parameter)
            module._parameters[leaf] = made[parameter]
