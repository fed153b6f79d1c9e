"""MlxSession: a folder that mlx-lm has loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

from torch import Tensor

from mixq.batch import Batch, describe, named_tensors
from mixq.errors import ExportError
from mixq.export.mlx.library import core, lm_utils
from mixq.export.mlx.tensors import from_mlx
from mixq.files import one_line


@final
class MlxSession:
    """A causal language model in mlx, computed on the CPU."""

    def __init__(self, path: Path) -> None:
        utils, mx = lm_utils(), core()
        try:
            with mx.stream(mx.cpu):
                self._model: Any = utils.load_model(path)[0]
        except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise ExportError(
                f"mlx-lm does not load {one_line(path)}: {one_line(error)}; export it again"
            ) from error

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The logits of a batch of token ids.

        Raises:
            ExportError: if the batch holds other inputs, or padding on the left.
        """
        mx = core()
        ids = mx.array(_token_ids(batch).numpy())
        with mx.stream(mx.cpu):
            logits = self._model(ids).astype(mx.float32)
            mx.eval(logits)
        return {"logits": from_mlx(logits)}

    def close(self) -> None:
        """Free the weights."""
        self._model = None


def _token_ids(batch: Batch) -> Tensor:
    inputs = dict(named_tensors(batch))
    ids = inputs.pop("input_ids", inputs.pop("0", None))
    mask = inputs.pop("attention_mask", None)
    inputs.pop("labels", None)
    # A causal model never looks to the right, so padding there changes nothing that counts.
    padded_right = mask is None or bool((mask[:, 1:] <= mask[:, :-1]).all())
    if ids is None or inputs or not padded_right:
        raise ExportError(
            f"a batch is [{describe(batch)}], but mlx-lm's models take input_ids alone; "
            "calibrate with those, without padding on the left"
        )
    return ids
