"""TextSession: a written folder, loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mixq.batch import Batch
from mixq.errors import ExportError
from mixq.export.onnx.session import OnnxSession
from mixq.files import one_line, parse_json, read_bounded

MODEL: Final = "model.onnx"
CONFIG: Final = "genai_config.json"
_CONFIG_BYTES: Final = 1 << 20


class TextSession:
    """A folder of onnxruntime-genai: its logits by ONNX Runtime, its text by onnxruntime-genai.

    The logits come from the same model.onnx with an empty cache of keys and values, because
    onnxruntime-genai itself hands out those of the last position alone.

    Args:
        path: the folder.
        threads: that a pass may use.

    Raises:
        ExportError: if it does not load.
        MissingExtraError: without onnxruntime.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self._path, self._threads = path, threads
        what = f"configuration {one_line(path / CONFIG)}"
        text = read_bounded(path / CONFIG, _CONFIG_BYTES, ExportError, "configuration")
        settings = parse_json(text, ExportError, what)
        try:
            decoder = settings["model"]["decoder"]  # type: ignore[index]
            self._cache_shape = (int(decoder["num_key_value_heads"]), 0, int(decoder["head_size"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ExportError(
                f"{what} has no heads of a decoder; write the folder again"
            ) from error
        self._session = OnnxSession(path / MODEL, threads=threads)

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """`logits` (samples, positions, vocabulary) of token ids.

        Raises:
            ExportError: if a sample is padded on its left, or ONNX Runtime does not take the ids.
        """
        ids, mask = _ids_and_mask(batch)
        feeds = {"input_ids": ids, "attention_mask": mask}
        for name in self._session.input_names:
            if name == "position_ids":
                feeds[name] = torch.arange(ids.shape[1]).expand(ids.shape).contiguous()
            elif name not in feeds:
                feeds[name] = torch.zeros(len(ids), *self._cache_shape)
        return {"logits": self._session.run(feeds)["logits"]}

    def generate(self, prompt: str, max_tokens: int) -> str:
        """What onnxruntime-genai writes after `prompt`, the likeliest token each time.

        Raises:
            ExportError: if it does not load there.
        """
        with self._generating() as (genai, model):
            tokenizer = genai.Tokenizer(model)
            tokens = self._following(genai, model, tokenizer.encode(prompt), max_tokens)
            text: str = tokenizer.decode(tokens)
        return text

    def following(self, tokens: Sequence[int], count: int) -> list[int]:
        """The likeliest `count` tokens after `tokens`, fewer where an end of text is among them.

        Raises:
            ExportError: if it does not load in onnxruntime-genai.
        """
        with self._generating() as (genai, model):
            return [int(token) for token in self._following(genai, model, tokens, count)]

    @contextmanager
    def _generating(self) -> Iterator[tuple[Any, Any]]:
        """onnxruntime-genai and the model in it, whose errors become one line."""
        import onnxruntime_genai

        genai: Any = onnxruntime_genai
        options = {"intra_op_num_threads": self._threads}
        try:
            config = genai.Config(str(self._path))
            config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
            yield genai, genai.Model(config)
        except RuntimeError as error:
            raise ExportError(
                f"{one_line(self._path)} does not run in onnxruntime-genai: {one_line(error)}"
            ) from error

    def _following(self, genai: Any, model: Any, tokens: Sequence[int], count: int) -> Any:
        params = genai.GeneratorParams(model)
        params.set_search_options(max_length=len(tokens) + count, do_sample=False)
        generator = genai.Generator(model, params)
        generator.append_tokens(tokens)
        while not generator.is_done():
            generator.generate_next_token()
        return generator.get_sequence(0)[len(tokens) :]

    def close(self) -> None:
        """Free what ONNX Runtime holds."""
        self._session.close()


def _ids_and_mask(batch: Batch) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (samples, positions)."""
    if isinstance(batch, Tensor):
        ids, mask = batch, None
    elif isinstance(batch, tuple):
        ids, mask = batch[0], batch[1] if len(batch) > 1 else None
    else:
        ids, mask = batch["input_ids"], batch.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask.to(torch.int64)
    if bool((mask.diff(dim=1) > 0).any()):
        raise ExportError(
            "a sample is padded on its left, but the graph of onnxruntime-genai counts positions "
            "from the first one on; pad on the right, or not at all"
        )
    return ids.to(torch.int64), mask
