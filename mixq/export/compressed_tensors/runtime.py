"""CompressedTensors: a folder that `from_pretrained` of transformers loads."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, final

from mixq.errors import MissingExtraError
from mixq.export.compressed_tensors.contents import Contents
from mixq.export.compressed_tensors.session import TransformersSession
from mixq.export.hugging_face import check_model, write_folder
from mixq.export.runtime import FLOAT_TOLERANCE, Written
from mixq.export.source import Source


@final
class CompressedTensors:
    """Writes codes as safetensors and, in config.json, which modules have which integers.

    Source: `CompressedTensorsHfQuantizer` of transformers 5.23 and the layouts of
    `mixq.export.compressed_tensors.layout`.
    """

    name: ClassVar[str] = "transformers"
    extra: ClassVar[str] = "compressed-tensors"
    is_folder: ClassVar[bool] = True
    suffix: ClassVar[str] = "-compressed"

    def check(self, source: Source) -> None:
        """Refuse what the format cannot say.

        Raises:
            ExportError: for a model that is none of transformers', or a unit in a format that
                compressed-tensors has not.
            MissingExtraError: without transformers or compressed-tensors.
        """
        _need()
        check_model(source, self.name)
        Contents.of(source)

    def write(self, source: Source, path: Path) -> Written:
        """Write the folder `path`."""
        check_model(source, self.name)
        contents = Contents.of(source)
        size = write_folder(path, contents.config, contents.tensors, source)
        return Written(size, contents.predicted_bytes, FLOAT_TOLERANCE, contents.notes)

    def open(self, path: Path, *, threads: int = 1) -> TransformersSession:
        """Load a folder on the CPU.

        Raises:
            ExportError: if transformers does not load it.
            MissingExtraError: without transformers or compressed-tensors.
        """
        _need()
        return TransformersSession(path, threads)


def _need() -> None:
    for module, package in (
        ("transformers", "transformers"),
        ("compressed_tensors", "compressed-tensors"),
    ):
        if find_spec(module) is None:
            raise MissingExtraError(package, "compressed-tensors", "the transformers runtime")
