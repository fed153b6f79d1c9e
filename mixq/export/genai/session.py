"""TextSession: a written folder, loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from mixq.batch import Batch
from mixq.errors import ExportError
from mixq.files import one_line, parse_json, read_bounded

CONFIG: Final = "genai_config.json"
_CONFIG_BYTES: Final = 1 << 20
_FATAL: Final = 4
"""Severity of ONNX Runtime's log: errors are raised, and need not be printed as well."""


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
        self._errors = _runtime_errors()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _FATAL
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except self._errors as error:
            raise ExportError(
                f"{one_line(path)} does not load in ONNX Runtime: {one_line(error)}"
            ) from error
        text = read_bounded(path / CONFIG, _CONFIG_BYTES, ExportError, "configuration")
        settings: Any = parse_json(text, ExportError, f"configuration {path / CONFIG}")
        self._head_size = int(settings["model"]["decoder"]["head_size"])

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """`logits` (samples, positions, vocabulary) of `input_ids`, of all positions.

        Raises:
            ExportError: if a sample is padded, or ONNX Runtime refuses the input.
        """
        ids = _token_ids(batch)
        feeds: dict[str, Any] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        for item in self._session.get_inputs():
            if item.name == "position_ids":
                feeds[item.name] = np.tile(np.arange(ids.shape[1]), (len(ids), 1))
            elif item.name not in feeds:  # past keys and values (samples, heads, 0, head size)
                shape = (len(ids), int(item.shape[1]), 0, self._head_size)
                feeds[item.name] = np.zeros(shape, dtype=np.float32)
        try:
            (logits,) = self._session.run(["logits"], feeds)
        except self._errors as error:
            raise ExportError(
                f"{one_line(self._path)} does not run in ONNX Runtime: {one_line(error)}"
            ) from error
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


def _token_ids(batch: Batch) -> Any:
    """Token ids (samples, positions) as int64, of samples without padding."""
    if isinstance(batch, Tensor):
        ids, mask = batch, None
    elif isinstance(batch, tuple):
        ids, mask = batch[0], batch[1] if len(batch) > 1 else None
    else:
        ids, mask = batch["input_ids"], batch.get("attention_mask")
    if mask is not None and not bool((mask == 1).all()):
        raise ExportError(
            "a calibration sample is padded, but the graph of onnxruntime-genai counts every "
            "position from the first token on; calibrate with texts of one length"
        )
    return ids.to(torch.int64).numpy()


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: classes for its codes that share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = [value for value in vars(state).values() if isinstance(value, type)]
    own = [value for value in found if issubclass(value, Exception)]
    return (*own, RuntimeError, ValueError)
