"""Folding: a batch norm in eval mode becomes part of the convolution or linear layer beside it.

In eval mode y = x * a + b per channel, with a = gamma / sqrt(var + eps), b = beta - mean * a
(Ioffe and Szegedy, "Batch Normalization", ICML 2015, algorithm 2, step 11).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from mixq.equalize.flow import Flow, follow
from mixq.equalize.rules import AFFINE_RULES
from mixq.equalize.scaling import Part
from mixq.equalize.sites import Site
from mixq.graph.copying import copied

Side = Literal["before", "after"]


@dataclass(frozen=True, eq=False)
class Fold:
    """A batch norm and the layer that takes it over.

    Attributes:
        norm: path of the batch norm, which becomes `nn.Identity`.
        side: whether the layer comes `before` or `after` the batch norm.
        weight: of the layer, by output channel if it comes before, else by input channel.
        bias: name of the layer's bias, which is added if it has none.
    """

    norm: str
    side: Side
    weight: Part
    bias: str

    def fold(self, model: nn.Module) -> None:
        """Fold it in place, in double precision and rounded once."""
        norm = model.get_submodule(self.norm)
        assert is_batch_norm(norm)
        weight = model.get_parameter(self.weight.name)
        factor, shift = (item.to(weight.device) for item in affine_map(norm))
        matrix = weight.detach().double()
        bias = _bias(model, self.bias, len(factor) if self.side == "before" else len(weight))
        offset = bias.detach().double()
        if self.side == "before":
            offset = offset * factor + shift
        else:
            offset = offset + _sums(matrix * self.weight.of(shift, 0.0))
        with torch.no_grad():
            bias.copy_(offset)
            weight.copy_(matrix * self.weight.of(factor, 1.0))
        path, _, leaf = self.norm.rpartition(".")
        model.get_submodule(path)._modules[leaf] = nn.Identity().train(norm.training)


def find_folds(
    model: nn.Module, run: Callable[[nn.Module], object]
) -> tuple[list[Fold], tuple[str, ...]]:
    """The batch norms that can be folded, along one forward pass, in its order.

    Args:
        model: any module, left as it is.
        run: calls a copy of it, in which every layer without a bias has one of zeros.

    Returns:
        The folds, and for every other batch norm the reason.
    """
    biased = copied(model)
    _add_biases(biased)
    flow = follow(biased, lambda: run(biased), AFFINE_RULES, is_affine=True)
    folds, skipped = [], []
    for site in flow.sites:
        if site.kind == "batch norm":
            found = _fold(flow, site, model)
            if isinstance(found, Fold):
                folds.append(found)
            else:
                skipped.append(f"batch norm in {site.module or 'the model'} not folded: {found}")
    return folds, tuple(skipped)


def is_batch_norm(module: nn.Module | None) -> TypeGuard[_BatchNorm]:
    """Whether it is a batch norm that keeps statistics, and nothing more."""
    if not isinstance(module, _BatchNorm) or module.running_mean is None:
        return False
    return type(module).forward is _BatchNorm.forward


def affine_map(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """A and b of y = x * a + b, float64 of shape (channels,)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = 1 / (norm.running_var.detach().double() + norm.eps).sqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    shift = -norm.running_mean.detach().double() * factor
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return factor, shift


def _fold(flow: Flow, site: Site, model: nn.Module) -> Fold | str:
    """How to fold the batch norm that ran at `site`, or why it stays."""
    norm = model.get_submodule(site.module)
    if not is_batch_norm(norm):
        return f"{type(norm).__name__} computes more than a batch norm"
    statistics = (f"{site.module}.running_mean", f"{site.module}.running_var")
    cause = flow.refusal(site.weight, site.bias, *statistics)
    if cause is not None:
        return cause
    if not all(bool(item.isfinite().all()) for item in affine_map(norm)):
        return "its variance makes its factors infinite"
    before = _before(flow, site)
    if isinstance(before, Fold):
        return before
    after = _after(flow, site)
    return after if isinstance(after, Fold) else f"before it, {before}; after it, {after}"


def _before(flow: Flow, norm: Site) -> Fold | str:
    channels = torch.arange(norm.channels)
    for site in flow.sites:
        if site.kind in ("linear", "convolution") and torch.equal(norm.reads(site), channels):
            if site.channels != norm.channels or not bool(flow.alive(site).all()):
                return f"{site.weight}: {flow.cause(site) or 'other channels follow'}"
            if len(_readers(flow, site)) > 1:
                return f"{site.weight}: another batch norm reads it too"
            if site.bias is None or site.weight is None:
                return f"{site.weight}: its module has no place for a bias"
            index = site.layout.index(channels, site.layout.outputs)
            return Fold(norm.module, "before", Part(site.weight, index), site.bias)
    return "no convolution or linear layer makes its channels"


def _after(flow: Flow, norm: Site) -> Fold | str:
    cause = flow.cause(norm)
    if cause is not None:
        return cause
    readers = _readers(flow, norm)
    if len(readers) != 1 or readers[0].kind not in ("linear", "convolution"):
        return f"{len(readers)} convolutions or linear layers read it"
    site = readers[0]
    if site.is_padded:
        return f"{site.weight}: the padding of a convolution is not shifted"
    if site.bias is None or site.weight is None or site.layout.inputs != 1:
        return f"{site.weight}: its module has no place for a bias"
    index = site.layout.index(site.reads(norm), site.layout.inputs)
    return Fold(norm.module, "after", Part(site.weight, index), site.bias)


def _readers(flow: Flow, producer: Site) -> list[Site]:
    return [site for site in flow.sites if bool((site.reads(producer) < producer.channels).any())]


def _add_biases(model: nn.Module) -> None:
    """Zeros as the bias of every layer without one, to see whether its forward reads a bias."""
    for path, module in model.named_modules():
        if isinstance(module, _ConvNd):
            outputs = module.out_channels
        elif isinstance(module, nn.Linear):
            outputs = module.out_features
        else:
            continue
        prefix = f"{path}." if path else ""
        if isinstance(module._parameters.get("weight"), nn.Parameter):
            _bias(model, f"{prefix}bias", outputs)


def _bias(model: nn.Module, name: str, outputs: int) -> Tensor:
    """The bias of this name, added as zeros of shape (outputs,) if its module has none."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if owner._parameters.get(leaf, owner) is None:
        weight = owner.get_parameter("weight")
        zeros = torch.zeros(outputs, dtype=weight.dtype, device=weight.device)
        owner.register_parameter(leaf, nn.Parameter(zeros, requires_grad=weight.requires_grad))
    return model.get_parameter(name)


def _sums(matrix: Tensor) -> Tensor:
    """Sums of the rows, exact and then rounded once, so that they are the same on every chip."""
    rows = matrix.reshape(len(matrix), -1).cpu().tolist()
    return torch.tensor([math.fsum(row) for row in rows], dtype=torch.float64).to(matrix.device)
