"""lm-evaluation-harness itself: whether it is there, and how it keeps quiet."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, Final

from mixq.errors import MissingExtraError

NEEDED: Final = ("lm_eval", "accelerate", "transformers")
"""accelerate is what the harness imports with its model of transformers."""
CODE_METRICS: Final = "HF_ALLOW_CODE_EVAL"
"""Environment variable without which Hugging Face's metrics run no generated code."""


def allow_downloads() -> None:
    """Let data sets of tasks be fetched, unless the user has forbidden it (HF_HUB_OFFLINE=1).

    To be called before anything imports huggingface_hub, which reads the variable once. Models
    and tokenizers are still read from folders alone.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "0")


def require() -> None:
    """Refuse to go on without the harness.

    Raises:
        MissingExtraError: if it, or what it needs, is not installed.
    """
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MissingExtraError(name, "lm-eval", "evaluation on tasks") from error


@contextlib.contextmanager
def quiet(*, code_allowed: bool = False) -> Iterator[None]:
    """Keep the harness's bars, prints and remarks off the screen while it works.

    Args:
        code_allowed: whether metrics that run generated code may do so meanwhile.
    """
    import datasets

    transformers: Any = importlib.import_module("transformers")
    tqdm: Any = importlib.import_module("tqdm").tqdm

    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars, verbosity = tqdm.__init__, transformers.utils.logging.get_verbosity()
    variables = {"DISABLE_MULTIPROC": "1", **({CODE_METRICS: "1"} if code_allowed else {})}
    before = {name: os.environ.get(name) for name in variables}
    had_bars = datasets.utils.logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()

    def hidden(bar: Any, *args: Any, **options: Any) -> None:
        bars(bar, *args, **{**options, "disable": True})

    tqdm.__init__ = hidden
    os.environ.update(variables)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        tqdm.__init__ = bars
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        transformers.utils.logging.set_verbosity(verbosity)
        if had_bars:
            datasets.enable_progress_bars()
