"""Labels: which channel's factor every element of every activation would carry.

If the weights that make channel i of some activation were divided by s_i, then every element that
is proportional to it would be divided too. Each such element carries the label of that channel;
what no factor reaches carries none. Operators that move numbers move labels alike, and a label
that meets anything else is dead: its channel must keep the factor 1.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

NONE: Final = -1.0
"""Of an element that no factor reaches."""
ZERO: Final = -2.0
"""Of padding: nought times any factor is nought, so it agrees with every label."""
MOST: Final = 1 << 24
"""Labels are float32, which all operators move; from here on it would skip integers."""


@dataclass(frozen=True, slots=True)
class _Memory:
    storage: StorageWeakRef
    labels: Tensor
    element_bytes: int


class Labels:
    """The labels of all live activations, by storage: what overwrites a view is seen by all."""

    def __init__(self) -> None:
        # The weak reference keeps the address of a storage from being used again.
        self._memory: dict[int, _Memory] = {}
        self._cause = torch.empty(0, dtype=torch.int32)
        self._causes: list[str] = []

    def fresh(self, count: int) -> int | None:
        """The first of `count` new labels in a row; None if there are no more."""
        first = len(self._cause)
        if first + count > MOST:
            return None
        self._cause = torch.cat([self._cause, torch.full((count,), -1, dtype=torch.int32)])
        return first

    def of(self, tensor: Tensor) -> Tensor | None:
        """Labels in the shape of `tensor`, the dead ones blanked; None if none is alive."""
        storage = _storage(tensor)
        memory = None if storage is None else self._memory.get(storage)
        if memory is None:
            return None
        if tensor.element_size() != memory.element_bytes:  # real numbers seen as complex ones
            self.kill(memory.labels, "a view as another type")
            return None
        labels = memory.labels.as_strided(
            tensor.size(), tensor.stride(), int(tensor.storage_offset())
        )
        table = torch.arange(-2, len(self._cause), dtype=torch.float32)
        table[2:][self._cause >= 0] = NONE
        alive = table[(labels + 2).long()]
        return alive if bool((alive >= 0).any()) else None

    def put(self, tensor: Tensor, labels: Tensor) -> None:
        """Note the labels, which broadcast to the shape, of a tensor that was just written."""
        storage = _storage(tensor)
        if storage is None:
            self.kill(labels, "a tensor without plain storage")
            return
        if storage not in self._memory:
            size = tensor.untyped_storage().nbytes() // tensor.element_size()
            self._memory[storage] = _Memory(
                StorageWeakRef(tensor.untyped_storage()),
                torch.full((size,), NONE),
                tensor.element_size(),
            )
        memory = self._memory[storage]
        if tensor.element_size() != memory.element_bytes:
            self.kill(labels, "a view as another type")
            self.kill(memory.labels, "a view as another type")
            return
        memory.labels.as_strided(
            tensor.size(), tensor.stride(), int(tensor.storage_offset())
        ).copy_(labels)

    def kill(self, labels: Tensor | None, cause: str) -> None:
        """Give up the channels of these labels, for a reason in words."""
        if labels is None:
            return
        met = torch.zeros(len(self._cause) + 2, dtype=torch.bool)
        met[(labels + 2).long()] = True
        newly = met[2:] & (self._cause < 0)
        if bool(newly.any()):
            self._cause[newly] = len(self._causes)
            self._causes.append(cause)

    def kill_remaining(self, outputs: list[Tensor], cause: str) -> None:
        """Give up what is still in memory after the pass: it was put out, or kept by the model."""
        self.forget()
        known = {_storage(tensor) for tensor in outputs}
        if any(key not in known and self._is_alive(key) for key in self._memory):
            gc.collect()  # which is slow, so only for what may be waiting for it
        self.forget()
        for memory in self._memory.values():
            self.kill(memory.labels, cause)

    def forget(self) -> None:
        """Drop the labels of activations that are gone."""
        gone = [key for key, memory in self._memory.items() if memory.storage.expired()]
        for key in gone:
            del self._memory[key]

    def alive(self, first: int, count: int) -> Tensor:
        """Whether each of the labels first..first + count - 1 is alive: bool of shape (count,)."""
        return self._cause[first : first + count] < 0

    def cause(self, first: int, count: int) -> str | None:
        """Why the first dead one of these labels died; None if all are alive."""
        causes = self._cause[first : first + count]
        dead = causes[causes >= 0]
        return self._causes[int(dead[0])] if len(dead) else None

    def _is_alive(self, storage: int) -> bool:
        labels = self._memory[storage].labels
        return bool((self._cause[labels[labels >= 0].long()] < 0).any())


def _storage(tensor: Tensor) -> int | None:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse tensors and some subclasses have none
        return None
