"""Parcel: Python objects and their tensors on the way from a process to its own workers.

Pickled by value where a worker could not import what is needed; tensors lie beside the pickle,
once for each storage. Kernels may sum in another order where numbers lie at another offset in a
cache line, so a storage comes to lie at the offset that it had, and bits stay equal.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

LINE: Final = 64
"""Bytes of a cache line, and of the widest vector register."""


def packed(content: object, *, far: bool = False) -> NDArray[np.uint8]:
    """`content` as bytes that `unpacked` takes; one array, which joblib shares between processes.

    Args:
        content: what to pack.
        far: whether workers have other folders to import from.

    Raises:
        Exception: what `content` raises where it refuses to be pickled.
    """
    buffers: list[NDArray[np.uint8]] = []
    pickled = io.BytesIO()
    with _by_value(_is_foreign if far else _is_hidden):
        _Pickler(pickled, protocol=5, buffer_callback=lambda b: buffers.append(_bytes(b))).dump(
            content
        )
    parts = [np.frombuffer(pickled.getbuffer(), np.uint8), *buffers]
    sizes = np.array([len(parts), *map(len, parts)], np.int64)
    return np.concatenate([sizes.view(np.uint8), *parts])


def unpacked(parcel: NDArray[np.uint8]) -> Any:
    """What was packed; nothing in it shares memory with the parcel.

    Raises:
        Exception: what unpickling raises, such as a module that cannot be imported here.
    """
    count = int(parcel[:8].view(np.int64)[0])
    sizes = parcel[8 : 8 * (count + 1)].view(np.int64)
    ends = 8 * (count + 1) + np.cumsum(sizes)
    pickled, *buffers = (parcel[end - size : end] for size, end in zip(sizes, ends, strict=True))
    return pickle.loads(pickled.data, buffers=[buffer.data for buffer in buffers])


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) in (Tensor, nn.Parameter) and _is_plain(obj):
            place = (obj.dtype, obj.storage_offset(), obj.size(), obj.stride())
            is_parameter, wants_gradient = type(obj) is nn.Parameter, obj.requires_grad
            made = (obj.untyped_storage(), *place, is_parameter, wants_gradient)
            return _tensor, made, dict(obj.__dict__), None, None, _set_state
        if isinstance(obj, torch.UntypedStorage):
            offset = obj.data_ptr() % LINE
            plain = torch.empty(0, dtype=torch.uint8).set_(obj.cpu())
            return _storage, (pickle.PickleBuffer(plain.numpy().data), offset, str(obj.device))
        if isinstance(obj, nn.Module) and parametrize.is_parametrized(obj):
            names = tuple(obj.parametrizations)  # type: ignore[arg-type]
            reduced = (type(obj).__bases__[0], names)
            return _parametrized, reduced, dict(obj.__dict__), None, None, _set_state
        return super().reducer_override(obj)


def _is_plain(tensor: Tensor) -> bool:
    """Whether storage, place and type say all of it."""
    return (
        tensor.device.type in ("cpu", "cuda")
        and tensor.layout is torch.strided
        and not (tensor.is_conj() or tensor.is_neg() or tensor.is_quantized)
    )


def _tensor(
    storage: torch.UntypedStorage,
    dtype: torch.dtype,
    offset: int,
    size: torch.Size,
    stride: tuple[int, ...],
    is_parameter: bool,
    wants_gradient: bool,
) -> Tensor:
    tensor = torch.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, size, stride)
    if is_parameter:
        return nn.Parameter(tensor, wants_gradient)
    return tensor.requires_grad_(wants_gradient)


def _storage(buffer: memoryview, offset: int, device: str) -> torch.UntypedStorage:
    source = np.frombuffer(buffer, np.uint8)
    if device != "cpu":
        return torch.from_numpy(source.copy()).to(device).untyped_storage()
    # The array owns more than the storage shows, so that it can begin anywhere in a line.
    room = np.empty(len(source) + LINE, np.uint8)
    start = (offset - room.ctypes.data) % LINE
    place = room[start : start + len(source)]
    place[:] = source
    return torch.from_numpy(place).untyped_storage()


def _parametrized(cls: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    """A module of the class that torch makes for parametrized ones, and refuses to pickle."""
    module = cls.__new__(cls)
    parametrize._inject_new_class(module)
    for name in names:
        parametrize._inject_property(module, name)
    return module


def _set_state(made: object, state: dict[str, object]) -> None:
    made.__dict__.update(state)


def _bytes(buffer: pickle.PickleBuffer) -> NDArray[np.uint8]:
    return np.frombuffer(buffer.raw(), np.uint8)


@contextlib.contextmanager
def _by_value(wanted: Callable[[ModuleType], bool]) -> Iterator[None]:
    """Classes and functions of some modules travel with the content."""
    known = set(cloudpickle.list_registry_pickle_by_value())
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name not in known and getattr(module, "__name__", "") == name and wanted(module)
    ]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _is_foreign(module: ModuleType) -> bool:
    """Whether the module is somebody's own code, neither installed nor mixq's."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or module.__name__ == "__main__":
        return False
    top = module.__name__.partition(".")[0]
    return (
        top not in sys.stdlib_module_names
        and top != "mixq"
        and "site-packages" not in file
        and "dist-packages" not in file
    )


def _is_hidden(module: ModuleType) -> bool:
    """Whether it is foreign and another process with the same path would not find it."""
    if not _is_foreign(module):
        return False
    top, _, inner = module.__name__.partition(".")
    specs = (finder.find_spec(top, None) for finder in sys.meta_path)
    spec = next((spec for spec in specs if spec is not None), None)
    if spec is None:
        return True
    if not inner:
        return spec.origin != module.__file__
    folders = map(Path, spec.submodule_search_locations or ())
    return not any(Path(str(module.__file__)).is_relative_to(folder) for folder in folders)
