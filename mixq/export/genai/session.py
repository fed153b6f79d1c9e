"""TextSession: a written folder, loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixq.batch import Batch
from mixq.errors import ExportError
from mixq.files import one_line


class TextSession:
    """A folder of onnxruntime-genai: its logits by ONNX Runtime, its text by onnxruntime-genai.

    The logits of a whole batch come from the same model.onnx with an empty cache of keys and
    values, because onnxruntime-genai itself hands out those of the last position alone.

    Raises:
        ExportError: if it does not load.
    """

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        self._path = path
        self._threads = threads
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
            settings = json.loads((path / "genai_config.json").read_text(encoding="utf-8"))
        except (RuntimeError, ValueError, OSError) as error:
            raise ExportError(
                f"{one_line(path)} does not load in ONNX Runtime: {one_line(error)}"
            ) from error
        self._head_size = int(settings["model"]["decoder"]["head_size"])

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """`logits` (samples, positions, vocabulary) of `input_ids`, of all positions.

        Raises:
            ExportError: if a sample is padded: the graph counts the positions of a sample alone.
        """
        ids, mask = _ids_and_mask(batch)
        feeds = {"input_ids": ids, "attention_mask": mask}
        if "position_ids" in {item.name for item in self._session.get_inputs()}:
            feeds["position_ids"] = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        for item in self._session.get_inputs():
            if item.name not in feeds:  # (samples, heads, 0, size of a head)
                shape = (len(ids), int(item.shape[1]), 0, self._head_size)
                feeds[item.name] = np.zeros(shape, dtype=np.float32)
        (logits,) = self._session.run(["logits"], feeds)
        return {"logits": torch.from_numpy(logits)}

    def generate(self, prompt: str, max_tokens: int) -> str:
        """What onnxruntime-genai writes after `prompt`, the likeliest token each time.

        Raises:
            ExportError: if it does not load there.
        """
        import onnxruntime_genai as genai

        try:
            config = genai.Config(str(self._path))
            options = {"intra_op_num_threads": self._threads}
            config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
            model = genai.Model(config)
            tokenizer = genai.Tokenizer(model)
            tokens = tokenizer.encode(prompt)
            params = genai.GeneratorParams(model)
            params.set_search_options(max_length=len(tokens) + max_tokens, do_sample=False)
            generator = genai.Generator(model, params)
            generator.append_tokens(tokens)
            while not generator.is_done():
                generator.generate_next_token()
            text: str = tokenizer.decode(generator.get_sequence(0)[len(tokens) :])
        except RuntimeError as error:
            raise ExportError(
                f"{one_line(self._path)} does not run in onnxruntime-genai: {one_line(error)}"
            ) from error
        return text

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _ids_and_mask(batch: Batch) -> tuple[Any, Any]:
    if isinstance(batch, Tensor):
        ids, mask = batch, None
    elif isinstance(batch, tuple):
        ids, mask = batch[0], batch[1] if len(batch) > 1 else None
    else:
        ids, mask = batch["input_ids"], batch.get("attention_mask")
    if mask is not None and not bool((mask == 1).all()):
        raise ExportError(
            "a sample of the calibration is padded, but the graph of onnxruntime-genai counts "
            "positions from the first token on; calibrate with texts of one length"
        )
    whole = ids.to(torch.int64).numpy()
    return whole, np.ones_like(whole)
