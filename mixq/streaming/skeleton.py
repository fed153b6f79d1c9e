"""Skeleton: a model made from its config, with parameters that have no data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixq.errors import SourceError
from mixq.sources.huggingface import architecture, load_errors, quiet
from mixq.sources.reason import reason
from mixq.streaming.absent import without_data


def build_skeleton(folder: Path) -> nn.Module:
    """The model that the config of a Hugging Face folder names, in eval mode.

    Its parameters are absent. Buffers are real: rotary frequencies, say, stand in no file and are
    computed from the config.

    Raises:
        SourceError: if the folder is none that mixq loads, or the config makes no model.
        MissingExtraError: without transformers.
    """
    transformers, model_class = architecture(folder)
    options = {"local_files_only": True, "trust_remote_code": False}
    path = str(folder.resolve())
    try:
        with quiet(transformers), _parameters_on_meta():
            config = transformers.AutoConfig.from_pretrained(path, **options)
            try:
                model = _made(transformers, model_class, config, "eager")
            except ValueError:
                model = _made(transformers, model_class, config, "sdpa")
    except load_errors() as error:
        raise SourceError(
            f"folder {str(folder)!r} makes no model: {reason(error)}; check its config.json"
        ) from error
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False
    made: nn.Module = model.eval()
    without_data(made)
    return made


def _made(transformers: Any, model_class: Any, config: Any, attention: str) -> Any:
    if model_class is transformers.AutoModel:
        model_class = transformers.MODEL_MAPPING[type(config)]
    return model_class._from_config(config, attn_implementation=attention, dtype=torch.float32)


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Every parameter that a module registers loses its data at once, before it is filled.

    `torch.device("meta")` would take the data of buffers too.
    """
    register = nn.Module.register_parameter

    def registered(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    nn.Module.register_parameter = registered  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
