"""plan.compile(model): the original's interface in front of a runtime."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixq.errors import ExportError, PlanError, UsageError
from mixq.formats import Format
from tests.plans import plan_for


class Net(nn.Module):
    """Inputs in another order than their use, an optional one between, outputs of a kind."""

    def __init__(self, kind: str = "tensor") -> None:
        super().__init__()
        self.kind = kind
        self.left, self.right = nn.Linear(32, 16), nn.Linear(32, 16)

    def forward(self, a: Tensor, mask: Tensor | None = None, b: Tensor | None = None) -> Any:
        right = self.right(a if b is None else b)
        left = self.left(a) if mask is None else self.left(a) * mask
        outputs = {"sum": left + 2 * right, "right": right}
        if self.kind == "dict":
            return outputs
        if self.kind == "tensor":
            return outputs["sum"]
        return tuple(outputs.values()) if self.kind == "tuple" else list(outputs.values())


A, B, MASK = torch.randn(3, 32), torch.randn(3, 32), torch.rand(3, 16)


def both(kind: str = "tensor", **options: Any) -> tuple[nn.Module, Any]:
    """The applied and the compiled model."""
    torch.manual_seed(0)
    model = Net(kind).eval()
    plan = plan_for(model, Format.parse("w8g32"))
    options = {"activations": "float", **options} if "runtime" not in options else options
    return plan.apply(model), plan.compile(model, **options)


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "positional": ((A,), {}),
    "keyword": ((), {"a": A}),
    "mixed": ((A,), {"b": B}),
    "keywords-in-another-order": ((), {"b": B, "a": A}),
    "none-by-position": ((A, None, B), {}),
    "none-by-keyword": ((A,), {"mask": None, "b": B}),
    "all-by-position": ((A, MASK, B), {}),
    "mask": ((A, MASK), {}),
}


@torch.no_grad()
@pytest.mark.parametrize("name", CALLS)
def test_the_first_call_compiles(name: str) -> None:
    args, kwargs = CALLS[name]
    applied, fast = both()
    assert [fast.difference] == [None]
    same(fast(*args, **kwargs), applied(*args, **kwargs))
    assert fast.difference < 1e-3
    assert not list(fast.parameters())


@torch.no_grad()
@pytest.mark.parametrize("calibration", [(A, MASK, B), {"b": B, "mask": MASK, "a": A}], ids=type)
def test_later_calls_may_pass_the_same_tensors_in_any_way(calibration: Any) -> None:
    applied, fast = both(calibration=calibration)
    assert fast.difference < 1e-3
    expected = applied(A, MASK, B)
    same(fast(A, MASK, B), expected)
    same(fast(A, b=B, mask=MASK), expected)
    same(fast(b=B, a=A, mask=MASK), expected)
    same(fast(A[:1], MASK[:1], b=B[:1]), expected[:1])
    same(fast(*(torch.cat([t, t, t]) for t in (A, MASK, B))), torch.cat([expected] * 3))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["tuple", "list", "dict"])
def test_outputs_have_the_structure_of_the_originals(kind: str) -> None:
    applied, fast = both(kind)
    found, expected = fast(A, b=B), applied(A, b=B)
    if kind == "dict":
        assert list(found) == ["sum", "right"]
        assert found.right is found["right"] is found[1]
        with pytest.raises(AttributeError, match="the outputs are sum, right, and 'left' is none"):
            _ = found.left
        found, expected = list(found.values()), list(expected.values())
    assert type(found) is type(expected)
    for one, other in zip(found, expected, strict=True):
        same(one, other)


@torch.no_grad()
@pytest.mark.parametrize("runtime", ["openvino", "torch", "qdq"])
def test_other_runtimes_serve_too(runtime: str) -> None:
    applied, fast = both(runtime=runtime, calibration=(A, MASK, B))
    expected = applied(A, MASK, B)
    same(fast(A, MASK, B), expected)
    same(fast(a=A, b=B, mask=MASK), expected)


def test_gradients_and_the_original_stay_out() -> None:
    _, fast = both()
    assert not fast(A.clone().requires_grad_()).requires_grad
    assert list(fast.state_dict()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"runtime": "tensorflow"}, "runtime 'tensorflow' is unknown; choose one of onnxruntime"),
        ({"activations": "int3"}, "auto, int8, float"),
        ({"speed": 11}, "does not take these options"),
        ({"name": "x"}, "does not take these options"),
    ],
)
def test_bad_words_are_refused_before_the_first_call(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        both(**options)


def test_a_call_without_tensors_is_refused() -> None:
    _, fast = both()
    for _ in range(2):
        with pytest.raises(UsageError, match="called without a tensor"):
            fast(None, mask=None)
        fast(A)


def test_missing_inputs_are_named() -> None:
    _, fast = both(calibration=(A, MASK, B))
    with pytest.raises(ExportError, match="needs input 'b', which the batch lacks"):
        fast(A, MASK)


def test_another_models_plan_is_refused() -> None:
    plan = plan_for(Net().eval(), Format.parse("w8"))
    with pytest.raises(PlanError):
        plan.compile(nn.Linear(4, 4).eval(), calibration=torch.randn(2, 4))
