"""The memory of a fresh process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mixq.batch import Batch, named_tensors
from mixq.bench.exporting import export_all
from mixq.bench.memory import measure_memory, write_batch
from mixq.bench.probe import STATUS, read_batch
from mixq.bench.uniform import float_plan, uniform_plan
from mixq.calibration import Calibration
from mixq.errors import WorkerError
from mixq.formats import Format

linux = pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc")

BATCHES: dict[str, Batch] = {
    "tensor": torch.randn(2, 3),
    "tuple": (torch.arange(4).reshape(2, 2), torch.randn(2, 1)),
    "dict": {
        "input_ids": torch.arange(6).reshape(2, 3),
        "attention_mask": torch.ones(2, 3).long(),
    },
    "one-in-a-tuple": (torch.ones(1, 2, dtype=torch.bool),),
    "many": {f"x{index}": torch.full((1,), float(index)) for index in range(12)},
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_a_batch_reaches_another_process_whole(batch: Batch, tmp_path: Path) -> None:
    file = tmp_path / "batch.safetensors"
    write_batch(batch, file)
    found = read_batch(file)
    assert type(found) is type(batch)
    pairs = zip(named_tensors(found), named_tensors(batch), strict=True)
    assert all(own[0] == other[0] and torch.equal(own[1], other[1]) for own, other in pairs)


@linux
def test_weights_are_in_memory_as_wide_as_they_are_stored(tmp_path: Path) -> None:
    """A large matrix in 32 bits and in 4: the process grows by no less than it holds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 4096, bias=False)).eval()
    calibration = Calibration.of(torch.randn(4, 1024))
    batch = tmp_path / "batch.safetensors"
    write_batch(calibration.batches[0][:1], batch)  # type: ignore[index]
    found = {}
    plans = {
        "wide": float_plan(model),
        "narrow": uniform_plan(model, calibration, Format(4, 64, "zero-point")),
    }
    for made in export_all(model, plans, "onnxruntime", tmp_path, calibration):
        assert made.path is not None, made.fault
        name, size = made.name, plans[made.name].predicted.weight_bytes
        memory = measure_memory("onnxruntime", made.path, batch, 1)
        assert memory is not None
        assert memory.anonymous_bytes + memory.mapped_bytes >= 0.9 * size
        assert memory.peak_bytes >= memory.anonymous_bytes + memory.file_backed_bytes
        # ONNX Runtime's own code is many megabytes, and no mapped weight.
        assert 1e6 < memory.library_bytes <= memory.file_backed_bytes
        found[name] = memory
    # 16.8 MB against 2.4 MB of codes, scales and zero points, which ONNX Runtime holds several
    # times: as they were read, and as its kernel wants them.
    assert found["wide"].anonymous_bytes - found["narrow"].anonymous_bytes > 5e6


@linux
def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    batch, broken = tmp_path / "batch.safetensors", tmp_path / "m.onnx"
    write_batch(torch.zeros(1, 2), batch)
    broken.write_bytes(b"no model")
    with pytest.raises(WorkerError, match=r"ended with status 1: .*does not load"):
        measure_memory("onnxruntime", broken, batch, 1)


def test_without_proc_there_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixq.bench.memory.STATUS", tmp_path / "none")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert measure_memory("onnxruntime", tmp_path, tmp_path / "b", 1) is None
