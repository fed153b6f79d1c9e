"""What a model stores, counted once; and the fingerprint of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mixq.errors import ModelError
from mixq.graph.state import fingerprint, stored_tensors
from mixq.graph.windows import windows


def mixed() -> nn.Module:
    """Every kind of dtype, a tie, a module used twice, a buffer that is not stored."""
    model = nn.Module()
    layer = nn.Linear(4, 3)
    model.norm = nn.BatchNorm1d(3)
    model.first = layer
    model.second = layer
    model.halves = nn.Parameter(torch.ones(2, 2, dtype=torch.float16))
    model.brain = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    model.register_buffer("mask", torch.tensor([True, False]))
    model.register_buffer("phases", torch.ones(2, dtype=torch.complex64))
    model.register_buffer("empty", torch.empty(0))
    model.register_buffer("scratch", torch.zeros(100), persistent=False)
    return model


def test_names_are_those_of_the_state_dict() -> None:
    model = mixed()
    stored = stored_tensors(model)
    names = [name for item in stored for name in item.names]
    assert sorted(names) == sorted(model.state_dict())
    firsts = [item.names[0] for item in stored]
    assert firsts == [name for name in model.state_dict() if name in firsts]
    assert {item.names for item in stored if len(item.names) > 1} == {
        ("first.weight", "second.weight"),
        ("first.bias", "second.bias"),
    }
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for item in stored:
        assert item.is_parameter == (item.names[0] in parameters)
        assert item.tensor is dict(model.state_dict(keep_vars=True))[item.names[0]]


def test_bytes_of_every_dtype() -> None:
    stored = {item.names[0]: item for item in stored_tensors(mixed())}
    assert {name: (item.original_bytes, item.stored_bytes) for name, item in stored.items()} == {
        "halves": (16, 8),
        "brain": (12, 6),
        "mask": (2, 2),
        "phases": (16, 16),
        "empty": (0, 0),
        "norm.weight": (12, 12),
        "norm.bias": (12, 12),
        "norm.running_mean": (12, 12),
        "norm.running_var": (12, 12),
        "norm.num_batches_tracked": (8, 8),
        "first.weight": (48, 48),
        "first.bias": (12, 12),
    }


def test_a_renaming_state_dict_does_not_matter() -> None:
    model = nn.Linear(4, 3)
    model.register_state_dict_post_hook(
        lambda _m, state, prefix, _l: state.update({f"{prefix}renamed": state.pop("weight")})
    )
    assert list(model.state_dict()) == ["bias", "renamed"]
    assert [item.names for item in stored_tensors(model)] == [("weight",), ("bias",)]


def meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(2, 2)


def sparse() -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_buffer("table", torch.eye(3).to_sparse())
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "meta": (meta, "weight has no plain data .device meta"),
    "sparse": (sparse, "table has no plain data .*sparse_coo"),
    "lazy": (lambda: nn.LazyLinear(2), "weight is not initialized; run the model once"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ModelError, match=message) as refusal:
        stored_tensors(make())
    assert "\n" not in str(refusal.value)


def brute_force(tensors: list[Tensor]) -> list[tuple[bool, int]]:
    """(overlaps, repeated) by sets of byte addresses."""
    touched = []
    for tensor in tensors:
        addresses: set[int] = set()
        for index in torch.cartesian_prod(*(torch.arange(n) for n in tensor.shape)).view(
            -1, tensor.dim()
        ):
            element = tensor[tuple(index.tolist())]
            addresses |= set(
                range(element.data_ptr(), element.data_ptr() + element.element_size())
            )
        touched.append(addresses)
    answers = []
    for position, mine in enumerate(touched):
        before = set().union(*touched[:position])
        others = before.union(*touched[position + 1 :])
        answers.append((bool(mine & others), len(mine & before) // tensors[position].itemsize))
    return answers


@st.composite
def window_lists(draw: st.DrawFn) -> list[Tensor]:
    bases = [torch.zeros(24), torch.zeros(24, dtype=torch.int16)]
    made = []
    for _ in range(draw(st.integers(1, 6))):
        base = draw(st.sampled_from(bases))
        rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        strides = draw(st.sampled_from([(columns, 1), (1, rows), (6, 1), (6, 2)]))
        last = (rows - 1) * strides[0] + (columns - 1) * strides[1]
        offset = draw(st.integers(0, 23 - last))
        made.append(base.as_strided((rows, columns), strides, offset))
    return made


@settings(derandomize=True, deadline=None, max_examples=60)
@given(window_lists())
def test_windows_are_those_of_brute_force(tensors: list[Tensor]) -> None:
    assert [(w.overlaps, w.repeated) for w in windows(tensors)] == brute_force(tensors)


def test_windows_of_different_dtypes_share_bytes() -> None:
    base = torch.zeros(8)
    found = windows([base, base[2:4].view(torch.float16), base[4:].view(torch.int64)])
    assert [(w.overlaps, w.repeated) for w in found] == [(True, 0), (True, 4), (True, 2)]


def test_overlapping_parameters_are_counted_once() -> None:
    model = nn.Module()
    base = torch.randn(8, 16)
    model.whole = nn.Parameter(base)
    model.part = nn.Parameter(base[2:5])
    model.turned = nn.Parameter(base.t())
    stored = stored_tensors(model)
    assert [item.elements for item in stored] == [128, 0, 0]
    assert sum(item.original_bytes for item in stored) == 512


FINGERPRINTED = """
import torch
from torch import nn
from mixq.graph.state import fingerprint
model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(3, 4).to(torch.bfloat16))
with torch.no_grad():
    for start, tensor in enumerate(model.state_dict().values()):
        tensor.copy_(torch.arange(start, start + tensor.numel()).view(tensor.shape))
