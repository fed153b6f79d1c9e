"""Folder: what the exports that are Hugging Face folders share.

A folder holds `config.json`, one safetensors file and the tokenizer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from mixq.errors import ExportError, OutputError
from mixq.export.source import Source
from mixq.files import json_text, one_line
from mixq.formats import Format
from mixq.plan import Plan

WEIGHTS_FILE: Final = "model.safetensors"
CONFIG_FILE: Final = "config.json"
COMPANIONS: Final = (
    "tokenizer*.json",
    "tokenizer*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
    "*.jinja",
    "generation_config.json",
)
"""Files beside the weights that a runtime reads: the tokenizer and how to generate."""


def check_model(source: Source, runtime: str) -> None:
    """Refuse what is no transformers model, and plans whose rewriting its class cannot hold.

    Raises:
        ExportError: without a `config` of transformers, or if the plan adds or takes away tensors.
    """
    config = getattr(source.model, "config", None)
    if not isinstance(getattr(config, "model_type", None), str) or not hasattr(config, "to_dict"):
        raise ExportError(
            f"model {type(source.model).__name__} is no model of transformers (it has no config "
            f"with a model_type), but {runtime} writes folders of those; choose another runtime"
        )
    before, after = set(source.model.state_dict()), set(source.restored.state_dict())
    changed = sorted(before ^ after)
    if changed:
        raise ExportError(
            f"the plan's equalization adds or removes {len(changed)} tensors "
            f"({one_line(changed[0], 80)}), which {type(source.model).__name__} has no place for; "
            "search with --equalize none, or choose another runtime"
        )


def formats(plan: Plan) -> dict[str, Format]:
    """The format of every unit that a file stores in fewer than 32 bits."""
    return {name: layer.format for name, layer in plan.layers.items() if layer.bits != 32}


def halves(plan: Plan) -> set[str]:
    """All names of the parameters that the plan stores as 16-bit floats."""
    kept = {name: layer for name, layer in plan.layers.items() if layer.bits == 16}
    return {*kept, *(alias for layer in kept.values() for alias in layer.aliases)}


def owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module of the parameter `name`, and its name there."""
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def config_of(source: Source) -> dict[str, Any]:
    """All of the model's configuration, with the class that the weights are of.

    Defaults are spelled out, because another library's may differ.
    """
    # Its own text, not to_dict: infinity is spelled there as transformers and mlx-lm read it.
    made: Any = source.model.config
    config: dict[str, Any] = json.loads(made.to_json_string(use_diff=False))
    for key in ("quantization_config", "_name_or_path"):
        config.pop(key, None)
    config["architectures"] = [type(source.model).__name__]
    # Without it transformers takes the dtype of the file's first tensor, which may be a scale.
    dtypes = [p.dtype for p in source.model.parameters() if p.is_floating_point()]
    config["dtype"] = str(dtypes[0]).removeprefix("torch.")
    return config


def unwritable(path: Path, error: Exception) -> OutputError:
    """What is raised where a library cannot write a file and raises an error of its own."""
    return OutputError(
        f"{one_line(path.name)} cannot be written: {one_line(error)}; make room or choose another "
        "place"
    )


def write_folder(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Source
) -> int:
    """Write configuration, tensors and tokenizer into the folder `path`.

    Returns:
        Bytes of the tensors.

    Raises:
        OutputError: if the tensors cannot be written, on a full disk for instance.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.mkdir(exist_ok=True)
    for pattern in COMPANIONS if source.folder is not None else ():
        assert source.folder is not None
        for file in sorted(source.folder.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, path / file.name)
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:  # as `save_pretrained` of transformers writes it
        save_file(plain, path / WEIGHTS_FILE, metadata={"format": "pt"})
    except SafetensorError as error:
        raise unwritable(path / WEIGHTS_FILE, error) from error
    (path / CONFIG_FILE).write_text(json_text(dict(config)), encoding="utf-8")
    return sum(tensor.numel() * tensor.element_size() for tensor in plain.values())
