"""Positions: which of a batch's tokens count, and where an operation's inputs hold them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from mixq.batch import Batch, sample_count
from mixq.graph.operations import operator_name

_JOINS = frozenset(("view", "_unsafe_view", "_reshape_alias"))
"""Operators that may join leading dimensions into rows, the first dimension slowest."""
_BY_ROW = frozenset(
    (
        *("alias", "detach", "slice", "unsqueeze", "split", "split_with_sizes", "clone"),
        *("_to_copy", "mm", "addmm", "_softmax", "native_layer_norm", "_fused_rms_norm"),
    )
)
"""Operators, beside the elementwise ones and joins, that leave rows in their order."""


class Positions:
    """The positions of one batch that its `attention_mask` does not hide.

    As in `mixq.sensitivity.outputs`: a mask of shape (samples, tokens) hides where it is not
    positive. It applies where the leading dimensions of an operation's inputs are (samples,
    tokens) or (tokens, samples), or were before they were joined; everything else counts in
    full. Where there are as many tokens as samples, samples are taken to come first.
    """

    def __init__(self, batch: Batch) -> None:
        mask = batch.get("attention_mask") if isinstance(batch, dict) else None
        self._by_sample: Tensor | None = None
        if mask is not None and mask.dim() == 2 and not bool((mask > 0).all()):
            self._samples, self._tokens = sample_count(batch), mask.shape[1]
            self._by_sample = (mask > 0).flatten()
            self._by_token = (mask > 0).t().flatten()
            self._orders: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def note(self, func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """Remember in which order the rows of `outputs` hold the batch's tokens."""
        if self._by_sample is None:
            return
        name, count = operator_name(func), self._samples * self._tokens
        rows = [item for item in outputs if item.dim() >= 2 and item.shape[0] == count]
        known = [item for item in inputs if item in self._orders]
        order = None
        if name in _JOINS and not known:
            order = self._order_of(tuple(inputs[0].shape))
        elif known and (name in _JOINS or name in _BY_ROW or torch.Tag.pointwise in func.tags):
            order = self._orders[known[0]]
        for item in rows if order is not None else []:
            self._orders[item] = order

    def keep(self, tensor: Tensor, leading: tuple[int, ...]) -> Tensor | None:
        """The positions of inputs `tensor` that count, bool of shape (prod(leading),).

        None if all do.
        """
        if self._by_sample is None or math.prod(leading) != self._samples * self._tokens:
            return None
        return self._orders.get(tensor) if len(leading) == 1 else self._order_of(leading)

    def _order_of(self, shape: tuple[int, ...]) -> Tensor | None:
        if len(shape) < 2:
            return None
        if shape[0] == self._samples:
            return self._by_sample
        return self._by_token if shape[0] == self._tokens else None
