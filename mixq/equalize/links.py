"""Links: channels that are made in one place and read in known places only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixq.equalize.flow import Flow, follow
from mixq.equalize.rules import SCALE_RULES
from mixq.equalize.scaling import Part, Purpose, Scaling
from mixq.equalize.sites import Site


@dataclass(frozen=True, eq=False)
class Link:
    """A producer of channels and all that reads them; any positive factors may go between.

    Attributes:
        producer: the operation whose outputs they are.
        consumers: the products that read them.
        alive: whether each channel may be scaled, bool of shape (channels,).
    """

    producer: Site
    consumers: tuple[Site, ...]
    alive: Tensor

    def scaling(self, purpose: Purpose, factor: Tensor) -> Scaling:
        """The scaling by `factor`, shape (channels,), which must be 1 where `alive` is not."""
        return Scaling(purpose, factor.float(), self.producing(), self.consuming())

    def producing(self) -> tuple[Part, ...]:
        """Weight and bias of the producer."""
        site = self.producer
        channels = torch.arange(site.channels)
        parts = []
        if site.weight is not None:
            parts.append(Part(site.weight, site.layout.index(channels, site.layout.outputs)))
        if site.bias is not None:
            parts.append(Part(site.bias, channels.to(torch.int32)))
        return tuple(parts)

    def consuming(self) -> tuple[Part, ...]:
        """Weights of the consumers."""
        return tuple(
            Part(site.weight, site.layout.index(site.reads(self.producer), site.layout.inputs))
            for site in self.consumers
            if site.weight is not None and site.layout.inputs is not None
        )


def find_links(model: nn.Module, run: Callable[[], object]) -> tuple[list[Link], tuple[str, ...]]:
    """The links of `model` along `run()`, one forward pass, in its order.

    Returns:
        The links, and for every other weight whose outputs cannot be scaled the reason.
    """
    flow = follow(model, run, SCALE_RULES, is_affine=False)
    links, skipped = [], []
    for site in flow.sites:
        if site.weight is None:
            continue
        consumers, is_read = _consumers(flow, site)
        alive = flow.alive(site) & is_read
        if bool(alive.any()):
            links.append(Link(site, consumers, alive))
        else:
            cause = flow.cause(site) or "nothing reads its outputs"
            skipped.append(f"outputs of {site.weight} not scaled: {cause}")
    return links, tuple(skipped)


def _consumers(flow: Flow, producer: Site) -> tuple[tuple[Site, ...], Tensor]:
    is_read = torch.zeros(producer.channels + 1, dtype=torch.bool)
    consumers = []
    for site in flow.sites:
        channels = site.reads(producer)
        if bool((channels < producer.channels).any()):
            is_read[channels] = True
            consumers.append(site)
    return tuple(consumers), is_read[:-1]
