"""Which rows of which unit a tensor shows, told by where it lies in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mixq.graph.find import find_units
from mixq.moments.places import Places, RowsOf


class Two(nn.Module):
    """Two units side by side in one storage: rows 0-4 and 5-7 of six columns."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.arange(48.0)
        self.first = nn.Parameter(flat[:30].view(5, 6))
        self.second = nn.Parameter(flat[30:].view(3, 6))


@pytest.fixture
def model() -> Two:
    return Two()


@pytest.fixture
def places(model: Two) -> Places:
    return Places(find_units(model), dict(model.named_parameters()))


SHOWN: dict[str, tuple[Callable[[Two], Tensor], RowsOf]] = {
    "whole": (lambda m: m.first, RowsOf("first", 0, 5)),
    "other": (lambda m: m.second, RowsOf("second", 0, 3)),
    "rows": (lambda m: m.first[1:4], RowsOf("first", 1, 3)),
    "one-row": (lambda m: m.second[2:], RowsOf("second", 2, 1)),
    "detached": (lambda m: m.first.detach(), RowsOf("first", 0, 5)),
    "reshaped": (lambda m: m.first.view(-1).view(5, 6), RowsOf("first", 0, 5)),
    "turned-twice": (lambda m: m.first.t()[:, 2:].t(), RowsOf("first", 2, 3)),
}
NOT_SHOWN: dict[str, Callable[[Two], Tensor]] = {
    "turned": lambda m: m.first[:, :5].t(),
    "some-columns": lambda m: m.first[:, :3],
    "shifted": lambda m: m.first.view(-1)[3:21].view(3, 6),
    "every-other-row": lambda m: m.first[::2],
    "one-column": lambda m: m.first[:, :1].expand(5, 6),
    "one-row-repeated": lambda m: m.first[:1].expand(5, 6),
    "beyond-its-end": lambda m: torch.as_strided(m.first.detach(), (6, 6), (6, 1)),
    "elsewhere": lambda m: m.first.detach() * 1,
}


@pytest.mark.parametrize("case", SHOWN)
def test_rows(places: Places, model: Two, case: str) -> None:
    view, rows = SHOWN[case]
    assert places.matrix(view(model)) == rows
    assert places.units(view(model)) == [rows.unit]


@pytest.mark.parametrize("case", NOT_SHOWN)
def test_no_whole_rows(places: Places, model: Two, case: str) -> None:
    assert places.matrix(NOT_SHOWN[case](model)) is None


@pytest.mark.parametrize(
    "copied",
    [
        lambda w: w.double(),
        lambda w: w[1:4].double(),
        lambda w: w[1:4].clone(),
        lambda w: w[1:4].t().contiguous(),
        lambda w: w[1:4].clone(memory_format=torch.contiguous_format),
    ],
    ids=["whole", "rows", "rows-clone", "turned", "contiguous"],
)
def test_copy(places: Places, model: Two, copied: Callable[[Tensor], Tensor]) -> None:
    source = model.first.detach()
    copy = copied(source)
    first = int(copy.min()) // 6
    if copy.shape[1] != 6:
        places.copy(source[1:4].t(), copy)
        copy = copy.t()
    else:
        places.copy(source[first : first + len(copy)], copy)
    assert places.matrix(copy) == RowsOf("first", first, len(copy))
    assert places.matrix(copy[1:]) == RowsOf("first", first + 1, len(copy) - 1)


def test_copy_that_is_gone(places: Places, model: Two) -> None:
    memory = model.first.detach().clone().numpy()
    copy = torch.from_numpy(memory)
    places.copy(model.first, copy)
    assert places.units(copy) == ["first"]
    del copy
    other = torch.from_numpy(memory)  # at the same address, as an allocator would have it
    assert places.units(other) == []
    assert places.matrix(other) is None


def test_some_columns_of_a_copy_are_no_copy(places: Places, model: Two) -> None:
    copy = model.first[:, :3].clone()
    places.copy(model.first[:, :3], copy)
    assert places.units(copy) == []


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_kernels(memory_format: torch.memory_format) -> None:
    layer = nn.Conv2d(4, 6, 3).to(memory_format=memory_format)  # type: ignore[call-overload]
    places = Places(find_units(layer), dict(layer.named_parameters()))
    assert places.kernel(layer.weight) == RowsOf("weight", 0, 6)
    assert places.kernel(layer.weight[2:5]) == RowsOf("weight", 2, 3)
    assert places.kernel(layer.weight[:, :2]) is None
    assert places.kernel(layer.weight[:, :, 1:]) is None
    assert places.kernel(layer.weight.transpose(0, 1)) is None
