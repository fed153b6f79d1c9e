"""Calibration: the inputs that mixq runs a model on, and those that it holds out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from mixq.batch import (
    Batch,
    check_batch,
    describe,
    moved_batch,
    named_tensors,
    part_of,
    sample_count,
    to_batch,
)
from mixq.errors import CalibrationError, UsageError

WHOLE_BATCHES = 4
"""From this many batches on, held-out data are whole batches: cutting one saves nothing."""


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """Inputs of a model, in batches; the first dimension of every tensor counts samples.

    Two calibrations are equal if their contents are. The tensors are not copied; whoever passes
    them must not write to them afterwards.

    Attributes:
        batches: at least one batch, each with at least one sample.
        whole: whether the model takes batches of this size only (a program exported without a
            dynamic batch dimension), so that none may be cut.

    Raises:
        CalibrationError: if there is no batch, or one is not made of dense tensors that share
            their first dimension, or holds NaN or infinity.
    """

    batches: tuple[Batch, ...]
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.batches:
            raise CalibrationError(
                "calibration has 0 batches, but it needs at least one; pass a tensor of inputs"
            )
        for index, batch in enumerate(self.batches):
            check_batch(index, batch)

    @classmethod
    def of(cls, data: object) -> Self:
        """The calibration that `data` stands for.

        A tensor, a tuple of tensors (positional arguments) and a mapping of tensors (keyword
        arguments) are one batch; any other iterable, such as a list or a DataLoader, is a
        sequence of batches, in which a list of tensors stands for a tuple.

        Raises:
            CalibrationError: if `data` are none of these, or break a rule of the class.
        """
        if isinstance(data, cls):
            return data
        if isinstance(data, Tensor | Mapping):
            return cls((to_batch(data),))
        if isinstance(data, tuple) and any(isinstance(item, Tensor) for item in data):
            return cls((to_batch(data),))
        if isinstance(data, Iterable) and not isinstance(data, str | bytes):
            return cls(tuple(to_batch(item) for item in data))
        raise CalibrationError(
            f"calibration is a {type(data).__name__}, but it must be a tensor, a tuple or dict "
            "of tensors, or a list of such batches"
        )

    @property
    def samples(self) -> int:
        """Number of samples of all batches."""
        return sum(map(sample_count, self.batches))

    @cached_property
    def fingerprint(self) -> str:
        """`sha256:` and the digest of every name, shape, dtype and byte, batch by batch."""
        digest = hashlib.sha256()
        for batch in self.batches:
            items = named_tensors(batch)
            kind = type(batch).__name__ if not isinstance(batch, Tensor) else "Tensor"
            header = [[name, list(item.shape), str(item.dtype)] for name, item in items]
            digest.update(json.dumps([kind, header]).encode())
            for _, item in items:
                flat = item.detach().cpu().contiguous().reshape(-1)
                digest.update(flat.view(torch.uint8).numpy().data)
        return f"sha256:{digest.hexdigest()}"

    def to(self, device: str | torch.device) -> Calibration:
        """The same samples on a device; itself if they are there."""
        where = torch.device(device)
        if all(item.device == where for batch in self.batches for _, item in named_tensors(batch)):
            return self
        return replace(self, batches=tuple(moved_batch(batch, where) for batch in self.batches))

    def take(self, count: int) -> Calibration:
        """The first `count` samples in their batches, the last one cut; all if there are fewer.

        Whole batches are never cut: the last one is kept as it is.

        Raises:
            UsageError: if `count` is not positive.
        """
        if count < 1:
            raise UsageError(f"asked for {count} calibration samples; ask for at least 1")
        if count >= self.samples:
            return self
        if self.whole:
            size = sample_count(self.batches[0])
            return replace(self, batches=self.batches[: -(-count // size)])
        return self.part(0, count)

    def split(self, heldout_fraction: float = 0.25) -> tuple[Calibration, Calibration | None]:
        """The first samples and the held-out last ones; no sample is in both.

        From four batches on the held-out part is whole batches, below that it is cut to the
        sample, unless batches are `whole`. Each part keeps at least one. What cannot be split, a
        single sample or a single whole batch, holds out None.

        Raises:
            UsageError: if `heldout_fraction` does not lie between 0 and 1.
        """
        if not 0 < heldout_fraction < 1:
            raise UsageError(
                f"heldout_fraction is {heldout_fraction}, but it must lie between 0 and 1"
            )
        if self.whole and len(self.batches) == 1:
            return self, None
        if self.whole or len(self.batches) >= WHOLE_BATCHES:
            cut = len(self.batches) - _share(len(self.batches), heldout_fraction)
            return (
                replace(self, batches=self.batches[:cut]),
                replace(self, batches=self.batches[cut:]),
            )
        total = self.samples
        if total == 1:
            return self, None
        cut = total - _share(total, heldout_fraction)
        return self.part(0, cut), self.part(cut, total)

    def part(self, start: int, stop: int) -> Calibration:
        """Samples start..stop - 1, in the batches that hold them; whole batches are not cut."""
        kept: list[Batch] = []
        offset = 0
        for batch in self.batches:
            count = sample_count(batch)
            low, high = max(start - offset, 0), min(stop - offset, count)
            if low < high:
                kept.append(part_of(batch, low, high))
            offset += count
        return replace(self, batches=tuple(kept))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Calibration):
            return NotImplemented
        return self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return (
            f"Calibration({self.samples} samples in {len(self.batches)} batches of "
            f"{describe(self.batches[0])})"
        )


def repeat_sample(calibration: Calibration, count: int) -> Batch:
    """A batch of `count` samples, all the first one: what a workload of that size looks like.

    A calibration of whole batches gives its first one, the only size that the model takes.

    Raises:
        UsageError: if `count` is not positive, or so many samples find no room in memory.
    """
    if count < 1:
        raise UsageError(f"the batch size is {count}, but a workload has at least one sample")
    if calibration.whole:
        return calibration.batches[0]

    def repeated(item: Tensor) -> Tensor:
        try:
            return item.repeat_interleave(count, dim=0)
        except (RuntimeError, ValueError, OverflowError) as error:
            raise UsageError(
                f"the batch size is {count}, but so many samples of {tuple(item.shape[1:])} find "
                "no room in memory; choose a smaller one"
            ) from error

    first = calibration.take(1).batches[0]
    if isinstance(first, Tensor):
        return repeated(first)
    if isinstance(first, tuple):
        return tuple(map(repeated, first))
    return {name: repeated(item) for name, item in first.items()}


def in_batches(batch: Batch, size: int, *, whole: bool = False) -> Calibration:
    """One batch cut into batches of `size` samples; a shorter last one is left out if `whole`.

    Raises:
        CalibrationError: if `whole`, and there are fewer samples than one batch takes.
    """
    count = sample_count(batch)
    if whole and count < size:
        raise CalibrationError(
            f"calibration has {count} samples, but the model was exported for batches of {size}; "
            "pass more, or export it with a dynamic batch dimension"
        )
    stop = count - count % size if whole else count
    batches = [part_of(batch, low, min(low + size, stop)) for low in range(0, stop, size)]
    return Calibration(tuple(batches), whole=whole)


def _share(count: int, fraction: float) -> int:
    """About `fraction` of `count`, at least 1 and at most all but 1."""
    return min(max(round(count * fraction), 1), count - 1)
