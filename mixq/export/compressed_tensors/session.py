"""TransformersSession: a folder that transformers has loaded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Final, final

import torch
from safetensors import SafetensorError
from torch import Tensor

from mixq.batch import Batch, call
from mixq.errors import ExportError
from mixq.export.hugging_face import CONFIG_FILE
from mixq.export.torch_threads import torch_threads
from mixq.files import one_line, parse_json, read_bounded
from mixq.sensitivity.outputs import floating_outputs

CONFIG_LIMIT_BYTES: Final = 16 << 20
FAULTS: Final = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


@final
class TransformersSession:
    """A model of transformers, computed by torch on the CPU."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        model_class = _class_of(path)
        wrong = (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)
        try:
            with _quiet():
                model, info = model_class.from_pretrained(
                    path,
                    local_files_only=True,
                    output_loading_info=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                )
        except (*wrong, SafetensorError) as error:
            raise ExportError(
                f"transformers does not load {one_line(path)}: {one_line(error)}; export it again"
            ) from error
        # Of these, transformers only warns, and goes on with random weights.
        for fault in FAULTS:
            if info.get(fault):
                first = one_line(next(iter(sorted(map(str, info[fault])))), 100)
                raise ExportError(
                    f"transformers loads {one_line(path)} with {fault.replace('_', ' ')}, "
                    f"{first} first; export it again"
                )
        self._model: Any = model.eval()
        self._threads = threads

    @torch.no_grad()
    def run(self, batch: Batch) -> dict[str, Tensor]:
        """Every floating-point output by its name; the first batch turns codes into floats."""
        with _quiet(), torch_threads(self._threads):
            return floating_outputs(call(self._model, batch))

    def close(self) -> None:
        """Free the weights."""
        self._model = None


def _class_of(path: Path) -> Any:
    import transformers

    what = f"config {one_line(path / CONFIG_FILE)}"
    text = read_bounded(path / CONFIG_FILE, CONFIG_LIMIT_BYTES, ExportError, "config")
    config = parse_json(text, ExportError, what)
    names = config.get("architectures") if isinstance(config, dict) else None
    name = str(names[0]) if isinstance(names, list) and names else ""
    found = getattr(transformers, name, None)
    if not hasattr(found, "from_pretrained"):
        raise ExportError(
            f"{what} names no architecture that transformers has ({names!r:.100}); export it again"
        )
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of transformers and compressed-tensors."""
    with redirect_stderr(io.StringIO()):
        yield
