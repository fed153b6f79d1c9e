"""On another device the same is measured: on CUDA where there is one, else on a pretended one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from mixq.calibration import Calibration
from mixq.errors import UsageError
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.graph.units import WeightUnit
from mixq.rounding.prepare import Prepared, prepare_rounding
from mixq.sensitivity.device import check_device, device_of, moved
from mixq.sensitivity.joint import joint_errors
from mixq.sensitivity.measured import measure
from mixq.sensitivity.metrics.weighted import Weighted
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.sketch import sketch
from mixq.sensitivity.store import Store

THERE = torch.device("cuda")
MARK = "_mixq_test_is_there"


class Pretended(TorchFunctionMode):
    """The processor, which calls itself CUDA for what was moved there and refuses to mix the two.

    What it does not show: kernels of another device, whose last bits differ.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if MARK in tensor.__dict__]
        if func == Tensor.device.__get__:
            return THERE if there else torch.device("cpu")
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            args[0].__dict__.pop(MARK, None)
            return self._marked(func(*args), MARK in args[1].__dict__, args[0])
        if getattr(func, "__name__", "") == "_has_compatible_shallow_copy_type":
            return func(*args)
        if func in (Tensor.cpu, Tensor.to):
            return self._moved(func, args, kwargs)
        goes_there = bool(there)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]) == THERE:
            kwargs["device"], goes_there = "cpu", True
        elif any(tensor.dim() > 0 for tensor in tensors if MARK not in tensor.__dict__) and there:
            raise RuntimeError(f"{func}: expected all tensors to be on the same device")
        if func in (Tensor.numpy, Tensor.__array__) and there:
            raise TypeError("cannot convert a CUDA tensor to numpy")
        if goes_there and kwargs.get("generator") is not None:
            raise RuntimeError("expected a CUDA generator")
        return self._marked(func(*args, **kwargs), goes_there)

    def _moved(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        source, *rest = args
        was_there = goes_there = MARK in source.__dict__
        given = [kwargs.pop("device", None), *rest]
        kept = []
        for item in given:
            if isinstance(item, str | torch.device):
                goes_there = torch.device(item).type == "cuda"
            elif isinstance(item, Tensor):
                goes_there = MARK in item.__dict__
                kept.append(item.dtype)
            elif isinstance(item, torch.dtype):
                kept.append(item)
        if func is Tensor.cpu:
            goes_there = False
        result = func(source, *kept, **kwargs) if kept or kwargs else source
        if goes_there != was_there and result is source:
            result = source.clone()
            result.__dict__.pop(MARK, None)
        return self._marked(result, goes_there)

    @staticmethod
    def _marked(result: Any, is_there: bool, also: Tensor | None = None) -> Any:
        for leaf in (*tree_leaves(result), also):
            if isinstance(leaf, Tensor) and is_there:
                setattr(leaf, MARK, True)
        return result


@contextlib.contextmanager
def cuda() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA")
    yield


DEVICES: Mapping[str, Callable[[], Any]] = {"pretended": Pretended, "cuda": cuda}
FORMATS = tuple(
    map(
        Format.parse,
        ("w32", "w16", "w8", "w8a8-dynamic", "w8a8-static", "w4g16-zp-gptq", "w2g16-clip-bc"),
    )
)


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 32)
        self.block = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.convolution = nn.Conv1d(32, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.block(self.embed(x)).mT
        result: Tensor = self.head(self.convolution(hidden).relu().mean(2))
        return result


Setting = tuple[nn.Module, list[WeightUnit], Prepared]


@pytest.fixture(scope="module")
def setting() -> Setting:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Attentive().eval()
        data = [torch.randn(2, 6, 16) for _ in range(8)]
    units = find_units(model)
    formats = {unit.name: FORMATS for unit in units}
    named = {unit.name: unit for unit in units}
    return model, units, prepare_rounding(model, named, formats, Calibration.of(data))


def close(found: float, expected: float, power: float) -> bool:
    """Outputs of size sqrt(power) differ by some 2^-20 of it between devices, so errors e, means
    of squared differences, by 2 sqrt(e power) 2^-20 + power 2^-40; sixteen times that is let pass.
    """
    moved_by = 2 * (expected * power) ** 0.5 * 2**-20 + power * 2**-40
    return bool(abs(found - expected) <= 16 * moved_by)


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_measured(
    device: Callable[[], Any], setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    model, units, rounding = setting
    rounder, data = rounding.rounder, rounding.unseen
    formats = rounding.formats
    here = measure(model, data, units, formats, rounder=rounder)
    with device():
        there = moved(model, "cuda")
        assert device_of(there).type == "cuda"
        assert device_of(model).type == "cpu"
        table = measure(there, data, units, formats, rounder=rounder)
    assert caplog.records == []  # what follows each unit was run there, not the whole model
    assert table.refused == here.refused
    assert (table.model_fingerprint, table.calibration_fingerprint) == (
        here.model_fingerprint,
        here.calibration_fingerprint,
    )
    for unit, row in here.entries.items():
        assert list(table.entries[unit]) == list(row)
        for fmt, entry in row.items():
            assert close(table.entries[unit][fmt].error, entry.error, here.output_power), fmt.name


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_sketched(device: Callable[[], Any], setting: Setting) -> None:
    model, units, rounding = setting
    args = (rounding.unseen, units, rounding.formats, rounding.rounder)
    here = sketch(model, *args)
    with device():
        there = sketch(moved(model, "cuda"), *args)
    for unit, row in here.items():
        for fmt, entry in row.items():
            assert there[unit][fmt].error == pytest.approx(entry.error, rel=1e-4)  # same signs


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_joint(device: Callable[[], Any], setting: Setting) -> None:
    model, _, rounding = setting
    assignment = {unit: choices[-2] for unit, choices in rounding.formats.items()}
    assignment |= {"embed.weight": FORMATS[4], "head.weight": FORMATS[-1]}
    found = []
    for place in (contextlib.nullcontext, device):
        with place():
            where = moved(model, "cpu" if place is contextlib.nullcontext else "cuda")
            reference = Reference(where, rounding.unseen)
            errors = joint_errors(rounding.rounder, assignment, {"r": reference}, "a plan")["r"]
            found.append((errors, reference.power))
    (here, power), (there, _) = found
    assert all(close(b, a, power) for a, b in zip(here, there, strict=True))


def test_the_pretended_device_refuses_to_mix() -> None:
    with Pretended():
        there, here = torch.ones(3).to("cuda"), torch.ones(3)
        assert (there.device.type, here.device.type) == ("cuda", "cpu")
        with pytest.raises(RuntimeError, match="same device"):
            torch.add(there, here)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert (there.cpu() + here).device.type == "cpu"
        assert (there * torch.tensor(2.0)).sum().device.type == "cuda"


def test_moving() -> None:
    model, calibration = nn.Linear(3, 2), Calibration.of(torch.ones(2, 3))
    assert moved(model, "cpu") is model
    assert calibration.to("cpu") is calibration
    with Pretended():
        there = calibration.to("cuda")
        assert there is not calibration
        assert there.fingerprint == calibration.fingerprint
        assert there.to("cuda") is there


REFUSED: dict[str, tuple[str, int, str]] = {
    "unknown": ("gpu", 1, "'gpu', but it must be cpu, cuda"),
    "other": ("meta", 1, "'meta', but it must be cpu, cuda"),
    "not-there": ("cuda:99", 1, "CUDA devices here; leave it out"),
}


@pytest.mark.parametrize(("name", "workers", "message"), REFUSED.values(), ids=REFUSED)
def test_devices_that_are_refused(name: str, workers: int, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refusal:
        check_device(name, workers)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_status == 2


def test_workers_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_device("cuda:1", 1) == "cuda:1"
    assert check_device("cpu", 8) == "cpu"
    with pytest.raises(UsageError, match=r"--workers is 2, but on cuda"):
        check_device("cuda", 2)
    with pytest.raises(UsageError, match=r"cuda:2, but .* finds 2 CUDA devices"):
        check_device("cuda:2", 1)


def test_numbers_of_another_device_are_another_store(tmp_path: Any, setting: Setting) -> None:
    _, _, rounding = setting
    for device, files in (("cpu", 1), ("cuda", 2), ("cuda:1", 2)):
        store = Store.of(tmp_path, "model", rounding.unseen, rounding.rounder, Weighted(), device)
        store.put("unit", "w8", [0.5])
        assert len(list(tmp_path.iterdir())) == files
