"""Models from a Hugging Face folder. Never a download."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import torch

from mixq.errors import MissingExtraError, SourceError
from mixq.files import one_line, parse_json, read_bounded
from mixq.sources.asked_size import require_stored
from mixq.sources.loaded import LoadedModel
from mixq.sources.reason import reason

CONFIG_BYTES: Final = 2**24
LARGEST_SIZE: Final = 2**24
"""Of a width, a vocabulary or a context; the longest context known is 10 million tokens."""
_COUNT: Final = re.compile(
    r"(num_|n_)?(hidden_|encoder_|decoder_)?layers?|(num_)?(encoder|decoder)_layers|depths?"
)
SPARE_COUNT: Final = 100
"""Layers that may have no tensor of their own."""
_SIZE: Final = re.compile(r"size|heads|dim|embeddings|positions|length|experts|channels|width")


def load_folder(folder: Path, *, trust_remote_code: bool = False) -> LoadedModel:
    """The model of a folder with a config.json and safetensors weights, in 32-bit floats.

    The class is the one that the config names, so that every stored weight is used: AutoModel
    would drop the head of a classifier, and add a random pooler to a masked language model.

    Args:
        folder: what save_pretrained wrote.
        trust_remote_code: run the Python code that it brings along, where transformers has no
            such model itself.

    Raises:
        SourceError: if the folder is no such folder, asks for code of its own, has pickled
            weights only, is quantized already, lacks weights, or does not load.
        MissingExtraError: without transformers.
    """
    transformers, model_class = architecture(folder, trust_remote_code=trust_remote_code)
    options = {
        "local_files_only": True,
        "trust_remote_code": trust_remote_code,
        "use_safetensors": True,
        "dtype": torch.float32,
        "output_loading_info": True,
    }
    path = str(folder.resolve())
    try:
        with quiet(transformers):
            if not trust_remote_code:
                config = transformers.AutoConfig.from_pretrained(
                    path, local_files_only=True, trust_remote_code=False
                )
                require_stored(folder, model_class, config)
            try:
                # Fused attention kernels hide their products from the graph.
                model, info = model_class.from_pretrained(
                    path, attn_implementation="eager", **options
                )
            except ValueError:
                model, info = model_class.from_pretrained(
                    path, attn_implementation="sdpa", **options
                )
    except SourceError:
        raise
    except load_errors() as error:
        raise SourceError(
            f"folder {str(folder)!r} cannot be loaded: {reason(error)}; check that it is complete"
        ) from error
    _require_complete(folder, info)
    if getattr(model.config, "use_cache", False):
        # The cache is an output of the forward pass that no error measure wants.
        model.config.use_cache = False
    return LoadedModel(name=folder.resolve().name, model=model.eval(), folder=folder)


def architecture(folder: Path, *, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """The transformers module, and the class of the model that a folder holds.

    Raises:
        SourceError: if the folder is no such folder, asks for code of its own, has pickled
            weights only, or is quantized already.
        MissingExtraError: without transformers.
    """
    config = _read_config(folder)
    require_plain_files(folder)
    _require_safetensors(folder)
    _require_sane(folder, config)
    transformers = import_transformers()
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    if "auto_map" in config and str(config.get("model_type")) not in transformers.CONFIG_MAPPING:
        if not trust_remote_code:
            raise SourceError(
                f"folder {str(folder)!r} needs Python code that it brings along (auto_map), and "
                "mixq runs none unasked; read that code and pass --trust-remote-code, or pass "
                "package.module:function that builds the model"
            )
        return transformers, _auto_class(transformers, config["auto_map"], name)
    return transformers, _model_class(transformers, name)


def import_output_classes(names: Iterable[str]) -> None:
    """Import classes of transformers, which registers them as containers with torch.

    Args:
        names: full names that start with `transformers.`.

    Raises:
        SourceError: if the installed transformers has no such class.
        MissingExtraError: without transformers.
    """
    import_transformers()
    for name in sorted(names):
        try:
            importlib.import_module(name.rpartition(".")[0])
        except ImportError as error:
            raise SourceError(
                f"the exported model returns a {name}, which the installed transformers lacks; "
                "install the version that it was exported with"
            ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise SourceError(
            f"folder {str(folder)!r} has no config.json, so it is no Hugging Face folder; pass "
            "the folder that save_pretrained wrote"
        )
    text = read_bounded(path, CONFIG_BYTES, SourceError, "config")
    config = parse_json(text, SourceError, f"config {path}")
    if not isinstance(config, dict):
        raise SourceError(f"{str(path)!r} is no JSON object, so it is no config")
    if "quantization_config" in config:
        raise SourceError(
            f"folder {str(folder)!r} is quantized already (quantization_config); pass the "
            "original 32-bit or 16-bit model"
        )
    return config


def _require_safetensors(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    found = next((path.name for path in sorted(folder.glob("*.bin"))), None)
    raise SourceError(
        f"folder {str(folder)!r} has {'only pickled' if found else 'no'} weights"
        f"{f' ({found})' if found else ''}, but mixq reads *.safetensors; where you trust the "
        "folder, load it with transformers and save it again with save_pretrained"
    )


def require_plain_files(folder: Path) -> None:
    """Refuse a folder with a pipe or a device in it, which transformers would wait for.

    Raises:
        SourceError: naming the first of them.
    """
    for path in sorted(folder.iterdir()):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise SourceError(
                f"{str(path)!r} is no regular file, so the folder is not read; delete it there"
            )


def _require_sane(folder: Path, config: dict[str, Any]) -> None:
    """Refuse numbers that would take all memory before the weights show that they are wrong.

    Raises:
        SourceError: naming the first of them.
    """
    tensors = sum(_tensors_in(path) for path in folder.glob("*.safetensors"))
    for key, value in _numbers(config):
        is_count = _COUNT.fullmatch(key) is not None
        most = tensors + SPARE_COUNT if is_count else LARGEST_SIZE
        if (is_count or _SIZE.search(key)) and value > most:
            why = f"has {tensors} tensors" if is_count else f"may ask for {most} at most"
            raise SourceError(
                f"folder {str(folder)!r} has {one_line(key, 60)} {one_line(value, 30)} in its "
                f"config.json, but {why}; use a complete checkpoint"
            )


def _tensors_in(path: Path) -> int:
    """Tensors of a file; none of one that is damaged, which transformers refuses by itself."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt", backend="pread") as file:
            return len(file.keys())
    except (SafetensorError, OSError, ValueError, RuntimeError):
        return 0


