"""LossIncrease: a user's loss, signed, kept from doing harm, and refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mixq.errors import ModelError
from mixq.sensitivity.metrics.loss import LossIncrease, name_of

from .helpers import normal

Y, OTHER = normal(3, 4), normal(3, 4, seed=1)
LABELS = torch.tensor([0, 3, 1])
BATCH = {"x": torch.zeros(3, 2), "labels": LABELS}


def increase(loss: Any, **weights: float) -> LossIncrease:
    return LossIncrease(loss, weights or {"output": 1.0}, "a:loss")


def entropy(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return torch.nn.functional.cross_entropy(outputs, batch["labels"], reduction="none")


def test_it_is_the_increase_of_each_sample() -> None:
    found = increase(entropy).errors({"output": OTHER}, {"output": Y}, BATCH)
    assert torch.equal(found, entropy(OTHER, BATCH) - entropy(Y, BATCH))
    assert bool((found < 0).any())
    assert bool((found > 0).any())
    assert found.dtype == torch.float64


@pytest.mark.parametrize(
    "loss",
    [lambda y, _: y.sum(), lambda y, _: float(y.sum())],
    ids=["tensor", "number"],
)
def test_one_number_is_one_sample(loss: Any) -> None:
    found = increase(loss).errors({"output": OTHER}, {"output": Y}, BATCH)
    assert found.tolist() == pytest.approx([(OTHER - Y).sum().item()])


def test_several_outputs_come_by_name() -> None:
    def loss(outputs: dict[str, Tensor], batch: object) -> Tensor:
        assert list(outputs) == ["a", "b.0"]
        return outputs["a"].sum(1) - outputs["b.0"].sum(1)

    metric = increase(loss, **{"a": 0.5, "b.0": 0.5})
    picked = metric.pick({"a": Y, "b": [OTHER], "c": Y})
    assert list(picked) == ["a", "b.0"]
    assert metric.errors(picked, picked, BATCH).tolist() == [0.0] * 3
    assert metric.squares().weights == {"a": 0.5, "b.0": 0.5}


def test_what_a_loss_does_to_its_arguments_stays_there() -> None:
    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        batch.clear()
        return outputs.zero_().sum(1)

    y, other, batch = Y.clone(), OTHER.clone(), dict(BATCH)
    increase(loss).errors({"output": other}, {"output": y}, batch)
    assert torch.equal(y, Y)
    assert torch.equal(other, OTHER)
    assert list(batch) == list(BATCH)


def fails(outputs: Tensor, batch: object) -> Tensor:
    raise KeyError("labels\nare gone")


BAD: dict[str, tuple[Any, str]] = {
    "raises": (fails, r"a:loss failed with KeyError: .*by itself to debug"),
    "shape": (
        lambda y, _: y,
        r"returns a torch\.float64 tensor \(3, 4\) for a batch of 3 samples",
    ),
    "batch": (lambda y, _: y.sum(1)[:2], r"tensor \(2,\) for a batch of 3"),
    "integers": (lambda y, _: y.argmax(1), r"returns a torch\.int64 tensor \(3,\)"),
    "none": (lambda y, _: None, "returns a NoneType"),
    "bool": (lambda y, _: True, "returns a bool"),
    "list": (lambda y, _: [1.0, 2.0, 3.0], "returns a list"),
    "nan": (lambda y, _: y.sum(1) / 0 * 0, "of the original model is NaN or infinite"),
    "infinite": (lambda y, _: y.sum(1) / 0, "of the original model is NaN or infinite"),
}


@pytest.mark.parametrize(("loss", "words"), BAD.values(), ids=BAD)
def test_refusals(loss: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        increase(loss).check({"output": Y}, BATCH)
    assert "\n" not in str(caught.value)


def test_a_loss_of_two_shapes_is_refused() -> None:
    def loss(outputs: Tensor, batch: object) -> Tensor:
        return outputs.sum() if torch.equal(outputs, Y) else outputs.sum(1)

    with pytest.raises(ModelError, match="3 numbers for the changed model and 1"):
        increase(loss).errors({"output": OTHER}, {"output": Y}, BATCH)


def test_it_has_no_probes() -> None:
    with pytest.raises(ModelError, match=r"cannot be sketched.*--sensitivity auto"):
        increase(entropy).probes({"output": Y}, BATCH, torch.Generator())


class Callable:
    def __call__(self, outputs: Tensor, batch: object) -> Tensor:
        return outputs.sum(1)


def test_the_source_is_part_of_the_fingerprint() -> None:
    def one(outputs: Tensor, batch: object) -> Tensor:
        return outputs.sum(1)

    def two(outputs: Tensor, batch: object) -> Tensor:
        return outputs.mean(1)

    metrics = [increase(one), increase(two), increase(one, a=1.0), increase(Callable())]
    metrics.append(increase(len))  # written in C: no source, and no fault
    assert len({metric.fingerprint for metric in metrics}) == len(metrics)
    assert increase(one).fingerprint == increase(one).fingerprint


def test_names() -> None:
    assert name_of(entropy).endswith("test_loss:entropy")
    assert name_of(Callable()).endswith("test_loss:Callable")
