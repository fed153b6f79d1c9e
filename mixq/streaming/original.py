"""Original: what the unchanged model's passes give, at its end and behind every part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mixq.batch import Batch
from mixq.errors import ModelError
from mixq.sensitivity.metrics.metric import Metric
from mixq.sensitivity.reference import compared
from mixq.streaming.model import StreamedModel
from mixq.streaming.parts import Part
from mixq.streaming.passes import Call, passes, run_together, started
from mixq.streaming.shelf import Shelf


class Original:
    """Outputs of the original model, and of each of its parts, on every batch.

    Args:
        streamed: the model.
        batches: what it is run on.
        metric: that outputs are compared by.
        shelf: for the outputs.
        keep: whether anything is measured against them.

    Attributes:
        calls: the parts that each batch's pass calls, in order.
        metric: that outputs are compared by.
        output: names of the compared outputs, as `Reference.output`.
        power: mean square of the original's outputs, what relative errors divide by.
        samples: how many errors a measurement gives.
        largest_bytes: of what flows from one part to another, over all batches.

    Raises:
        ModelError: if an output is NaN or infinite.
        CalibrationError: if a batch does not fit.
    """

    def __init__(
        self,
        streamed: StreamedModel,
        batches: Sequence[Batch],
        metric: Metric,
        shelf: Shelf,
        *,
        keep: bool = True,
    ) -> None:
        self.metric = metric
        self._batches = batches
        self._shelf = shelf
        self.calls: list[list[Part]] = [[] for _ in batches]
        self._behind: list[list[Any]] = [[] for _ in batches]
        self._outputs: list[Any] = [None] * len(batches)
        self.output = ""
        powers: list[list[float]] = [[] for _ in batches]
        counts = [0] * len(batches)
        squares = metric.squares()
        sizes = [0] * len(batches)

        def answer(number: int, asked: Call) -> object:
            output = streamed.run(asked.part, asked.args, asked.kwargs)
            self.calls[number].append(asked.part)
            if keep:
                self._behind[number].append((shelf.put(output), versions(output)))
            entering = [t for t in (*asked.args, *asked.kwargs.values()) if isinstance(t, Tensor)]
            sizes[number] = max(sizes[number], sum(t.numel() * t.element_size() for t in entering))
            return output

        def ended(number: int, output: object) -> None:
            picked, batch = metric.pick(output), batches[number]
            zeros = {name: torch.zeros_like(tensor) for name, tensor in picked.items()}
            powers[number] = squares.errors(picked, zeros, batch).tolist()
            if not all(map(math.isfinite, powers[number])):
                raise ModelError(
                    "the original model's output is NaN or infinite; repair the model, or leave "
                    "out the samples that do so"
                )
            metric.check(picked, batch)
            counts[number] = len(metric.errors(picked, picked, batch))
            if keep:
                self._outputs[number] = shelf.put(picked)
            self.output = "" if isinstance(output, Tensor) else ",".join(picked)

        with passes(streamed, batches) as running:
            run_together(streamed, running, started(running), answer, ended)
        flat = [value for part in powers for value in part]
        self.samples = sum(counts)
        self.power = math.fsum(flat) / len(flat)
        self.largest_bytes = sum(sizes)

    def behind(self, batch: int, index: int) -> object:
        """What the call of that index gave.

        Raises:
            ModelError: if the model has written over it since.
        """
        kept, before = self._behind[batch][index]
        if versions(kept) not in (before, []):  # on disk, nobody writes to it
            raise ModelError(
                f"the code behind {self.calls[batch][index].path} writes over its output; analyze "
                "this model without --stream"
            )
        return self._shelf.get(kept)

    def errors(self, batch: int, output: object, what: str) -> list[float]:
        """Error of every sample of a batch, as `Reference.compared`."""
        original = self._shelf.get(self._outputs[batch])
        picked = self.metric.pick(output)
        return compared(self.metric, picked, original, self._batches[batch], what)


def versions(tree: object) -> list[int]:
    """How often each tensor in memory has been written to."""
    return [leaf._version for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
