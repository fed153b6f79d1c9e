"""Shelf: tensors that are kept for later, in memory as long as there is room, else on disk."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from mixq.errors import OutputError
from mixq.files import one_line

ROOM_BYTES: Final = 1 << 30
"""Of tensors that are kept in memory; further ones are spilled."""


@dataclass(frozen=True, eq=False)
class Kept:
    """A tensor on disk.

    Attributes:
        start: of its bytes in the file.
        shape, dtype: its own.
    """

    start: int
    shape: torch.Size
    dtype: torch.dtype


class Shelf:
    """Keeps nested arguments and outputs; tensors without gradients only.

    Args:
        room_bytes: of tensors in memory.
        folder: where a file without a name takes the rest; None is the system's for such.

    Raises:
        OutputError: if that file cannot be written or read.
    """

    def __init__(self, room_bytes: int = ROOM_BYTES, folder: Path | None = None) -> None:
        self._room_bytes = room_bytes
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._end = 0
        self.spilled_bytes = 0

    def put(self, tree: Any) -> Any:
        """What `get` gives the tree back for; the same tensors as long as they are in memory."""
        return tree_map_only(Tensor, self._put, tree)

    def get(self, kept: Any) -> Any:
        """The tree that was put."""
        return tree_map_only(Kept, self._get, kept)

    def free(self, kept: Any) -> None:
        """Make room for others: the tree is not needed any more."""
        for leaf in tree_leaves(kept):
            if isinstance(leaf, Tensor):
                self._room_bytes += leaf.numel() * leaf.element_size()

    def close(self) -> None:
        """Delete the file."""
        if self._file is not None:
            self._file.close()

    def _put(self, tensor: Tensor) -> Tensor | Kept:
        size = tensor.numel() * tensor.element_size()
        if size <= self._room_bytes:
            self._room_bytes -= size
            return tensor
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  (till close)
            self._file.seek(self._end)
            self._file.write(flat.numpy().data)
        except OSError as error:
            raise self._failed("written", error) from error
        kept = Kept(self._end, tensor.shape, tensor.dtype)
        self._end += size
        self.spilled_bytes += size
        return kept

    def _get(self, kept: Kept) -> Tensor:
        assert self._file is not None
        flat = torch.empty(kept.shape.numel() * kept.dtype.itemsize, dtype=torch.uint8)
        try:
            self._file.seek(kept.start)
            read = self._file.readinto(flat.numpy().data)  # type: ignore[attr-defined]
            if read != flat.numel():
                raise OSError(f"{read} bytes of {flat.numel()}")
        except OSError as error:
            raise self._failed("read", error) from error
        return flat.view(kept.dtype).view(kept.shape)

    def _failed(self, what: str, error: OSError) -> OutputError:
        return OutputError(
            f"activations in {one_line(self._folder or tempfile.gettempdir())} cannot be {what}: "
            f"{error.strerror or error}; make room there, or take fewer --samples"
        )
