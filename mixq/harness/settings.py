"""Settings: how tasks are run."""

from __future__ import annotations

from dataclasses import dataclass

from mixq.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """How tasks are run.

    Attributes:
        limit: documents of each task, the first ones; all if None. For trying things out.
        num_fewshot: examples before each question; each task's own number if None.
        batch_size: texts that are computed together.
        seed: of the examples and of sampling; the harness's own seeds if None, with which
            published figures were made.
        chat: whether questions are put into the tokenizer's chat template.

    Raises:
        UsageError: for a number that is too small.
    """

    limit: int | None = None
    num_fewshot: int | None = None
    batch_size: int = 8
    seed: int | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        for option, value, least in (
            ("limit", self.limit, 1), ("num-fewshot", self.num_fewshot, 0),
            ("batch-size", self.batch_size, 1), ("seed", self.seed, 0),
        ):  # fmt: skip
            if value is not None and value < least:
                raise UsageError(f"--{option} is {value}, but must be at least {least}")
