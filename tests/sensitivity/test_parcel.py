"""What travels to a worker arrives as it was: numbers, sharing, places in memory, classes."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from mixq.sensitivity.parcel import LINE, packed, unpacked

DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.float8_e5m2)


def there_and_back(content: object) -> object:
    return unpacked(packed(content))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 5), max_size=3),
    st.integers(0, 70),
    st.booleans(),
)
def test_tensors(dtype: torch.dtype, shape: list[int], offset: int, transposed: bool) -> None:
    count = int(np.prod(shape))
    tensor = torch.arange(offset + count).to(dtype)[offset:].view(shape)
    tensor = tensor.t() if transposed and len(shape) == 2 else tensor
    found = there_and_back(tensor)
    assert isinstance(found, Tensor)
    assert (found.dtype, found.shape, found.stride()) == (dtype, tensor.shape, tensor.stride())
    assert torch.equal(found.double(), tensor.double())
    if count:
        assert found.data_ptr() % LINE == tensor.data_ptr() % LINE
        assert found.data_ptr() != tensor.data_ptr()


@pytest.mark.parametrize("offset", range(0, LINE, 4))
def test_a_weight_in_the_middle_of_a_line_stays_there(offset: int) -> None:
    """As a file of weights that is mapped into memory has them."""
    room = torch.empty(LINE + 4 * 12, dtype=torch.uint8)
    start = (offset - room.data_ptr()) % LINE
    weight = torch.frombuffer(room.numpy()[start : start + 48], dtype=torch.float32)
    assert weight.data_ptr() % LINE == offset
    found = there_and_back(nn.Parameter(weight))
    assert isinstance(found, nn.Parameter)
    assert found.data_ptr() % LINE == offset


def test_what_is_shared_stays_shared() -> None:
    base = torch.arange(12.0)
    parameter = nn.Parameter(base.view(3, 4))
    first, views, again = unpacked(packed((parameter, [base[2:], base.view(4, 3).t()], parameter)))
    assert first is again
    assert first.requires_grad
    assert not views[0].requires_grad
    with torch.no_grad():
        first[0, 3] = -1
    assert views[0][1] == -1
    assert views[1][0, 1] == -1
    assert base[3] == 3  # nothing is shared with what was packed


def test_a_parcel_is_read_only_and_the_content_is_not() -> None:
    parcel = packed(torch.zeros(5))
    parcel.flags.writeable = False
    assert torch.equal(unpacked(parcel).add_(1), torch.ones(5))
    assert torch.equal(unpacked(parcel), torch.zeros(5))


def test_every_storage_travels_once() -> None:
    tensor = torch.zeros(100_000)
    assert len(packed([tensor[:7], tensor, tensor[5:]])) < 4 * 100_000 + 10_000


class Local(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 8)
        self.activation = activation
        self.register_forward_hook(lambda _m, _a, out: out.mul(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "closures": lambda: Local(lambda x: x.tanh() + 1),
    "lstm": lambda: nn.LSTM(16, 8, 2),
    "parametrized": lambda: parametrizations.weight_norm(nn.Linear(16, 8)),
    "spectral": lambda: parametrizations.spectral_norm(nn.Conv1d(16, 8, 3)),
    "half": lambda: nn.Sequential(nn.Linear(16, 8).bfloat16(), nn.ReLU()),
}


def state(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict())


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_models(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    found = there_and_back(model)
    assert isinstance(found, nn.Module)
    assert list(state(found)) == list(state(model))
    assert all(torch.equal(a, b) for a, b in zip(*map(_values, (found, model)), strict=True))
    dtype = next(model.parameters()).dtype
    x = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    outputs = [copy.deepcopy(m)(x) for m in (model, found)]
    if isinstance(outputs[0], tuple):
        outputs = [output[0] for output in outputs]
    assert torch.equal(*outputs)


def _values(model: nn.Module) -> list[Tensor]:
    return list(state(model).values())


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm:FutureWarning")
def test_weight_norm_of_old() -> None:
    model = weight_norm(nn.Linear(16, 8))
    found = there_and_back(model)
    assert isinstance(found, nn.Module)
    assert torch.equal(found(torch.ones(1, 16)), model(torch.ones(1, 16)))


USERS_OWN = """
from torch import nn

SCALE = 3


def scaled(x):
    return x * SCALE


class Own(nn.Linear):
    def forward(self, x):
        return scaled(super().forward(x))
"""
UNPACK = """
import sys

import numpy as np
import torch
from mixq.sensitivity.parcel import unpacked

print(unpacked(np.fromfile(sys.argv[1], np.uint8))(torch.ones(1, 16)).tolist())
"""


def test_classes_that_no_other_process_could_import(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(USERS_OWN, encoding="utf-8")
    spec = spec_from_file_location("mixq_test_own", tmp_path / "own.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["mixq_test_own"] = module
    try:
        spec.loader.exec_module(module)
        model = module.Own(16, 2)
        packed(model).tofile(tmp_path / "parcel")
    finally:
        del sys.modules["mixq_test_own"]
    command = [sys.executable, "-c", UNPACK, str(tmp_path / "parcel")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == str(model(torch.ones(1, 16)).tolist())


def test_nothing_stays_registered() -> None:
    import cloudpickle

    before = cloudpickle.list_registry_pickle_by_value()
    packed(Local(torch.tanh), far=True)
    with pytest.raises(TypeError, match="cannot pickle"):
        packed(sys.stdout, far=True)
    assert cloudpickle.list_registry_pickle_by_value() == before
