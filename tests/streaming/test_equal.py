"""Streamed is whole, to the last bit: units, traces, fingerprints, sketches and measurements."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mixq.batch import call
from mixq.formats import Format
from mixq.graph.build import build_graph
from mixq.graph.state import fingerprint
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.measured import measure
from mixq.sensitivity.sketch import sketch
from mixq.streaming import sketch as sketch_module
from mixq.streaming.measured import measure_streamed
from mixq.streaming.sketch import sketch_streamed

from .conftest import Both


def test_units_and_fingerprint(both: Both) -> None:
    units = build_graph(both.whole, lambda: call(both.whole, both.calibration.batches[0])).units
    assert list(both.streamed.units) == list(units)
    bare = {name: replace(unit, work=()) for name, unit in units.items()}
    assert both.streamed.units == bare
    assert both.streamed.fingerprint() == fingerprint(both.whole)


def test_the_trace_is_the_same(both: Both) -> None:
    batch = both.calibration.batches[0]
    whole = build_graph(both.whole, lambda: call(both.whole, batch), batch_size=2)
    found = both.streamed.graph(lambda: call(both.streamed.model, batch), batch_size=2)
    assert found.source == whole.source == "dispatch"
    assert found.units == whole.units
    assert (found.parameters, found.original_bytes, found.other_bytes, found.lost) == (
        whole.parameters, whole.original_bytes, whole.other_bytes, whole.lost,
    )  # fmt: skip
    for one, other in zip(
        found.digraph.nodes(data=True), whole.digraph.nodes(data=True), strict=True
    ):
        assert one == other
    assert found.peak_activation_bytes == whole.peak_activation_bytes


def test_the_sketch_is_the_same(both: Both) -> None:
    units = list(both.streamed.units.values())
    rounder = Rounder(both.whole, both.streamed.units)
    whole = sketch(both.whole, both.calibration, units, both.formats, rounder, probes=2, seed=3)
    assert sketch_streamed(both.streamed, both.calibration, both.formats, seed=3) == whole
    errors = [entry.error for row in whole.values() for fmt, entry in row.items() if fmt.bits < 32]
    assert sum(error > 0 for error in errors) > len(errors) / 2


def test_the_measured_table_is_the_same(both: Both) -> None:
    # Activations, too: an embedding has none, and is refused in the same words.
    formats = {unit: (*own, Format.parse("w8a8-dynamic")) for unit, own in both.formats.items()}
    units = list(both.streamed.units.values())
    whole = measure(both.whole, both.calibration, units, formats)
    assert measure_streamed(both.streamed, both.calibration, formats) == whole
    alone = [unit for unit in units if unit.module == "Embedding" and not unit.aliases]
    assert len(alone) <= len(whole.refused)


@pytest.mark.parametrize("room_bytes", [0, 1 << 30], ids=["one-at-a-time", "all-at-once"])
def test_however_many_go_together(
    both: Both, room_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of changes and sets of gradients make no difference, nor does spilling."""
    monkeypatch.setattr(sketch_module, "GRADIENT_BYTES", room_bytes)
    formats = {unit: own[1:3] for unit, own in both.formats.items()}
    expected = measure_streamed(both.streamed, both.calibration, formats)
    found = measure_streamed(both.streamed, both.calibration, formats, room_bytes=room_bytes)
    assert found == expected
    estimated = sketch_streamed(both.streamed, both.calibration, formats)
    again = sketch_streamed(both.streamed, both.calibration, formats, room_bytes=room_bytes)
    assert estimated == again


def test_the_model_is_left_as_it_was(both: Both) -> None:
    sketch_streamed(both.streamed, both.calibration, both.formats)
    assert all(parameter.is_meta for parameter in both.streamed.model.parameters())
    assert not any("forward" in vars(module) for module in both.streamed.model.modules())
    for (name, own), (other, loaded) in zip(
        both.streamed.model.named_buffers(), both.whole.named_buffers(), strict=True
    ):
        assert name == other
        assert torch.equal(own, loaded)
