"""load_model: from a model spec to a model in eval mode."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mixq.errors import SourceError, one_line
from mixq.sources.loaded import LoadedModel

CHOICES: Final = (
    "package.module:function, file.py:function, a Hugging Face folder, a .pt2 file, or 'demo'"
)
WEIGHT_SUFFIXES: Final = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".safetensors")
"""Files that hold weights without an architecture, most of them pickled."""


def load_model(spec: str | None, *, trust_remote_code: bool = False) -> LoadedModel:
    """The model that `spec` stands for; nothing is downloaded and nothing is unpickled.

    Args:
        spec: None or `demo`, `package.module:function`, `path/to/file.py:function`, a folder
            with a config.json, or a `.pt2` file of torch.export.
        trust_remote_code: run the Python code that a Hugging Face folder brings along.

    Raises:
        SourceError: if the spec stands for nothing, or what it stands for cannot be loaded.
        CalibrationError: if the calibration that a function returns breaks a rule.
        MissingExtraError: for a Hugging Face folder without transformers.
    """
    # The branches import their room late: each needs torch, and the spec may be wrong anyway.
    if spec is None or spec == "demo":
        from mixq import demo

        return LoadedModel("demo", *demo.load())
    path = Path(spec)
    if _is_dir(path):
        from mixq.sources.huggingface import load_folder

        return load_folder(path, trust_remote_code=trust_remote_code)
    if path.suffix == ".pt2":
        from mixq.sources.pt2 import load_exported

        return load_exported(path)
    if path.suffix in WEIGHT_SUFFIXES:
        raise SourceError(
            f"model {spec!r} is a file of weights without an architecture, and pickled files are "
            "never read; write a function that builds the model and pass package.module:function"
        )
    if ":" in spec:
        from mixq.sources.function import load_from_function

        return load_from_function(spec)
    shown = one_line(repr(spec))
    if path.suffix == ".py" and _is_file(path):
        raise SourceError(f"model {shown} names no function; pass {one_line(spec)}:load")
    raise SourceError(f"model {shown} does not exist and is no spec; pass {CHOICES}")


def _is_file(path: Path) -> bool:
    """Whether `path` is a file; as `_is_dir`."""
    try:
        return path.is_file()
    except OSError:
        return False


def _is_dir(path: Path) -> bool:
    """Whether `path` is a folder; a text that the system takes for no path at all is none."""
    try:
        return path.is_dir()
    except OSError:
        return False
