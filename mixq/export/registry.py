"""The runtimes that mixq exports to, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mixq.errors import PluginError, UsageError
from mixq.plugins import Plugins

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


PLUGINS: Final = Plugins(
    "mixq.runtimes", "runtime", RUNTIMES, pattern="[a-z][a-z0-9]*(-[a-z0-9]+)*", reserved=("auto",)
)
"""The same with those that packages bring (docs/extend/runtime.md)."""
_METHODS: Final = ("check", "write", "open")


def runtime(name: str, /, **options: Any) -> Runtime:
    """The runtime of a name.

    Args:
        name: one of `PLUGINS.names()`.
        options: of its class.

    Raises:
        UsageError: if there is none, or it has no such option.
        PluginError: if the package that brings it does not load, or brings no runtime.
    """
    kind = PLUGINS.load(name)
    fault = None if name in RUNTIMES else _fault(kind, name)
    if fault:
        raise PluginError(
            f"runtime {name!r} of package {PLUGINS.origin(name)} {fault}; mend or uninstall that "
            "package"
        )
    try:
        made: Runtime = kind(**options)
    except TypeError as error:
        raise UsageError(f"runtime {name!r} does not take these options: {error}") from error
    return made


def _fault(kind: object, name: str) -> str | None:
    """What a class lacks of a runtime; None if it lacks nothing."""
    if not isinstance(kind, type):
        return f"is {type(kind).__name__}, but it must be a class"
    if getattr(kind, "name", None) != name:
        return f"has the name {getattr(kind, 'name', None)!r:.60} in its class"
    wanted = {"extra": str, "suffix": str, "is_folder": bool}
    for attribute, form in wanted.items():
        if not isinstance(getattr(kind, attribute, None), form):
            return f"must say its {attribute}, a {form.__name__}"
    for method in _METHODS:
        if not callable(getattr(kind, method, None)):
            return f"has no method {method}"
    return None
