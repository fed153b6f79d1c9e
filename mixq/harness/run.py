"""Run: everything from a file and names of tasks to scores, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from mixq.harness.candidate import candidate, load_tokenizer, original
from mixq.harness.evaluation import Evaluation, evaluate_tasks
from mixq.harness.settings import Settings
from mixq.harness.tasks import find_tasks, load_tasks
from mixq.progress import Progress, silent


def run(
    target: str | Path,
    model: nn.Module,
    tokenizer: str | Path,
    tasks: Sequence[str],
    *,
    include: Sequence[str | Path] = (),
    settings: Settings | None = None,
    beside: bool = True,
    threads: int = 1,
    allow_code: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """What `mixq evaluate TARGET --tasks ...` measures.

    Args:
        target: plan.json, a file of `mixq apply`, an ONNX file, or a folder of onnxruntime-genai.
        model: the original, a causal language model of transformers.
        tokenizer: Hugging Face folder that holds it.
        tasks: names or patterns.
        include: folders with definitions of tasks.
        settings: how they are run.
        beside: whether the original is asked too.
        threads: of ONNX Runtime.
        allow_code: whether tasks may run the programs that the model writes.
        progress: is told of every answer.

    Raises:
        MixqError: its kinds, as `mixq evaluate` refuses.
    """
    selection = find_tasks(tasks, [Path(folder) for folder in include], allow_code=allow_code)
    words = load_tokenizer(Path(tokenizer))
    asked = candidate(Path(target), model, words, threads=threads)
    first = original(model, words, type(model).__name__) if beside else None
    loaded = load_tasks(selection)
    return evaluate_tasks(loaded, asked, first, settings or Settings(), progress=progress)
