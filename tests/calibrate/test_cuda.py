"""On a GPU the same is done; here a pretended one, whose kernels are the processor's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from mixq.calibrate.cuda import EventClock, calibrate_cuda
from mixq.calibrate.torch_cases import Sizes, torch_cases
from mixq.cost.machine import Machine
from mixq.errors import UsageError

SMALL = Sizes(((64, 128), (128, 64)), (1, 8), (256, 4096))


@dataclass
class Device:
    """A GPU's clock, which stands while nothing runs; times are in milliseconds."""

    now_ms: float = 0.0
    waits: int = 0


class Event:
    """As torch.cuda.Event."""

    def __init__(self, device: Device) -> None:
        self.device, self.at_ms = device, -1.0

    def record(self) -> None:
        self.at_ms = self.device.now_ms

    def synchronize(self) -> None:
        self.device.waits += 1

    def elapsed_time(self, later: Event) -> float:
        return later.at_ms - self.at_ms


class Ticking(TorchFunctionMode):
    """Torch's operators on a device that takes a microsecond for each and one for 1000 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        numbers = sum(leaf.numel() for leaf in tree_leaves(found) if isinstance(leaf, Tensor))
        self.now_s += 1e-6 + 1e-9 * numbers
        return found


def test_events_are_a_clock() -> None:
    device = Device()
    clock = EventClock(lambda: Event(device))
    assert clock() == 0
    device.now_ms += 250
    assert clock() == 0.25
    device.now_ms += 1e9
    start = clock()
    device.now_ms += 0.5
    assert clock() - start == pytest.approx(5e-4, rel=1e-6)
    assert device.waits == 5


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_no_device_is_said_in_one_line(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        UsageError, match=f"--device is {device}, but torch .* no CUDA device here"
    ):
        calibrate_cuda(device=device)


def test_threads_are_refused() -> None:
    with pytest.raises(UsageError, match="--threads is 2, but a GPU is measured as one"):
        calibrate_cuda(2, device="cpu")


def test_a_pretended_device_is_calibrated() -> None:
    with Ticking() as device:
        done = calibrate_cuda(device="cpu", sizes=SMALL, clock=lambda: device.now_s, rounds=5)
    machine = Machine.of(done.profile)
    assert machine.runtime.name == "torch"
    assert machine.runtime.searchable
    assert "--device cpu" in done.text
    assert done.noise == pytest.approx(0, abs=1e-9)
    assert all(kernel.points for kernel in machine.runtime.kernels)
    assert done.cases == len(list(torch_cases("cpu", SMALL)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_real_device_is_calibrated() -> None:
    done = calibrate_cuda(rounds=5, budget_s=20)
    assert {kernel.bits for kernel in done.profile.runtime().kernels} >= {32, 16, 8, 4}
