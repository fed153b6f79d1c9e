"""Judge: a user's metrics, checked, each asked once, the headline first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixq.errors import ModelError, UsageError
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.rounding.rounder import Rounder
from mixq.search.metric import Judge

W2, W8 = Format(2, 16), Format(8, 16)


class Evaluate:
    """Distance of the weights from the original's, under a few names."""

    def __init__(self, original: nn.Module, **attributes: object) -> None:
        self.weight: Tensor = next(original.parameters()).detach().clone()
        self.calls = 0
        self.__dict__.update(attributes)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.calls += 1
        assert not model.training
        assert not torch.is_grad_enabled()
        distance = (next(model.parameters()) - self.weight).abs().sum().item()
        with torch.no_grad():
            next(model.parameters()).zero_()  # what a careless evaluation may do
        return {"distance": distance, "score": 1.0 - distance}


@pytest.fixture
def model() -> nn.Module:
    model = nn.Linear(32, 4)
    with torch.no_grad():
        model.weight.copy_(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)))
    return model.train()


def judge(model: nn.Module, evaluate: Callable[[nn.Module], Mapping[str, float]]) -> Judge:
    return Judge(Rounder(model, {unit.name: unit for unit in find_units(model)}), evaluate)


def test_drop_of_the_headline_metric(model: nn.Module) -> None:
    evaluate = Evaluate(model, primary="score")
    judged = judge(model, evaluate)
    assert judged.primary() == "score"
    assert list(judged.metrics({})) == ["score", "distance"]
    drop = judged.drop({"weight": W2})
    assert drop > judged.drop({"weight": W8}) > 0
    assert judged.drop({"weight": W2}) == drop == judged.metrics({"weight": W2})["distance"]
    assert evaluate.calls == 3  # the original and two plans, once each


def test_lower_may_be_better(model: nn.Module) -> None:
    judged = judge(model, Evaluate(model, primary="distance", higher_is_better=False))
    assert judged.drop({"weight": W2}) == judged.metrics({"weight": W2})["distance"] > 0
    assert judge(model, Evaluate(model)).drop({"weight": W2}) < 0  # the first, higher is better


def test_the_model_stays_as_it_was(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    judge(model, Evaluate(model)).metrics({"weight": W2})
    judge(model, Evaluate(model)).metrics({})
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_numbers_of_numpy_and_torch_are_numbers(model: nn.Module) -> None:
    metrics: Any = {"a": np.float32(0.5), "b": torch.tensor(2.0), "c": True}
    judged = judge(model, lambda _: metrics)
    assert judged.metrics({}) == {"a": 0.5, "b": 2.0, "c": 1.0}
    assert all(type(value) is float for value in judged.metrics({}).values())


def fails(_: nn.Module) -> dict[str, float]:
    raise KeyError("labels\nare gone")


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        (fails, r"evaluate failed with KeyError: 'labels\\nare gone'"),
        (lambda _: {}, "returns {}"),
        (lambda _: 0.9, "returns 0.9"),
        (lambda _: None, "returns None"),
        (lambda _: {"a": float("nan")}, "a = nan, but metrics must be finite"),
        (lambda _: {"a": float("inf")}, "a = inf"),
        (lambda _: {"a": "good"}, "a = 'good', but metrics must be numbers"),
        (lambda _: {"a": torch.zeros(2)}, "metrics must be numbers"),
        (lambda _: {"a": None}, "a = None"),
    ],
    ids=["raises", "empty", "number", "none", "nan", "inf", "text", "tensor", "missing"],
)
def test_unusable_metrics(model: nn.Module, evaluate: Any, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        judge(model, evaluate).metrics({})
    assert words.replace("\\\\", "\\") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_headline_that_is_not_there(model: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"'f1', but evaluate returns distance, score"):
        judge(model, Evaluate(model, primary="f1")).primary()


def test_a_headline_that_comes_and_goes(model: nn.Module) -> None:
    answers = iter([{"a": 1.0}, {"b": 1.0}])
    judged = judge(model, lambda _: next(answers))
    with pytest.raises(ModelError, match="'a', but evaluate returns b"):
        judged.drop({"weight": W2})


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        *((name, True) for name in (
            "loss", "error", "perplexity", "ppl", "wer", "cer", "mae", "mse", "rmse", "error_rate",
            "val-loss", "eval_MSE", "Top1-Error",
        )),
        *((name, False) for name in (
            "accuracy", "f1", "power", "lossless", "closeness", "answer", "terror", "r2", "",
        )),
    ],
)  # fmt: skip
@pytest.mark.parametrize("says", [None, True, False])
def test_a_direction_that_is_not_said(
    model: nn.Module, name: str, refused: bool, says: bool | None
) -> None:
    def evaluate(changed: nn.Module) -> dict[str, float]:
        return {name: next(changed.parameters()).abs().sum().item(), "other": 0.0}

    if says is not None:
        evaluate.higher_is_better = says  # type: ignore[attr-defined]
    judged = judge(model, evaluate)
    assert judged.primary() == name  # without a demand on it nothing is refused
    if refused and says is None:
        with pytest.raises(UsageError) as caught:
            judged.drop({"weight": W2})
        assert str(caught.value) == (
            f"metric {name!r} sounds as if less were better; "
            "set evaluate.higher_is_better = False (or True) where it is defined"
        )
    else:
        judged.drop({"weight": W2})
