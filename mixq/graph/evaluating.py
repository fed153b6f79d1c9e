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
    Random numbers start from one seed and are put back too, so that a model that draws some in its
    forward draws the same in every pass. On CUDA, convolutions give the same bits in every pass,
    and all 24 of float32.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(0)
    try:
        with torch.no_grad(), _cuda_put_back():
            yield
    finally:
        torch.set_rng_state(state)
        for module in training:
            module.training = True


@contextlib.contextmanager
def _cuda_put_back() -> Iterator[None]:
    if not torch.cuda.is_initialized():
        yield
        return
    states = torch.cuda.get_rng_state_all()
    torch.cuda.manual_seed_all(0)
    enabled = torch.backends.cudnn.enabled
    try:
        with torch.backends.cudnn.flags(
            enabled=enabled, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.cuda.set_rng_state_all(states)
