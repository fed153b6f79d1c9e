"""Input scaling: channels with large inputs get more of the grid of the weights that meet them.

Source: Lin et al., "AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and
Acceleration", MLSys 2024, section 3.2: s = (mean |x|)^alpha per input channel, alpha from a grid
by the error that is left. As in its code, s is divided by sqrt(max s * min s). Here the error of
the weights is weighted by the mean square of their inputs, the diagonal of what they do to the
output, instead of running the layers again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mixq.batch import call
from mixq.calibration import Calibration
from mixq.equalize.links import Link
from mixq.equalize.scaling import Part, Scaling
from mixq.equalize.sites import Site
from mixq.graph.evaluating import evaluating
from mixq.graph.find import matrix_view

RoundTrip = Callable[[Tensor, int, int], Tensor]
"""`round_trip(weight, rows, columns)`: the weight as it comes back from its format."""

ALPHAS: Final = tuple(step / 10 for step in range(11))
"""Exponents that are tried; 0 changes nothing."""
SMALLEST: Final = 1e-4
"""Smallest mean |x|^alpha, as in AWQ's code: a silent channel must not divide by nought."""


@dataclass(slots=True)
class _Inputs:
    """Sums over all positions, float64 of shape (channels,)."""

    magnitude: Tensor
    square: Tensor
    count: int = 0

    @classmethod
    def none(cls, channels: int) -> _Inputs:
        """Before the first position."""
        zeros = torch.zeros(channels, dtype=torch.float64)
        return cls(zeros, zeros.clone())


def scale_inputs(
    model: nn.Module, calibration: Calibration, links: Sequence[Link], round_trip: RoundTrip
) -> tuple[list[Scaling], tuple[str, ...]]:
    """Scalings that protect the weights with large inputs, one for every link that profits.

    Returns:
        The scalings, and for every other link the reason.
    """
    inputs = _gather(model, calibration, links)
    weights = {
        part.name: model.get_parameter(part.name).detach().cpu().clone()
        for link in links
        for part in (*link.producing(), *link.consuming())
    }
    scalings, skipped = [], []
    for link in links:
        unseen = [s.weight for s in link.consumers if _owner(s) not in inputs]
        if unseen:
            skipped.append(f"inputs of {unseen[0]} not scaled: no module is called with them")
            continue
        factor = _best(link, inputs, weights, model, round_trip)
        if factor is None:
            skipped.append(f"outputs of {link.producer.weight} not scaled: nothing to gain")
            continue
        scaling = link.scaling("input", factor)
        scaling.scale(weights)
        scalings.append(scaling)
    return scalings, tuple(skipped)


def _best(
    link: Link,
    inputs: dict[str, _Inputs],
    weights: dict[str, Tensor],
    model: nn.Module,
    round_trip: RoundTrip,
) -> Tensor | None:
    """The factor of the alpha with the least error; None if that is no scaling at all."""
    magnitude = _mean_magnitude(link, inputs)
    least, best = torch.inf, None
    for alpha in ALPHAS:
        factor = _factor(magnitude, alpha, link.alive)
        error = 0.0
        for site, part in zip(link.consumers, link.consuming(), strict=True):
            weight = weights[part.name]
            scale = part.of(factor, 1.0)
            owner = model.get_submodule(_owner(site))
            view = matrix_view(tuple(weight.shape), is_convolution=isinstance(owner, _ConvNd))
            back = round_trip((weight * scale).to(weight.dtype), *view) / scale
            error += float(((back - weight).square() * _mean_square(site, inputs)).sum())
        if error < least:
            least, best = error, None if alpha == 0 else factor
    return best


def _factor(magnitude: Tensor, alpha: float, alive: Tensor) -> Tensor:
    """S of one alpha, float32 of shape (channels,)."""
    factor = magnitude.pow(alpha).clamp(min=SMALLEST)
    factor = factor / (factor[alive].max() * factor[alive].min()).sqrt()
    return torch.where(alive, factor, 1.0).float()


def _mean_magnitude(link: Link, inputs: dict[str, _Inputs]) -> Tensor:
    """Mean |x| of each channel of the producer, over all that read it."""
    channels = link.producer.channels
    total = torch.zeros(channels + 1, dtype=torch.float64)
    count = torch.zeros(channels + 1, dtype=torch.float64)
    for site in link.consumers:
        seen = inputs[_owner(site)]
        index = site.reads(link.producer)
        total.index_add_(0, index, seen.magnitude / seen.count)
        count.index_add_(0, index, torch.ones_like(seen.magnitude))
    return (total / count.clamp(min=1))[:-1]


def _mean_square(site: Site, inputs: dict[str, _Inputs]) -> Tensor:
    """Mean square of the input that each weight of a consumer meets."""
    seen = inputs[_owner(site)]
    assert site.layout.inputs is not None
    index = site.layout.index(torch.arange(len(seen.square)), site.layout.inputs)
    return Part("", index).of((seen.square / seen.count).float(), 0.0)


def _gather(
    model: nn.Module, calibration: Calibration, links: Sequence[Link]
) -> dict[str, _Inputs]:
    """What the modules that own the consumers' weights are called with."""
    inputs: dict[str, _Inputs] = {}
    sites = {_owner(site): site for link in links for site in link.consumers}
    with evaluating(model), _watched(model, sites, inputs):
        for batch in calibration.batches:
            call(model, batch)
    return inputs


@contextlib.contextmanager
def _watched(
    model: nn.Module, sites: dict[str, Site], inputs: dict[str, _Inputs]
) -> Iterator[None]:
    def watcher(path: str, site: Site) -> Callable[[nn.Module, tuple[object, ...]], None]:
        axis = 1 if site.kind == "convolution" else -1
        channels = 0 if site.inputs is None else len(site.inputs)

        def watch(_module: nn.Module, args: tuple[object, ...]) -> None:
            x = args[0] if args else None
            if not isinstance(x, Tensor) or x.dim() < 2 or x.shape[axis] != channels:
                return
            flat = x.detach().movedim(axis, -1).reshape(-1, channels).double().cpu()
            seen = inputs.setdefault(path, _Inputs.none(channels))
            seen.magnitude += flat.abs().sum(0)
            seen.square += flat.square().sum(0)
            seen.count += len(flat)

        return watch

    handles = [
        model.get_submodule(path).register_forward_pre_hook(watcher(path, site))
        for path, site in sites.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _owner(site: Site) -> str:
    return "" if site.weight is None else site.weight.rpartition(".")[0]
