"""Request: what a search is asked for, refused before anything is loaded if it makes no sense."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal, cast, get_args

from mixq.errors import UsageError
from mixq.search.budget import Budget
from mixq.search.palette import Palette
from mixq.sensitivity.metrics.choice import MetricChoice

DEFAULT_BITS: Final = (32, 8, 4, 2)
DEFAULT_TRIALS: Final = 8
DEFAULT_ROUNDS: Final = 3
Sensitivity = Literal["auto", "measured", "sketch"]
Equalize = Literal["none", "fold", "cross-layer", "input", "all"]
Sampler = Literal["mixq", "tpe", "nsga2", "random"]


@dataclass(frozen=True)
class Request:
    """Demands on a plan, and how to look for it.

    Attributes:
        budget: at least one demand.
        palette: formats to choose from.
        pins: unit name pattern to width.
        ties: patterns; the units that match one take one format together.
        trials: plans of least added error to measure beside the uniform ones.
        seed: the same seed gives the same plan.
        batch_size: samples per forward pass of the predicted workload.
        threads: of the predicted workload; None is the profile's own.
        samples: calibration samples that sensitivities and plans are measured on; None is all
            that rounding has not learnt from.
            Rounding learns from all of them in any case.
        sequential: whether the chosen plan is rounded once more, in the order in which units run
            (`mixq.rounding.sequential`), and kept so if that errs less; None does it where it
            takes no longer than measuring has.
        equalize: how the model is rewritten first; see `mixq.search.equalize`.
        sensitivity: how sensitivities are found; see `mixq.search.sensitivities`.
        workers: processes that measure them.
        device: where the model is run while they and plans are measured.
        metric: of output error, and of which outputs.
        rounds: of refinement: how often changes of the best plan are measured around it, see
            `mixq.search.refine`; 0 for never.
        sampler: who proposes plans; see `mixq.search.study.sampled`.

    Raises:
        UsageError: if there is no demand, or a number is out of its range.
    """

    budget: Budget
    palette: Palette = field(default_factory=lambda: Palette(DEFAULT_BITS))
    pins: Mapping[str, int] = field(default_factory=dict)
    ties: Sequence[str] = ()
    trials: int = DEFAULT_TRIALS
    seed: int = 0
    batch_size: int = 1
    threads: int | None = None
    samples: int | None = None
    sequential: bool | None = None
    equalize: Equalize = "none"
    sensitivity: Sensitivity = "auto"
    workers: int = 1
    device: str = "cpu"
    metric: MetricChoice = field(default_factory=MetricChoice)
    rounds: int = DEFAULT_ROUNDS
    sampler: Sampler = "mixq"

    def __post_init__(self) -> None:
        if not self.budget.to_dict():
            raise UsageError(
                "no demand is given, so there is nothing to search for; give one, such as "
                "--target-compression 6 (target_compression=6)"
            )
        for option, value, least in (
            ("--trials", self.trials, 1),
            ("--seed", self.seed, 0),
            ("--batch-size", self.batch_size, 1),
            ("--samples", 1 if self.samples is None else self.samples, 1),
            ("--workers", self.workers, 1),
            ("--rounds", self.rounds, 0),
        ):
            if value < least:
                raise UsageError(f"{option} is {value}, but it must be at least {least}")
        check_equalize(self.equalize)
        if self.sensitivity not in get_args(Sensitivity):
            raise UsageError(
                f"--sensitivity is {self.sensitivity!r:.40}, but it must be one of "
                f"{', '.join(get_args(Sensitivity))}"
            )
        check_sketchable(self.sensitivity, self.metric)
        check_sampler(self.sampler, self.budget)


def check_sketchable(sensitivity: Sensitivity, metric: MetricChoice) -> None:
    """Refuse a sketch of a user's loss.

    Raises:
        UsageError: if that is asked for.
    """
    if sensitivity == "sketch" and metric.is_loss:
        raise UsageError(
            "--sensitivity sketch estimates built-in metrics alone, not a loss of your own; use "
            "--sensitivity auto or measured"
        )


def check_sampler(name: str, budget: Budget) -> None:
    """Refuse an unknown sampler, and Optuna's own where nothing says which plans are too large.

    Raises:
        UsageError: if there is none of this name, or it cannot serve the demands.
    """
    if name not in get_args(Sampler):
        raise UsageError(
            f"--sampler is {name!r:.40}, but it must be one of {', '.join(get_args(Sampler))}"
        )
    if name != "mixq" and not set(budget.to_dict()) - {"max_error", "max_metric_drop"}:
        raise UsageError(
            f"--sampler {name} looks for the least error under a limit on bytes or time, but none "
            "is demanded; add one, such as --target-compression 6, or use --sampler mixq"
        )


def check_equalize(name: str) -> Equalize:
    """The rewriting of this name.

    Raises:
        UsageError: if there is none.
    """
    if name not in get_args(Equalize):
        raise UsageError(
            f"--equalize is {name!r:.40}, but it must be one of {', '.join(get_args(Equalize))}"
        )
    return cast("Equalize", name)


def demands(
    *,
    target_compression: float | None = None,
    max_size_mb: float | None = None,
    max_latency_ms: float | None = None,
    min_speedup: float | None = None,
    max_memory_mb: float | None = None,
    max_error: float | None = None,
    max_metric_drop: float | None = None,
) -> Budget:
    """The demands of the command line, in its units, as a Budget in SI units.

    Raises:
        UsageError: for a demand that is not a positive finite number.
    """
    return Budget(
        compression=target_compression,
        max_size_bytes=_bytes("--max-size-mb", max_size_mb),
        max_latency_s=None if max_latency_ms is None else max_latency_ms / 1e3,
        min_speedup=min_speedup,
        max_memory_bytes=_bytes("--max-memory-mb", max_memory_mb),
        max_error=max_error,
        max_metric_drop=max_metric_drop,
    )


def _bytes(option: str, megabytes: float | None) -> int | None:
    """Whole bytes of so many megabytes of 10^6, exactly: 16.4 MB are 16,400,000 bytes."""
    if megabytes is None:
        return None
    if not math.isfinite(megabytes):
        raise UsageError(
            f"{option} is {megabytes}, but it must be finite and positive; leave it out to demand "
            "nothing"
        )
    return math.floor(Decimal(repr(float(megabytes))).scaleb(6))
