"""Headline: the chosen plan in one sentence, in tiles, and beside what else could be had."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mixq.files import one_line
from mixq.plan import Plan
from mixq.plan_parts import EVERYWHERE, Measurement, Prediction, UniformInfo
from mixq.report.html.figures import (
    ALIKE,
    bytes_text,
    number,
    percent_up,
    ratio_text,
    speed_text,
    time_text,
)

Tone: TypeAlias = Literal["", "main", "good", "bad"]
"""Of a part of the sentence: said in passing, the point, and whether that is good news."""


@dataclass(frozen=True)
class Tile:
    """One number large, with what it was and what it stands on."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class Row:
    """One plan of the comparison."""

    name: str
    is_chosen: bool
    size: str
    compression: str
    error: str
    latency: str
    metric: str


@dataclass(frozen=True)
class Headline:
    """The answer.

    Attributes:
        parts: of the sentence, each with what it is to the reader.
        columns: names of the columns of `rows`.
    """

    parts: tuple[tuple[str, Tone], ...]
    tiles: tuple[Tile, ...]
    rows: tuple[Row, ...]
    error_title: str
    metric_title: str

    @property
    def sentence(self) -> str:
        """All parts as they are read."""
        return "".join(text for text, _ in self.parts)

    @classmethod
    def of(cls, plan: Plan) -> Headline:
        """The headline of a plan."""
        heldout = plan.measured.heldout_error is not None
        name = plan.error_metric.name
        error = "output error" if name == "mse" else one_line(name, 40)
        metric = next(iter(plan.measured.metric), "")
        return cls(
            tuple(_sentence(plan)),
            tuple(_tiles(plan)),
            tuple(_rows(plan, metric, heldout=heldout)),
            f"held-out {error}" if heldout else error,
            one_line(metric, 40),
        )


def _speedup(plan: Plan) -> float | None:
    found = plan.predicted
    return found.baseline_latency_s / found.latency_s if found.latency_s else None


def _sentence(plan: Plan) -> list[tuple[str, Tone]]:
    """`6.1x smaller, predicted 1.9x faster than fp32 on intel_cpu at batch 1, accuracy ...`."""
    parts: list[tuple[str, Tone]] = [(f"{ratio_text(plan.predicted.compression)} smaller", "good")]
    speedup = _speedup(plan)
    if speedup is not None:
        parts.extend(
            [
                (", predicted ", ""),
                (f"{speed_text(speedup)} fp32", _tone(speedup)),
                (
                    f" on {one_line(plan.hardware.name, 60)} at batch {plan.workload.batch_size}",
                    "",
                ),
            ]
        )
    metric = next(iter(plan.measured.metric.items()), None)
    if metric is not None and metric[0] in plan.measured.original_metric:
        name, value = metric
        before = plan.measured.original_metric[name]
        parts.extend(
            [
                (f", {one_line(name, 40)} ", ""),
                (f"{before:.3f} → {value:.3f}", "main"),
            ]
        )
    else:
        share = plan.measured.relative_output_mse
        power = f"{number(share)} of the output's power"
        parts.extend([(", output error ", ""), (power, "main")])
    gap = percent_up(plan.certificate.gap)
    return [*parts, (f"; certified within {gap} of the best additive plan.", "")]


def _tone(speedup: float) -> Tone:
    if abs(speedup - 1) < ALIKE:
        return "main"
    return "good" if speedup > 1 else "bad"


def _tiles(plan: Plan) -> list[Tile]:
    found, measured = plan.predicted, plan.measured
    tiles = [
        Tile(
            "stored", bytes_text(found.weight_bytes),
            f"from {bytes_text(plan.model.original_bytes)} in 32 bits",
        ),
        Tile("predicted latency", time_text(found.latency_s), _interval(found)),
    ]  # fmt: skip
    for name, value in list(measured.metric.items())[:1]:
        before = measured.original_metric.get(name)
        detail = "" if before is None else f"{before:.3f} in 32 bits"
        tiles.append(Tile(one_line(name, 30), f"{value:.3f}", detail))
    if measured.heldout_error is not None:
        detail = "on samples that nothing was chosen by"
        tiles.append(Tile("held-out error", number(measured.heldout_error), detail))
    else:
        detail = f"± {number(measured.error_se, 1)} on calibration data"
        tiles.append(Tile("output error", number(measured.error), detail))
    tiles.append(
        Tile("peak memory", bytes_text(found.peak_memory_bytes), "predicted, of a process")
    )
    widths = Counter(layer.bits for layer in plan.layers.values())
    mix = ", ".join(f"{count} at {bits}" for bits, count in sorted(widths.items(), reverse=True))
    tiles.append(Tile("layers", str(len(plan.layers)), f"{mix} bits"))
    return tiles


def _interval(found: Prediction) -> str:
    base = f"{time_text(found.baseline_latency_s)} in 32 bits"
    if found.latency_low_s is None or found.latency_high_s is None:
        return base
    return f"80%: {time_text(found.latency_low_s)} to {time_text(found.latency_high_s)}; {base}"


def _rows(plan: Plan, metric: str, *, heldout: bool) -> list[Row]:
    """32 bits, one width everywhere, one format everywhere, and the plan."""

    def row(
        name: str,
        cost: Prediction | UniformInfo,
        loss: Measurement | UniformInfo,
        *,
        chosen: bool = False,
    ) -> Row:
        error = loss.heldout_error if heldout else loss.error
        value = loss.metric.get(metric)
        return Row(
            name, chosen, bytes_text(cost.weight_bytes), f"{cost.compression:.2f}x",
            number(error), time_text(cost.latency_s), "-" if value is None else f"{value:.3f}",
        )  # fmt: skip

    before = plan.measured.original_metric.get(metric)
    original = Row(
        "32 bits", False, bytes_text(plan.model.original_bytes), "1.00x", "0",
        time_text(plan.predicted.baseline_latency_s), "-" if before is None else f"{before:.3f}",
    )  # fmt: skip
    plain = [row(f"uniform {one_line(w, 20)} bit", u, u) for w, u in plan.uniform.items()]
    plain += [row(f"{one_line(f, 40)}{EVERYWHERE}", u, u) for f, u in plan.single.items()]
    return [original, *plain, row("this plan", plan.predicted, plan.measured, chosen=True)]