"""


def test_fingerprint_is_the_same_in_every_process() -> None:
    code = FINGERPRINTED + "print(fingerprint(model))"
    answers = {
        subprocess.run(
            [sys.executable, "-P", "-c", code],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    scope: dict[str, nn.Module] = {}
    exec(FINGERPRINTED, scope)
    assert answers == {fingerprint(scope["model"])}
    (answer,) = answers
    assert answer.startswith("sha256:")
    assert len(answer) == len("sha256:") + 64


@pytest.mark.parametrize(
    "name", [item.names[0] for item in stored_tensors(mixed()) if item.elements]
)
def test_fingerprint_sees_every_bit(name: str) -> None:
    model = mixed()
    tensor = dict(model.state_dict(keep_vars=True))[name].detach()
    before = fingerprint(model)
    raw = tensor.view(-1).view(torch.uint8)
    raw[-1] ^= 1
    assert fingerprint(model) != before
    raw[-1] ^= 1
    assert fingerprint(model) == before


def test_fingerprint_ignores_order_and_ties_it_not() -> None:
    weights = torch.randn(4, 4)

    def model_of(*names: str, tied: bool) -> nn.Module:
        model = nn.Module()
        for name in names:
            model.register_parameter(name, nn.Parameter(weights if tied else weights.clone()))
        return model

    tied = fingerprint(model_of("a", "b", tied=True))
    assert tied == fingerprint(model_of("b", "a", tied=True))
    untied = fingerprint(model_of("a", "b", tied=False))
    assert untied == fingerprint(model_of("b", "a", tied=False))
    assert tied != untied  # they take other bytes, so they are other models


CHANGES: dict[str, Callable[[], nn.Module]] = {
    "shape": lambda: nn.Linear(2, 8, bias=False),
    "dtype": lambda: nn.Linear(4, 4, bias=False).to(torch.float16),
    "name": lambda: nn.Sequential(nn.Linear(4, 4, bias=False)),
    "more": lambda: nn.Linear(4, 4),
}


@pytest.mark.parametrize("make", CHANGES.values(), ids=CHANGES)
def test_fingerprint_sees_more_than_bytes(make: Callable[[], nn.Module]) -> None:
    models = [nn.Linear(4, 4, bias=False), make()]
    for model in models:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    first, second = map(fingerprint, models)
    assert first != second
