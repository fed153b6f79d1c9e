"""Metric: what a reference compares outputs by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor

from mixq.batch import Batch

Tensors: TypeAlias = Mapping[str, Tensor]
"""Outputs by name, see `mixq.sensitivity.outputs.floating_outputs`."""


class Distance(Protocol):
    """How far one output is from the original's, sample by sample.

    Duties: an output that has not changed has an error of exactly zero, no error is negative, and
    what an attention mask hides does not count, whatever stands there.

    Attributes:
        name: as the command line calls it.
    """

    name: ClassVar[str]

    def check(self, original: Tensor, batch: Batch) -> str | None:
        """Why the metric is not defined against this output, in words; None if it is."""
        ...

    def errors(self, changed: Tensor, original: Tensor, batch: Batch) -> Tensor:
        """Error of each sample, float64 of shape (samples,); one if samples are not counted."""
        ...

    def probe(self, original: Tensor, batch: Batch, signs: Tensor) -> Tensor:
        """Numbers v made of random signs, both in the output's shape, such that E[v v^T] = H / 2.

        H is the Hessian of the samples' mean error with respect to the output, at the original's:
        for a small change d of the output, E[(v . d)^2] is the error, to second order.
        """
        ...


class Metric(Protocol):
    """A distance of several outputs, or a user's loss.

    Duties: as a `Distance`'s, but that a loss may fall, and that what it counts is its own matter.
    """

    @property
    def name(self) -> str:
        """As the command line calls it, or a loss's own."""
        ...

    @property
    def is_signed(self) -> bool:
        """Whether errors may be negative."""
        ...

    @property
    def weights(self) -> Mapping[str, float] | None:
        """Of the outputs that are compared, by name; None for the main one, whatever it is."""
        ...

    @property
    def fingerprint(self) -> str:
        """Part of every key: what is measured by other metrics is not taken for this one's."""
        ...

    def pick(self, output: object) -> dict[str, Tensor]:
        """The tensors of a model's output that are compared.

        Raises:
            ModelError: if one is missing, or holds no floating-point numbers.
        """
        ...

    def check(self, original: Tensors, batch: Batch) -> None:
        """Refuse an original that nothing can be compared with in this metric.

        Raises:
            ModelError: naming the output and the rule.
        """
        ...

    def errors(self, changed: Tensors, original: Tensors, batch: Batch) -> Tensor:
        """Error of each sample, float64 of shape (samples,); one if samples are not counted."""
        ...

    def probes(self, original: Tensors, batch: Batch, signs: torch.Generator) -> dict[str, Tensor]:
        """Random numbers by output whose products with a change add up to its error's root.

        As `Distance.probe`, for all outputs together.

        Raises:
            ModelError: if there are none for this metric.
        """
        ...

    def squares(self) -> Metric:
        """The mean squared error of the same outputs."""
        ...
