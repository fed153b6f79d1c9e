"""open_folder: a Hugging Face folder as a model that is streamed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from mixq.errors import SourceError
from mixq.files import one_line
from mixq.graph.state import StoredTensor, entries
from mixq.streaming.model import StreamedModel
from mixq.streaming.shards import Shards
from mixq.streaming.skeleton import build_skeleton


def open_folder(folder: str | Path) -> StreamedModel:
    """The model of a folder with a config.json and safetensors, none of it read yet.

    Computes in 32-bit floats, whatever the files hold, as the loaded model does.

    Raises:
        SourceError: if it is no such folder, or its shards lack what the config asks for.
        ModelError: if the model has no blocks.
        MissingExtraError: without transformers.
    """
    path = Path(folder)
    model = build_skeleton(path)
    stored = _stored(model)
    shards = Shards(path)
    return StreamedModel(path.resolve().name, model, stored, shards, _keys(path, stored, shards))


def _stored(model: nn.Module) -> list[StoredTensor]:
    """As `mixq.graph.state.stored_tensors`; ties by identity, as meta tensors have no address."""
    names: dict[int, list[str]] = {}
    found: dict[int, tuple[Tensor, bool]] = {}
    for name, tensor, is_parameter in entries(model):
        names.setdefault(id(tensor), []).append(name)
        found.setdefault(id(tensor), (tensor, is_parameter))
    return [StoredTensor(tuple(names[key]), *found[key]) for key in names]


def _keys(folder: Path, stored: Sequence[StoredTensor], shards: Shards) -> dict[str, str]:
    """The name in the shards of every stored tensor, which has one of its names there."""
    keys = {
        item.names[0]: next((name for name in item.names if name in shards.shapes), "")
        for item in stored
    }
    missing = [item.names[0] for item in stored if not keys[item.names[0]]]
    wrong = [
        item.names[0]
        for item in stored
        if item.names[0] not in missing
        and shards.shapes[keys[item.names[0]]] != tuple(item.tensor.shape)
    ]
    for what, names in (("lacks", missing), ("has the wrong shape for", wrong)):
        if names:
            raise SourceError(
                f"folder {str(folder)!r} {what} {len(names)} weights that its config asks for, "
                f"the first is {one_line(names[0])}; use a complete checkpoint, or, where "
                "transformers makes them of others, analyze it without --stream"
            )
    return keys
