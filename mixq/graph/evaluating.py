"""Eval mode for a while: how mixq runs a model that is somebody else's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode is put back afterwards.

    Only the flag is set: a model whose `eval()` does more (merging branches, say) stays as it is.
    Random numbers of the processor start from one seed and are put back too, so that a model that
    draws some in its forward draws the same in every pass.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(0)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_rng_state(state)
        for module in training:
            module.training = True
