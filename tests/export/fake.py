"""Runtimes that compute in PyTorch, and fail where a test says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixq.batch import Batch, call
from mixq.errors import ExportError
from mixq.export.runtime import Written
from mixq.export.source import Source
from mixq.sensitivity.outputs import floating_outputs

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class Fake:
    """A runtime that computes in PyTorch, and fails where a test says."""

    name: ClassVar[str] = "fake"
    extra: ClassVar[str] = ""
    suffix: ClassVar[str] = ".fake"
    is_folder: ClassVar[bool] = False
    closed: ClassVar[int] = 0

    def __init__(
        self, *, fail: str = "", error: BaseException | None = None, change: Change | None = None,
        beside: bool = False, sizes: tuple[int, int] = (1000, 1000),
    ) -> None:  # fmt: skip
        self.fail, self.error, self.change = fail, error, change
        self.beside, self.sizes = beside, sizes
        self.model: nn.Module | None = None

    def _at(self, stage: str) -> None:
        if self.fail == stage:
            raise self.error or ExportError(f"{stage} fails")

    def check(self, source: Source) -> None:
        self._at("check")
        self.model = source.applied

    def write(self, source: Source, path: Path) -> Written:
        files = [path]
        if self.is_folder:
            path.mkdir()
            files = [path / "weights", path / "config"]
        elif self.beside:
            files.append(path.with_name(f"{path.name}.data"))
        for file in files:
            file.write_bytes(b"new")
        self._at("write")
        return Written(*self.sizes, tolerance=1e-3, notes=("a note",))

    def open(self, path: Path, *, threads: int = 1) -> Fake:
        assert path.exists()
        self._at("open")
        return self

    def run(self, batch: Batch) -> dict[str, Tensor]:
        self._at("run")
        assert self.model is not None
        with torch.no_grad():
            outputs = floating_outputs(call(self.model, batch))
        return self.change(outputs) if self.change else outputs

    def close(self) -> None:
        type(self).closed += 1


class FakeFolder(Fake):
    """The same into a folder."""

    is_folder: ClassVar[bool] = True
