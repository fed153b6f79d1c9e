"""Settings of a training run, checked before anything is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mixq.errors import UsageError
from mixq.training.distillation import Loss

LARGEST_SEED = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What `mixq.training.finetune.finetune` was asked; its arguments of the same names.

    Raises:
        UsageError: if one is out of its range.
    """

    weights: bool
    others: bool
    steps: int
    learning_rate: float
    batch_size: int | None
    loss: Loss
    temperature: float
    seed: int

    def __post_init__(self) -> None:
        for what, value, least in (("steps", self.steps, 0), ("batch_size", self.batch_size, 1)):
            if value is not None and value < least:
                raise UsageError(f"{what} is {value}, but it must be at least {least}")
        for what, number in (
            ("learning_rate", self.learning_rate),
            ("temperature", self.temperature),
        ):
            if not 0 < number < math.inf:
                raise UsageError(f"{what} is {number}, but it must be positive and finite")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"seed is {self.seed}, but it must lie between 0 and {LARGEST_SEED}")
        if not callable(self.loss) and self.loss not in ("mse", "kl"):
            raise UsageError(
                f"loss is {self.loss!r:.40}, but it must be 'mse', 'kl' or a function of the "
                "outputs of student and teacher"
            )

    @property
    def words(self) -> str:
        """All of them, the same for the same settings; of a function, where it is defined."""
        loss: object = self.loss
        if callable(loss):
            # All that is known of a function without running it.
            place = getattr(loss, "__qualname__", type(loss).__qualname__)
            loss = f"{getattr(loss, '__module__', '')}.{place}"
        rest = (
            self.weights, self.others, self.steps, self.learning_rate, self.batch_size,
            self.temperature, self.seed,
        )  # fmt: skip
        return repr((loss, *rest))
