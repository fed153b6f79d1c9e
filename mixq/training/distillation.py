"""Distillation: how far a student's outputs are from a teacher's; no label is needed.

Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531:
the divergence at a temperature, and that matching logits is what it becomes at high ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixq.batch import Batch, call, sample_count
from mixq.errors import ModelError
from mixq.graph.evaluating import evaluating
from mixq.sensitivity.outputs import main_output

OutputLoss: TypeAlias = Callable[[object, object], Tensor]
"""A number to be made small, from the whole outputs of student and teacher."""
Loss: TypeAlias = Literal["mse", "kl"] | OutputLoss

CACHE_BYTES = 1 << 30
"""Outputs of the teacher that are kept; beyond that they are computed at every use."""


class Lesson:
    """Batches and what the teacher says of them.

    Args:
        teacher: any module that takes the batches.
        batches: at least one.
    """

    def __init__(self, teacher: nn.Module, batches: Sequence[Batch]) -> None:
        self.batches = batches
        self._teacher = teacher
        self._kept: dict[int, Tensor] = {}
        self._room = CACHE_BYTES

    def whole(self, index: int) -> object:
        """The teacher's output for a batch, as it returns it."""
        with evaluating(self._teacher):
            return call(self._teacher, self.batches[index])

    def main(self, index: int) -> Tensor:
        """The main tensor of the teacher's output, at least float32."""
        known = self._kept.get(index)
        if known is not None:
            return known
        target = _wide(main_output(self.whole(index)).tensor.detach()).clone()
        size = target.numel() * target.element_size()
        if size <= self._room:
            self._kept[index] = target
            self._room -= size
        return target

    def power(self) -> float:
        """Mean square of the main outputs, 1 if they are all zero.

        Raises:
            ModelError: if an output is NaN or infinite.
        """
        powers = [
            value
            for index, batch in enumerate(self.batches)
            for value in per_sample(_shown(self.main(index), batch).square(), batch).tolist()
        ]
        power = math.fsum(powers) / len(powers)
        if not math.isfinite(power):
            raise ModelError(
                "the teacher's output is NaN or infinite, so nothing can be learned from it; "
                "pass a teacher, or data, with finite outputs"
            )
        return power or 1.0


@dataclass(frozen=True, slots=True)
class Distillation:
    """What is made small.

    `mse` is the mean squared difference over `power`: what plans are measured by, whatever outputs
    mean. `kl` is the divergence of the softmax over the last dimension, times the squared
    temperature: for classifiers and language models, where all logits of a row may move together.
    Positions that an `attention_mask` hides do not count, and all samples count the same.

    Attributes:
        loss: `mse`, `kl` or a function of the whole outputs.
        temperature: of `kl`.
        power: mean square of the teacher's outputs.
    """

    loss: Loss
    temperature: float
    power: float

    def target(self, lesson: Lesson, index: int) -> object:
        """What the loss compares with: the teacher's output, or the main tensor of it."""
        return lesson.whole(index) if callable(self.loss) else lesson.main(index)

    def __call__(self, output: object, target: object, batch: Batch) -> Tensor:
        """The loss of a student's output for `batch`, a number with gradients.

        Raises:
            ModelError: if the two outputs are of different shapes, or no number comes out.
        """
        if callable(self.loss):
            return _number(self.loss(output, target))
        assert isinstance(target, Tensor)
        own = _wide(main_output(output).tensor)
        if own.shape != target.shape:
            raise ModelError(
                f"the teacher's output has shape {tuple(target.shape)}, but the model's has "
                f"{tuple(own.shape)}; pass a teacher of the same outputs, or a loss of your own"
            )
        own, target = _shown(own, batch), _shown(target, batch)
        if self.loss == "mse":
            return per_sample((own - target).square(), batch).mean() / self.power
        terms = functional.kl_div(
            (own / self.temperature).log_softmax(-1),
            (target / self.temperature).log_softmax(-1),
            reduction="none",
            log_target=True,
        )
        # per_sample takes the mean over classes, of which a divergence is the sum.
        return per_sample(terms, batch).mean() * (own.shape[-1] * self.temperature**2)


def per_sample(terms: Tensor, batch: Batch) -> Tensor:
    """Mean of each sample over what its attention mask shows, shape (samples,).

    The rule of `mixq.sensitivity.outputs.squared_error`, with gradients.
    """
    samples = sample_count(batch)
    if terms.dim() == 0 or terms.shape[0] != samples:
        return terms.mean().reshape(1)
    mask = _mask(terms, batch)
    if mask is None:
        return terms.reshape(samples, -1).mean(1)
    per_token = terms.flatten(2).mean(2) * mask
    return per_token.sum(1) / mask.sum(1).clamp_min(1)


def _shown(output: Tensor, batch: Batch) -> Tensor:
    """`output` with zeros where the mask hides it: what is written there may be NaN."""
    mask = _mask(output, batch)
    if mask is None:
        return output
    return torch.where(mask.reshape(*mask.shape, *[1] * (output.dim() - 2)), output, 0.0)


def _mask(output: Tensor, batch: Batch) -> Tensor | None:
    mask = batch.get("attention_mask") if isinstance(batch, dict) else None
    if mask is None or output.dim() <= 2 or mask.shape != output.shape[:2]:
        return None
    return mask > 0


def _wide(output: Tensor) -> Tensor:
    # At least float32: squares of halves overflow beyond 256.
    return output.to(torch.promote_types(output.dtype, torch.float32))


def _number(value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ModelError(
            f"the loss returns a {type(value).__name__}, but it must return a tensor with one "
            "number; reduce it, for example with .mean()"
        )
    return value.reshape(())
