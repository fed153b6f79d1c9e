"""MetricChoice: what may be asked for, and weights that add up to one."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mixq.errors import UsageError
from mixq.sensitivity.metrics.choice import BUILT_IN, MetricChoice
from mixq.sensitivity.metrics.resolve import DISTANCES

WEIGHTS: dict[str, tuple[Any, dict[str, float] | None]] = {
    "main": (None, None),
    "all": ("all", None),
    "one": ("logits", {"logits": 1.0}),
    "list": (["a", "b"], {"a": 0.5, "b": 0.5}),
    "weights": ({"a": 3, "b": 1.0}, {"a": 0.75, "b": 0.25}),
    "zero-weight": ({"a": 2, "b": 0}, {"a": 1.0}),
}


@pytest.mark.parametrize(("outputs", "expected"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_add_up_to_one(outputs: Any, expected: dict[str, float] | None) -> None:
    assert MetricChoice("mse", outputs).weights() == expected


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "unknown": ("huber", None, "--metric is 'huber', but it must be one of auto, mse, relative"),
    "long": ("x" * 5000, None, "--metric is 'xxx"),
    "newline": ("a\nb", None, "--metric is"),
    "number": (3, None, "metric is a int, but"),
    "negative": ("mse", {"a": -1.0}, "weighs 'a' with -1.0"),
    "nan": ("mse", {"a": math.nan}, "weighs 'a' with nan"),
    "infinite": ("mse", {"a": math.inf, "b": 1}, "weighs 'a' with inf"),
    "bool": ("mse", {"a": True}, "weighs 'a' with True"),
    "text": ("mse", {"a": "1"}, "weighs 'a' with '1'"),
    "zero-sum": ("mse", {"a": 0, "b": 0}, "add up to 0"),
    "overflow": ("mse", {"a": 1.7e308, "b": 1.7e308}, "add up to"),
    "none": ("mse", [], "add up to 0"),
    "position": ("mse", {1: 1.0}, "weighs 1 with 1.0"),
    "nameless": ("mse", [""], "weighs '' with 1.0"),
}


@pytest.mark.parametrize(("metric", "outputs", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals(metric: Any, outputs: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        MetricChoice(metric, outputs)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_every_built_in_metric_has_a_distance() -> None:
    assert tuple(DISTANCES) == BUILT_IN


@pytest.mark.parametrize(
    ("metric", "is_loss"),
    [("auto", False), ("kl", False), ("pkg.mod:fn", True), (lambda o, b: 0.0, True)],
    ids=["auto", "built-in", "spec", "function"],
)
def test_losses_are_told_apart(metric: Any, is_loss: bool) -> None:
    assert MetricChoice(metric).is_loss == is_loss
