"""Evaluation: a plan and its original on tasks."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Final

from torch import nn

from mixq import __version__
from mixq.errors import MixqError, ModelError, UsageError
from mixq.files import one_line
from mixq.harness.candidate import Candidate
from mixq.harness.library import quiet
from mixq.harness.prepare import prepare
from mixq.harness.progress import Counter
from mixq.harness.score import Score
from mixq.harness.scores import scores
from mixq.harness.settings import Settings
from mixq.harness.tasks import Tasks
from mixq.packed_module import weights_kept
from mixq.progress import Progress, silent

SCHEMA_VERSION: Final = 1
BOOTSTRAPS: Final = 1000
"""Resamplings for averages that have no formula, such as F1; those of means have one."""
PACKAGES: Final = ("lm_eval", "torch", "transformers", "datasets")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured.

    Attributes:
        scores: every metric, quantized beside original.
        settings: that it was measured with.
        tasks: that were asked for.
        quantized, original: the harness's results, without the answers to single documents.
        about: the quantized model.
        about_original: the original; None if it was not asked.
    """

    scores: tuple[Score, ...]
    settings: Settings
    tasks: tuple[str, ...]
    quantized: Mapping[str, Any]
    original: Mapping[str, Any] | None
    about: Mapping[str, object]
    about_original: Mapping[str, object] | None

    def to_json(self) -> dict[str, object]:
        """Everything as JSON, with where it comes from."""
        return {
            "schema_version": SCHEMA_VERSION,
            "mixq_version": __version__,
            "versions": {name: version(name) for name in PACKAGES},
            "machine": platform.platform(),
            "tasks": list(self.tasks),
            "settings": asdict(self.settings),
            "model": dict(self.about),
            "original_model": None if self.about_original is None else dict(self.about_original),
            "scores": [score.to_json() for score in self.scores],
            "results": _plain(self.quantized),
            "original_results": None if self.original is None else _plain(self.original),
        }


def evaluate_tasks(
    tasks: Tasks,
    quantized: Candidate,
    original: Candidate | None,
    settings: Settings,
    *,
    progress: Progress = silent,
) -> Evaluation:
    """Ask one model after the other.

    Raises:
        UsageError: if the tokenizer has no chat template, and one is asked for.
        ModelError: if a task cannot be asked, or its answers cannot be judged.
        MissingExtraError: without the harness or a runtime.
    """
    before = None if original is None else _ask(original, tasks, settings, progress)
    after = _ask(quantized, tasks, settings, progress)
    return Evaluation(
        scores=scores(tasks, after, before), settings=settings, tasks=tasks.names,
        quantized=_without_answers(after),
        original=None if before is None else _without_answers(before),
        about=quantized.about, about_original=None if original is None else original.about,
    )  # fmt: skip


def _ask(
    asked: Candidate, tasks: Tasks, settings: Settings, progress: Progress
) -> Mapping[str, Any]:
    from lm_eval.evaluator import evaluate

    model = asked.build(settings.batch_size, Counter(asked.name, progress))
    if settings.chat and not getattr(model.tokenizer, "chat_template", None):
        raise UsageError(
            "--apply-chat-template needs a template, but the tokenizer has none; leave it out, or "
            "pass --tokenizer FOLDER of one that has"
        )
    # What tasks and templates raise when a document is not what they expect, an answer cannot be
    # judged, or a prompt does not fit the model: assertions first of all.
    faults = (
        ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError,
        ArithmeticError,
    )  # fmt: skip
    try:
        with quiet(code_allowed=tasks.allow_code), _weights_kept(model):
            prepare(tasks, settings)
            results: Any = evaluate(
                model,
                task_dict={"tasks": dict(tasks.leaves), "groups": dict(tasks.groups)},
                limit=settings.limit,
                apply_chat_template=settings.chat,
                fewshot_as_multiturn=settings.chat,
                bootstrap_iters=BOOTSTRAPS,
                confirm_run_unsafe_code=tasks.allow_code,
            )
    except MixqError:
        raise
    except faults as error:
        reason = one_line(error, 200) or "no message"
        raise ModelError(
            f"{asked.name} cannot be evaluated on {', '.join(tasks.names)}: "
            f"{type(error).__name__}: {reason}; try one task at a time"
        ) from error
    answered: Mapping[str, Any] = results
    return answered


@contextmanager
def _weights_kept(model: Any) -> Iterator[None]:
    """What PyTorch computes with; token by token, dequantizing takes five times as long."""
    module = getattr(model, "model", None)
    with weights_kept(module) if isinstance(module, nn.Module) else nullcontext():
        yield


def _without_answers(results: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in results.items() if key != "samples"}


def _plain(value: object) -> object:
    """JSON values; functions and the like as their names, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None
    return getattr(value, "__name__", None) or str(value)
