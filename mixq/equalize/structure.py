"""Structure: what folding changes of a model beside its numbers, for who brings the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mixq.equalize.equalization import Equalization
from mixq.errors import ModelError

FoldedNames = tuple[str, str]
"""Path of a batch norm that is gone, and name of the bias that took over its shift."""


def folded_names(equalization: Equalization) -> list[FoldedNames]:
    """The folds by name."""
    return [(fold.norm, fold.bias) for fold in equalization.folds]


def restructure(
    model: nn.Module, folds: Sequence[FoldedNames], tensors: Mapping[str, Tensor]
) -> None:
    """Put `nn.Identity` in place of folded batch norms, in place, and biases where none were.

    Args:
        model: of the architecture before folding; its numbers do not matter.
        folds: as `folded_names` gave them.
        tensors: by name, for the biases' shapes and dtypes.

    Raises:
        ModelError: if the model lacks one of them.
    """
    for norm, bias in folds:
        path, _, leaf = norm.rpartition(".")
        owner_path, _, name = bias.rpartition(".")
        try:
            parent, owner = model.get_submodule(path), model.get_submodule(owner_path)
        except AttributeError:
            parent = owner = nn.Module()
        if leaf not in parent._modules or name not in owner._parameters or bias not in tensors:
            raise ModelError(
                f"a batch norm {norm!r:.100} was folded into {bias!r:.100}, which the model "
                "lacks; pass the architecture that the plan was made for"
            )
        parent._modules[leaf] = nn.Identity().train(parent._modules[leaf].training)  # type: ignore[union-attr]
        if owner._parameters[name] is None:
            owner._parameters[name] = nn.Parameter(torch.zeros_like(tensors[bias]))
