"""What is in memory: one part's weights at a time, and what was put on the shelf."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mixq.calibration import Calibration
from mixq.errors import OutputError
from mixq.formats import Format
from mixq.quantize.weights import PackedWeight
from mixq.rounding.rounder import Rounder
from mixq.streaming import StreamedModel
from mixq.streaming import sketch as sketch_module
from mixq.streaming.measured import measure_streamed
from mixq.streaming.shards import Shards
from mixq.streaming.shelf import Shelf
from mixq.streaming.sketch import sketch_streamed

from .conftest import FORMATS, tokens

DATA = Calibration.of({"input_ids": tokens(3, 7)})
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def fetched(streamed: StreamedModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The weights that were fetched, each time with nothing of another part in place."""
    seen: list[str] = []
    fetch = Shards.fetch

    def watched(self: Shards, names: Iterable[str]) -> dict[str, Tensor]:
        wanted = list(names)
        # The tied head is differentiated together with the embedding, whose weight it is.
        assert streamed.held <= {EMBEDDING}
        seen.extend(wanted)
        return fetch(self, wanted)

    monkeypatch.setattr(Shards, "fetch", watched)
    return seen


def test_a_sketch_fetches_every_part_once_forward_and_once_backward(
    streamed: StreamedModel, fetched: list[str]
) -> None:
    sketch_streamed(streamed, DATA, dict.fromkeys(streamed.units, FORMATS), probes=3)
    counts = Counter(fetched)
    # The tied weight is part of the embedding and of the head.
    assert counts.pop(EMBEDDING) == 4
    assert set(counts.values()) == {2}
    assert len(counts) == len(list(streamed.model.parameters())) - 1


def test_measuring_fetches_what_follows_once_for_all_changes(
    streamed: StreamedModel, fetched: list[str]
) -> None:
    streamed.fingerprint()
    fetched.clear()
    first, second, third = (f"model.layers.{i}.mlp.down_proj.weight" for i in range(3))
    formats = dict.fromkeys(streamed.units, FORMATS[:1]) | {second: FORMATS, third: FORMATS}
    measure_streamed(streamed, DATA, formats)
    counts = Counter(fetched)
    assert counts[first] == 1  # for the original alone
    assert counts[second] == 2
    assert counts[third] == 2  # those that begin here wait for those that come from before


def test_every_format_is_rounded_once(
    streamed: StreamedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded: list[tuple[str, Format]] = []
    packed = Rounder.packed

    def counted(self: Rounder, unit: str, fmt: Format) -> PackedWeight:
        rounded.append((unit, fmt))
        return packed(self, unit, fmt)

    monkeypatch.setattr(Rounder, "packed", counted)
    monkeypatch.setattr(sketch_module, "GRADIENT_BYTES", 0)  # gradients one by one
    sketch_streamed(streamed, DATA, dict.fromkeys(streamed.units, FORMATS))
    assert len(rounded) == len(set(rounded)) == len(streamed.units) * (len(FORMATS) - 1)


@pytest.mark.parametrize("what", ["sketch", "measure"])
def test_what_finds_no_room_is_spilled_and_leaves_nothing(
    what: str, streamed: StreamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelves: list[Shelf] = []
    init = Shelf.__init__

    def noted(self: Shelf, room_bytes: int, folder: Path | None) -> None:
        init(self, room_bytes, folder)
        shelves.append(self)

    monkeypatch.setattr(Shelf, "__init__", noted)
    formats = dict.fromkeys(streamed.units, FORMATS[:2])
    if what == "sketch":
        sketch_streamed(streamed, DATA, formats, room_bytes=1000, spill=tmp_path)
    else:
        measure_streamed(streamed, DATA, formats, room_bytes=1000, spill=tmp_path)
    assert shelves[0].spilled_bytes > 1000
    assert list(tmp_path.iterdir()) == []


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.int64, torch.bool, torch.bfloat16]),
    room_bytes=st.integers(0, 200),
    transposed=st.booleans(),
)
def test_a_shelf_gives_back_what_was_put(
    shapes: list[list[int]], dtype: torch.dtype, room_bytes: int, transposed: bool
) -> None:
    shelf = Shelf(room_bytes)
    tensors = [(torch.randn(shape) * 9).to(dtype) for shape in shapes]
    tree = {"a": [t.transpose(0, -1) if transposed and t.dim() else t for t in tensors], "b": None}
    kept = shelf.put(tree)
    found = shelf.get(kept)
    shelf.close()
    assert found["b"] is None
    for own, other in zip(tree["a"] or [], found["a"], strict=True):
        assert own.dtype == other.dtype
        assert torch.equal(own, other)


def test_room_that_is_freed_is_used_again() -> None:
    shelf = Shelf(8)
    first = shelf.put(torch.ones(2))
    shelf.free(first)
    assert isinstance(shelf.put(torch.ones(2)), Tensor)
    assert shelf.spilled_bytes == 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"absent cannot be written.*make room there"):
        Shelf(0, tmp_path / "absent").put(torch.ones(2))
