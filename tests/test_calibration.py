"""Calibration: what is accepted, what is refused, and the laws of split and take."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mixq.batch import Batch, call, named_tensors, sample_count
from mixq.calibration import Calibration, in_batches, repeat_sample
from mixq.errors import CalibrationError, UsageError

ONES = torch.ones(3, 2)


def numbered(sizes: list[int], kind: str = "tensor") -> Calibration:
    """Batches of the given sizes in which every sample has its own number."""
    column = torch.arange(sum(sizes), dtype=torch.float32).unsqueeze(1)
    batches: list[Batch] = []
    for part in torch.split(column, sizes):
        shapes: dict[str, Batch] = {"tensor": part, "tuple": (part, -part), "dict": {"x": part}}
        batches.append(shapes[kind])
    return Calibration.of(batches)


def numbers(calibration: Calibration) -> list[float]:
    """The sample numbers, read from the first tensor of every batch."""
    return [
        value
        for batch in calibration.batches
        for value in named_tensors(batch)[0][1][:, 0].tolist()
    ]


@pytest.mark.parametrize(
    ("data", "kinds", "samples"),
    [
        pytest.param(ONES, [Tensor], 3, id="tensor"),
        pytest.param((ONES, ONES), [tuple], 3, id="tuple-is-one-batch"),
        pytest.param({"a": ONES, "b": ONES}, [dict], 3, id="dict"),
        pytest.param([ONES, ONES], [Tensor, Tensor], 6, id="list-is-batches"),
        pytest.param([(ONES, ONES)], [tuple], 3, id="list-of-tuples"),
        pytest.param([[ONES, ONES]], [tuple], 3, id="list-of-lists"),
        pytest.param(({"a": ONES}, {"a": ONES}), [dict, dict], 6, id="tuple-of-dicts"),
        pytest.param((part for part in (ONES, ONES)), [Tensor, Tensor], 6, id="generator"),
        pytest.param(torch.ones(2, 3, dtype=torch.long), [Tensor], 2, id="integers"),
        pytest.param(torch.ones(2, 3).to(torch.float8_e4m3fn), [Tensor], 2, id="float8"),
        pytest.param(torch.ones(2, 3, dtype=torch.bool), [Tensor], 2, id="booleans"),
    ],
)
def test_of_reads(data: object, kinds: list[type], samples: int) -> None:
    calibration = Calibration.of(data)
    assert [type(batch) for batch in calibration.batches] == kinds
    assert calibration.samples == samples


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param([], "0 batches", id="no-batches"),
        pytest.param({}, "batch 0 has no tensors", id="empty-dict"),
        pytest.param([()], "batch 0 has no tensors", id="empty-tuple"),
        pytest.param(torch.ones(0, 3), r"shape \(0, 3\)", id="no-samples"),
        pytest.param(torch.tensor(1.0), r"shape \(\)", id="no-dimension"),
        pytest.param([ONES, torch.full((1,), torch.nan)], "batch 1, input 0 holds NaN", id="nan"),
        pytest.param({"x": torch.full((1,), -torch.inf)}, "input x holds NaN or inf", id="inf"),
        pytest.param((ONES, torch.ones(4)), "first dimensions that differ", id="ragged"),
        pytest.param([1, 2], "is a int", id="numbers"),
        pytest.param({"a": 1}, "input 'a' is a int", id="number-in-dict"),
        pytest.param((ONES, None), "input 1 is a NoneType", id="none-in-tuple"),
        pytest.param({1: ONES}, r"keys \[1\]", id="key-that-is-no-name"),
        pytest.param("data.npz", "is a str", id="path"),
        pytest.param(None, "is a NoneType", id="none"),
        pytest.param(torch.ones(2, 2).to_sparse(), "cannot be read", id="sparse"),
        pytest.param(torch.ones(2, 2, device="meta"), "cannot be read", id="meta"),
    ],
)
def test_of_refuses_in_one_line(data: object, message: str) -> None:
    with pytest.raises(CalibrationError, match=message) as caught:
        Calibration.of(data)
    assert "\n" not in str(caught.value)


def test_of_drops_the_gradient_graph_and_copies_nothing() -> None:
    leaf = torch.ones(2, 2, requires_grad=True)
    (batch,) = Calibration.of(leaf * 1).batches
    assert isinstance(batch, Tensor)
    assert not batch.requires_grad
    data = torch.ones(2, 2)
    (batch,) = Calibration.of(data).batches
    assert isinstance(batch, Tensor)
    assert batch.data_ptr() == data.data_ptr()


sizes = st.lists(st.integers(1, 7), min_size=1, max_size=9)
kinds = st.sampled_from(["tensor", "tuple", "dict"])


@settings(derandomize=True, deadline=None, max_examples=60)
@given(sizes=sizes, kind=kinds, fraction=st.floats(0.01, 0.99))
def test_split_partitions_the_samples_in_order(
    sizes: list[int], kind: str, fraction: float
) -> None:
    calibration = numbered(sizes, kind)
    rest, heldout = calibration.split(fraction)
    if heldout is None:
        assert calibration.samples == 1
        assert rest == calibration
        return
    assert numbers(rest) + numbers(heldout) == numbers(calibration)
    assert min(rest.samples, heldout.samples) >= 1


@settings(derandomize=True, deadline=None, max_examples=60)
@given(sizes=sizes, kind=kinds, count=st.integers(1, 80))
def test_take_keeps_the_first_samples(sizes: list[int], kind: str, count: int) -> None:
    calibration = numbered(sizes, kind)
    taken = calibration.take(count)
    assert numbers(taken) == numbers(calibration)[:count]
    assert all(type(batch) is type(calibration.batches[0]) for batch in taken.batches)


@pytest.mark.parametrize(
    ("sizes", "rest", "heldout"),
    [
        pytest.param([4, 4, 4, 4], [4, 4, 4], [4], id="four-batches-stay-whole"),
        pytest.param([8] * 8, [8] * 6, [8] * 2, id="a-quarter-of-eight"),
        pytest.param([8], [6], [2], id="one-batch-is-cut"),
        pytest.param([3, 3, 6], [3, 3, 3], [3], id="three-batches-are-cut"),
        pytest.param([1, 1], [1], [1], id="two-samples"),
    ],
)
def test_split_shapes(sizes: list[int], rest: list[int], heldout: list[int]) -> None:
    first, last = numbered(sizes).split()
    assert last is not None
    for part, expected in ((first, rest), (last, heldout)):
        assert [named_tensors(batch)[0][1].shape[0] for batch in part.batches] == expected


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_split_refuses_a_fraction_outside_0_to_1(fraction: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        numbered([4]).split(fraction)


def test_take_refuses_nothing() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        numbered([4]).take(0)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param([ONES, ONES * 2], id="another-value"),
        pytest.param([torch.cat([ONES, ONES])], id="other-batches"),
        pytest.param([ONES.double(), ONES], id="another-dtype"),
        pytest.param([ONES.view(3, 1, 2), ONES], id="another-shape"),
        pytest.param([{"x": ONES}, ONES], id="a-name"),
        pytest.param([(ONES,), ONES], id="a-tuple-of-one"),
        pytest.param([ONES], id="fewer"),
    ],
)
def test_fingerprint_tells_apart(other: list[Batch]) -> None:
    assert Calibration.of(other).fingerprint != Calibration.of([ONES, ONES]).fingerprint


def test_fingerprint_is_of_the_content() -> None:
    strided = torch.arange(6.0).view(2, 3).t()
    same = Calibration.of(strided.contiguous())
    assert Calibration.of(strided) == same
    assert hash(Calibration.of(strided)) == hash(same)
    # Pinned: a fingerprint is stored in files, so it must not change between versions.
    assert same.fingerprint == (
        "sha256:1259a37047f552cc860f2fb741c4245cffd1fcfd6473fc8810c7ff8ebb0b5170"
    )


def test_repr_names_shapes() -> None:
    calibration = Calibration.of({"ids": torch.ones(2, 5, dtype=torch.long)})
    assert repr(calibration) == "Calibration(2 samples in 1 batches of ids int64 (2, 5))"


class Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return x if y is None else x + y


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        pytest.param(ONES, ONES, id="positional"),
        pytest.param((ONES, ONES), ONES * 2, id="two-positional"),
        pytest.param({"y": ONES, "x": ONES}, ONES * 2, id="keywords"),
    ],
)
def test_call_passes_the_batch(batch: Batch, expected: Tensor) -> None:
    output = call(Sum(), batch)
    assert isinstance(output, Tensor)
    assert torch.equal(output, expected)


@pytest.mark.parametrize(
    ("model", "batch", "message", "cause"),
    [
        pytest.param(
            nn.Linear(3, 1), torch.ones(2, 5), "cannot be multiplied", RuntimeError, id="shape"
        ),
        pytest.param(Sum(), {"z": ONES}, "unexpected keyword", TypeError, id="keyword"),
        pytest.param(Sum(), (ONES,) * 3, "positional arguments", TypeError, id="too-many"),
        pytest.param(
            nn.ReLU(), (ONES, ONES), "is labels, yield inputs only", TypeError, id="labels"
        ),
        pytest.param(
            nn.Embedding(3, 2), torch.tensor([[7]]), "out of range", IndexError, id="vocabulary"
        ),
        pytest.param(nn.Embedding(3, 2), ONES, "scalar type", RuntimeError, id="dtype"),
    ],
)
def test_call_says_what_does_not_fit(
    model: nn.Module, batch: Batch, message: str, cause: type[Exception]
) -> None:
    with pytest.raises(CalibrationError, match=message) as caught:
        call(model, batch)
    assert isinstance(caught.value.__cause__, cause)
    assert "\n" not in str(caught.value)
    shapes = re.findall(r"\(\d+, \d+\)", str(caught.value))
    assert shapes


def test_call_does_not_guess_labels_where_inputs_are_missing() -> None:
    with pytest.raises(CalibrationError, match="missing") as caught:
        call(nn.Bilinear(2, 2, 1), (ONES,))
    with pytest.raises(CalibrationError) as more:
        call(Sum(), (ONES,) * 3)
    assert "labels" not in f"{caught.value}{more.value}"


@pytest.mark.parametrize(
    ("batches", "kept", "heldout"),
    [(1, 1, None), (2, 1, 1), (3, 2, 1), (8, 6, 2)],
    ids=["one is not split", "two", "three", "eight"],
)
def test_whole_batches_are_never_cut(batches: int, kept: int, heldout: int | None) -> None:
    data = torch.arange(batches * 8.0).view(batches, 8, 1)
    calibration = Calibration(tuple(data), whole=True)
    tuning, rest = calibration.split()
    assert [len(batch) for batch in tuning.batches] == [8] * kept
    assert tuning.whole
    if heldout is None:
        assert rest is None
    else:
        assert rest is not None
        assert [len(batch) for batch in rest.batches] == [8] * heldout
        assert rest.whole
    assert [len(batch) for batch in calibration.take(1).batches] == [8]
    assert [len(batch) for batch in calibration.take(9).batches] == [8] * min(batches, 2)
    first = repeat_sample(calibration, 3)
    assert isinstance(first, Tensor)
    assert torch.equal(first, data[0])


@pytest.mark.parametrize("count", [1, 3], ids=["one", "three"])
def test_a_workload_is_the_first_sample_repeated(count: int) -> None:
    ids, mask = torch.arange(6).view(3, 2), torch.ones(3, 2)
    batch = repeat_sample(Calibration.of({"ids": ids, "mask": mask}), count)
    assert isinstance(batch, dict)
    assert torch.equal(batch["ids"], ids[:1].expand(count, 2))
    assert torch.equal(batch["mask"], mask[:1].expand(count, 2))


def test_a_workload_has_a_sample() -> None:
    with pytest.raises(UsageError, match="batch size is 0"):
        repeat_sample(Calibration.of(ONES), 0)


@pytest.mark.parametrize(
    ("count", "whole", "sizes"),
    [(20, False, [8, 8, 4]), (20, True, [8, 8]), (8, True, [8]), (3, False, [3])],
)
def test_a_large_batch_is_cut_in_order(count: int, whole: bool, sizes: list[int]) -> None:
    batch = torch.arange(float(count))[:, None]
    calibration = in_batches(batch, 8, whole=whole)
    assert [sample_count(part) for part in calibration.batches] == sizes
    parts = [part for part in calibration.batches if isinstance(part, Tensor)]
    assert torch.equal(torch.cat(parts), batch[: sum(sizes)])


def test_too_few_samples_for_a_whole_batch() -> None:
    with pytest.raises(CalibrationError, match=r"has 3 samples, .* batches of 8"):
        in_batches(torch.ones(3, 1), 8, whole=True)
