"""Shards: the safetensors files of a folder, from which single tensors are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mixq.errors import SourceError
from mixq.files import is_regular, one_line, parse_json, read_bounded

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
INDEX_BYTES: Final = 1 << 26


class Shards:
    """Tensors by name, read when they are asked for; floating-point numbers become float32.

    Attributes:
        shapes: of all tensors, by name.

    Raises:
        SourceError: if a file is missing or damaged, or lacks a tensor that the index says it has.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path, promised in _files(folder).items():
            for name, shape in _header(path).items():
                if promised is None or name in promised:
                    self._files[name] = path
                    self.shapes[name] = shape
            lost = sorted(set(promised or ()) - self._files.keys())
            if lost:
                raise SourceError(
                    f"shard {str(path)!r} lacks {len(lost)} tensors that {INDEX} says it has, the "
                    f"first is {one_line(lost[0])}; copy the shard again"
                )

    def fetch(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The named tensors, in memory of their own; the files are closed again.

        Raises:
            SourceError: if a file has changed or cannot be read any more.
        """
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self._files[name], []).append(name)
        found: dict[str, Tensor] = {}
        for path, wanted in by_file.items():
            try:
                with safe_open(path, framework="pt", backend="pread") as file:
                    for name in wanted:
                        found[name] = _plain(file.get_tensor(name))
            except (SafetensorError, OSError, ValueError, RuntimeError) as error:
                raise _damaged(path, error) from error
        return found


def _files(folder: Path) -> dict[Path, set[str] | None]:
    """The files, each with the tensors that the index says it has; None is all it has."""
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: None}
    index = folder / INDEX
    if not index.is_file():
        raise SourceError(
            f"folder {str(folder)!r} has neither {SINGLE} nor {INDEX}; save the model again with "
            "save_pretrained"
        )
    what = f"index {str(index)!r}"
    data = parse_json(read_bounded(index, INDEX_BYTES, SourceError, "index"), SourceError, what)
    entries = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(entries, dict) or not all(
        isinstance(file, str) for file in entries.values()
    ):
        raise SourceError(f"{what} has no weight_map of names to files; copy it again")
    found: dict[Path, set[str] | None] = {}
    for file in sorted(set(entries.values())):
        if Path(file).name != file or not is_regular(folder / file):
            raise SourceError(
                f"shard {one_line(file)!r} of {what} is not in the folder; copy it there"
            )
        found[folder / file] = {name for name, place in entries.items() if place == file}
    return found


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt", backend="pread") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _plain(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        return tensor.to(torch.float32, copy=True)
    return tensor.clone()


def _damaged(path: Path, error: Exception) -> SourceError:
    return SourceError(
        f"shard {str(path)!r} is damaged or not a safetensors file: {one_line(error)}; copy it "
        "again"
    )