def _numbers(config: object) -> Iterator[tuple[str, int]]:
    """Whole numbers of a config with their keys, those of lists and parts too."""
    pending: list[tuple[str, object]] = [("", config)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            pending += [(str(name), item) for name, item in value.items()]
        elif isinstance(value, list):
            pending += [(key, item) for item in value]
        elif isinstance(value, int):
            yield key, value


def _require_complete(folder: Path, info: dict[str, Any]) -> None:
    """Refuse a model of which some weights would be random numbers."""
    missing = sorted(map(str, info["missing_keys"]))
    mismatched = sorted(str(entry[0]) for entry in info["mismatched_keys"])
    for what, names in (("lacks", missing), ("has the wrong shape for", mismatched)):
        if names:
            raise SourceError(
                f"folder {str(folder)!r} {what} {len(names)} weights that its config asks for, "
                f"the first is {names[0]}; use a complete checkpoint"
            )


def import_transformers() -> Any:
    """The transformers module, told to stay off the network.

    Raises:
        MissingExtraError: if it is not installed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "hf", "a Hugging Face folder") from error
    return transformers


def _model_class(transformers: Any, name: str) -> Any:
    """The class that a config names, if it is a model; AutoModel otherwise."""
    named = getattr(transformers, name, None)
    if isinstance(named, type) and issubclass(named, transformers.PreTrainedModel):
        return named
    return transformers.AutoModel


def _auto_class(transformers: Any, auto_map: object, name: str) -> Any:
    """The Auto class under which a folder registers its own class `name`; AutoModel otherwise."""
    entries = auto_map.items() if isinstance(auto_map, dict) else ()
    found = [
        auto
        for auto, target in entries
        if auto.startswith("AutoModel") and str(target).rpartition(".")[2] == name
    ]
    return getattr(transformers, found[0] if found else "AutoModel", transformers.AutoModel)


def load_errors() -> tuple[type[Exception], ...]:
    """What transformers 5 and its libraries raise for folders that are damaged or incomplete."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return (
        OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, ImportError,
        AssertionError, ArithmeticError, MemoryError, SafetensorError, StrictDataclassError,
    )  # fmt: skip


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Keep the loading report of transformers off stderr; what it says is checked here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
