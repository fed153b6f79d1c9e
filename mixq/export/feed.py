"""Feed: a batch as the arrays that a graph takes, by the names of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mixq.batch import Batch, named_tensors
from mixq.errors import ExportError


def feed(batch: Batch, input_names: Sequence[str]) -> dict[str, Any]:
    """The graph's inputs as numpy arrays, taken by name, or in the order of the inputs.

    Raises:
        ExportError: if the batch lacks one.
    """
    named = named_tensors(batch)
    given = dict(named)
    if not isinstance(batch, dict):
        given = dict(zip(input_names, (tensor for _, tensor in named), strict=False))
    missing = [name for name in input_names if name not in given]
    if missing:
        raise ExportError(
            f"the file needs input {missing[0]!r:.100}, which the batch lacks; it takes "
            f"{', '.join(input_names)}"
        )
    return {name: given[name].detach().cpu().numpy() for name in input_names}
