"""TransformersSession: a folder that transformers has loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from mixq.batch import Batch, call
from mixq.errors import ExportError
from mixq.export.hugging_face import CONFIG_FILE
from mixq.files import one_line, parse_json, read_bounded
from mixq.sensitivity.outputs import floating_outputs

CONFIG_LIMIT_BYTES = 16 << 20


@final
class TransformersSession:
    """A model of transformers, computed by torch."""

    def __init__(self, path: Path) -> None:
        import transformers

        text = read_bounded(path / CONFIG_FILE, CONFIG_LIMIT_BYTES, ExportError, "config")
        config: Any = parse_json(text, ExportError, f"config {path}")
        names = config.get("architectures") or ["AutoModel"]
        model_class = getattr(transformers, names[0], transformers.AutoModel)
        self._model: Any = model_class.from_pretrained(path, local_files_only=True).eval()

    @torch.no_grad()
    def run(self, batch: Batch) -> dict[str, Tensor]:
        """Every floating-point output by its name."""
        return floating_outputs(call(self._model, batch))

    def close(self) -> None:
        """Free the weights."""
        self._model = None
