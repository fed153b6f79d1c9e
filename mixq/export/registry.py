"""The runtimes that mixq exports to, by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from mixq.errors import UsageError

if TYPE_CHECKING:
    from mixq.export.runtime import Runtime

RUNTIMES: Final = {
    "onnxruntime": "mixq.export.onnxruntime:OnnxRuntime",
    "openvino": "mixq.export.openvino.runtime:Openvino",
    "qdq": "mixq.export.qdq.runtime:Qdq",
    "onnxruntime-genai": "mixq.export.genai.genai:Genai",
    "gguf": "mixq.export.gguf:Gguf",
    "mlx": "mixq.export.mlx:Mlx",
    "transformers": "mixq.export.compressed_tensors:CompressedTensors",
    "torch": "mixq.export.torch_artifact:Torch",
}
"""Name to module and class: a runtime's libraries are imported when it is asked for."""


def runtime(name: str, /, **options: Any) -> Runtime:
    """The runtime of a name.

    Args:
        name: one of `RUNTIMES`.
        options: of its class.

    Raises:
        UsageError: if there is none, or it has no such option.
    """
    if name not in RUNTIMES:
        raise UsageError(f"runtime {name!r:.60} is unknown; choose one of {', '.join(RUNTIMES)}")
    module, _, attribute = RUNTIMES[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    try:
        made: Runtime = kind(**options)
    except TypeError as error:
        raise UsageError(f"runtime {name!r} does not take these options: {error}") from error
    return made
