"""Mlx: a folder that mlx-lm loads, on Apple's chips and on CPUs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, final

from mixq.export.hugging_face import check_model, write_folder
from mixq.export.mlx.contents import Contents
from mixq.export.mlx.session import MlxSession
from mixq.export.runtime import FLOAT_TOLERANCE, Written
from mixq.export.source import Source


@final
class Mlx:
    """Writes model.safetensors and config.json with per-module bits and group sizes.

    Source of the layout: `load_model` and `save_model` in mlx_lm/utils.py, 0.32.
    """

    name: ClassVar[str] = "mlx"
    extra: ClassVar[str] = "mlx"
    is_folder: ClassVar[bool] = True
    suffix: ClassVar[str] = "-mlx"

    def check(self, source: Source) -> None:
        """Refuse what mlx or mlx-lm cannot take.

        Raises:
            ExportError: for a model that is none of mlx-lm's, or a unit in a format without a
                layout.
            MissingExtraError: without mlx-lm.
        """
        check_model(source, "mlx")
        Contents.of(source)

    def write(self, source: Source, path: Path) -> Written:
        """Write the folder `path`."""
        check_model(source, "mlx")
        contents = Contents.of(source)
        size = write_folder(path, contents.config, contents.tensors, source)
        return Written(size, contents.predicted_bytes, FLOAT_TOLERANCE, contents.notes)

    def open(self, path: Path, *, threads: int = 1) -> MlxSession:
        """Load a folder on the CPU; mlx has no way to set its number of threads.

        Raises:
            ExportError: if mlx-lm does not load it.
            MissingExtraError: without mlx-lm.
        """
        return MlxSession(path)
