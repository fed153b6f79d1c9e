"""Weighted: which tensors of a nested output count, and how much."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor

from mixq.errors import ModelError
from mixq.sensitivity.metrics.weighted import Weighted
from mixq.sensitivity.outputs import floating_outputs

from .helpers import METRICS, masked, normal

A, B, C, IDS = normal(3, 4), normal(3, 5, seed=1), normal(3, 2, seed=2), torch.arange(3)
BATCH = torch.zeros(3, 1)

NESTED: dict[str, tuple[object, dict[str, Tensor]]] = {
    "tensor": (A, {"output": A}),
    "tuple": ((A, B), {"0": A, "1": B}),
    "dict": ({"ids": IDS, "a": A}, {"a": A}),
    "ordered": (OrderedDict(b=B, a=A), {"b": B, "a": A}),
    "deep": ({"x": [A, (B, {"y": C})], "z": None}, {"x.0": A, "x.1.0": B, "x.1.1.y": C}),
    "order": (((A, B), C), {"0.0": A, "0.1": B, "1": C}),
    "empty": ({"a": A[:0], "b": B}, {"b": B}),
    "integers": (IDS, {}),
    "other": ("text", {}),
}


@pytest.mark.parametrize(("output", "expected"), NESTED.values(), ids=NESTED)
def test_outputs_by_path(output: object, expected: dict[str, Tensor]) -> None:
    found = floating_outputs(output)
    assert list(found) == list(expected)
    assert all(found[name] is tensor for name, tensor in expected.items())


def test_the_main_output_is_the_default() -> None:
    output = {"hidden": A, "logits": B}
    assert list(Weighted().pick(output)) == ["logits"]
    assert list(Weighted().pick(A)) == ["output"]
    assert list(Weighted(weights={"hidden": 1.0}).pick(output)) == ["hidden"]


MISSING: dict[str, tuple[object, str, str]] = {
    "name": ({"a": A, "b": [B]}, "c", "no floating-point output 'c'; it returns a, b.0"),
    "integers": ({"a": A, "ids": IDS}, "ids", "no floating-point output 'ids'; it returns a"),
    "inner": ({"a": [A]}, "a", "it returns a.0"),
    "nothing": ([], "0", "it returns none"),
    "many": ([A] * 30, "x", "17, 18, 19 and 10 more"),
    "newline": ({"a\nb": A}, "c\nd", "a"),
}


@pytest.mark.parametrize(("output", "name", "words"), MISSING.values(), ids=MISSING)
def test_an_output_that_is_not_there(output: object, name: str, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        Weighted(weights={name: 1.0}).pick(output)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", METRICS)
def test_errors_are_the_weighted_mean(name: str) -> None:
    distance = METRICS[name]
    other = {"a": A + 1, "b": B * 2}
    metric = Weighted(distance, {"a": 0.75, "b": 0.25})
    found = metric.errors(other, {"a": A, "b": B}, BATCH)
    first, second = distance.errors(A + 1, A, BATCH), distance.errors(B * 2, B, BATCH)
    torch.testing.assert_close(found, 0.75 * first + 0.25 * second)


def test_where_one_output_counts_no_samples_a_batch_is_one() -> None:
    metric = Weighted(weights={"a": 0.5, "pooled": 0.5})
    original = {"a": A, "pooled": torch.zeros(7)}
    found = metric.errors({"a": A + 2, "pooled": torch.ones(7)}, original, BATCH)
    assert found.tolist() == pytest.approx([(4 + 1) / 2])


@pytest.mark.parametrize("name", METRICS)
def test_probes_estimate_the_weighted_mean(name: str) -> None:
    """Signs of different outputs are independent: over many, products between outputs cancel.

    A squared sum of signs has a variance of at most twice its squared mean.
    """
    original = {"a": A, "b": B}
    change = {"a": 1e-3 * normal(3, 4, seed=5), "b": 1e-3 * normal(3, 5, seed=6)}
    metric = Weighted(METRICS[name], {"a": 0.75, "b": 0.25})
    changed = {name: tensor + change[name] for name, tensor in original.items()}
    expected = metric.errors(changed, original, BATCH).mean().item()
    signs, count, total = torch.Generator().manual_seed(0), 1000, 0.0
    for _ in range(count):
        probes = metric.probes(original, BATCH, signs)
        total += float(sum((v * change[n]).sum() for n, v in probes.items())) ** 2
    assert total / count == pytest.approx(expected, rel=4 * math.sqrt(2 / count))


def test_question_answering_scores_are_per_token() -> None:
    """(samples, tokens) by name; any other matrix as wide may be (samples, classes)."""
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    y, other = normal(2, 3), normal(2, 3, seed=1)
    expected = [((other - y)[0, :2] ** 2).mean().item(), ((other - y)[1] ** 2).mean().item()]
    for name, per_token in (("start_logits", True), ("qa.end_logits", True), ("classes", False)):
        metric = Weighted(weights={name: 1.0})
        found = metric.errors({name: other}, {name: y}, masked(mask)).tolist()
        assert (found == pytest.approx(expected)) == per_token


def test_divergence_of_question_answering_scores_is_over_tokens_that_are_seen() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    y, other = normal(2, 3), normal(2, 3, seed=1)
    kl = METRICS["kl"]
    expected = [
        kl.errors(other[:1, :2], y[:1, :2], torch.zeros(1, 1)).item(),
        kl.errors(other[1:], y[1:], torch.zeros(1, 1)).item(),
    ]
    y[0, 2] = other[0, 2] = math.nan
    metric = Weighted(kl, {"start_logits": 1.0})
    found = metric.errors({"start_logits": other}, {"start_logits": y}, masked(mask))
    assert found.tolist() == pytest.approx(expected)
    probe = metric.probes({"start_logits": y}, masked(mask), torch.Generator())["start_logits"]
    assert probe.shape == y.shape
    assert probe[0, 2] == 0
    assert bool(probe.isfinite().all())


def test_a_refusal_names_the_output() -> None:
    metric: Any = Weighted(METRICS["kl"], {"a.0": 1.0})
    with pytest.raises(ModelError, match=r"output 'a\.0' has shape .* in the metric kl; choose"):
        metric.check({"a.0": normal(3, 1)}, BATCH)


def test_fingerprints_tell_metrics_and_weights_apart() -> None:
    metrics = [
        Weighted(kind, weights)
        for kind in METRICS.values()
        for weights in (None, {"a": 1.0}, {"b": 1.0}, {"a": 0.5, "b": 0.5}, {"a": 0.25, "b": 0.75})
    ]
    assert len({metric.fingerprint for metric in metrics}) == len(metrics)
    assert {metric.squares().name for metric in metrics} == {"mse"}
