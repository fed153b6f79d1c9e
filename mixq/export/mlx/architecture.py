"""Architecture: mlx-lm's model for a configuration, without weights, and its names for ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from mixq.errors import ExportError
from mixq.export.mlx.library import core, lm_utils
from mixq.files import one_line


def mlx_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of transformers 5 as mlx-lm reads it.

    transformers 5 keeps `rope_theta`, `partial_rotary_factor` and the scaling of positions in
    `rope_parameters`; most of mlx-lm's models look for them outside of it, and fall back to
    defaults without a word.
    """
    result = dict(config)
    rope = config.get("rope_parameters")
    if isinstance(rope, Mapping) and "rope_type" in rope:
        for key in ("rope_theta", "partial_rotary_factor"):
            if rope.get(key) is not None:
                result[key] = rope[key]
        if rope["rope_type"] != "default":
            result["rope_scaling"] = {**rope, "type": rope["rope_type"]}
        else:
            result["rope_scaling"] = None
    return result


def skeleton(config: Mapping[str, Any]) -> Any:
    """mlx-lm's model for a configuration; its random weights are never computed.

    Raises:
        ExportError: if mlx-lm has no such architecture, or not with these settings.
        MissingExtraError: if it is not installed.
    """
    utils = lm_utils()
    kind = config["model_type"]
    known = known_architectures(utils)
    if kind not in known:
        close = [*get_close_matches(kind, known, 3), "llama", "qwen2", "phi3"]
        raise ExportError(
            f"architecture {kind!r:.60} is none of the {len(known)} of mlx-lm "
            f"({', '.join(close)}, ...: the files of mlx_lm/models); "
            "choose another runtime"
        )
    try:
        model_class, arguments = utils._get_classes(config=dict(config))
        return model_class(arguments.from_dict(dict(config)))
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise ExportError(
            f"mlx-lm's {kind} does not take this configuration: {one_line(error)}; "
            "choose another runtime"
        ) from error


def known_architectures(utils: Any) -> list[str]:
    """Model types that mlx-lm knows: its modules with a `Model`, and other names for them."""
    folder = Path(import_module("mlx_lm.models").__path__[0])
    found = {
        file.stem for file in folder.glob("*.py") if "class Model(" in file.read_text("utf-8")
    }
    return sorted(found | set(utils.MODEL_REMAPPING))


def renamed(
    model: Any, plain: Mapping[str, Any], packed: Mapping[str, Iterable[int]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What mlx-lm makes of a checkpoint's tensors, by its own `sanitize`.

    Args:
        model: of mlx-lm.
        plain: mlx arrays of what is not packed, by transformers' names.
        packed: shapes of the packed parameters by their names, aliases included.

    Returns:
        The plain arrays by mlx-lm's names, and mlx-lm's name -> ours of the packed ones; what the
        model has no use for (a tied head) is in neither, nor is a packed one that it transposes
        or stacks.
    """
    mx = core()
    stand_ins = {name: mx.zeros(tuple(shape)) for name, shape in packed.items()}
    ours = {id(array): name for name, array in stand_ins.items()}
    given = {**plain, **stand_ins}
    result = model.sanitize(dict(given)) if hasattr(model, "sanitize") else given
    kept = {name: array for name, array in result.items() if id(array) not in ours}
    names = {name: ours[id(array)] for name, array in result.items() if id(array) in ours}
    return kept, names
