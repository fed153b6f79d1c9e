"""load_calibration: files of tensors, functions, and what is refused."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mixq.batch import Batch, call
from mixq.errors import CalibrationError, SourceError
from mixq.sources import LoadedModel, load_calibration, tensors

X = torch.arange(6.0).view(3, 2)


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return x if y is None else x - y


TWO = LoadedModel("two", Two())

NAMES: list[Any] = [
    pytest.param({"x": X}, {"x": X}, id="one-keyword"),
    pytest.param({"images": X}, X, id="one-positional"),
    pytest.param({"0": X}, (X,), id="position-0"),
    pytest.param({"1": X, "0": X * 2}, (X * 2, X), id="positions"),
    pytest.param({"y": X, "x": X * 2}, {"x": X * 2, "y": X}, id="keywords"),
]


def same(first: Batch, second: Batch) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    if isinstance(first, tuple) and isinstance(second, tuple):
        return all(map(torch.equal, first, second)) and len(first) == len(second)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize(("stored", "expected"), NAMES)
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_names_are_arguments(
    stored: dict[str, Tensor], expected: Batch, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"inputs{suffix}"
    if suffix == ".npz":
        arrays: dict[str, Any] = {name: value.numpy() for name, value in stored.items()}
        np.savez(path, **arrays)
    else:
        save_file(stored, path)
    calibration = load_calibration(str(path), TWO)
    (batch,) = calibration.batches
    assert same(batch, expected)
    call(TWO.model, batch)


def test_compressed_npz_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=X.numpy())
    assert load_calibration(str(tmp_path / "x.npz"), TWO).samples == 3


@pytest.mark.parametrize(
    "result", ["[torch.ones(3, 2)]", "torch.ones(3, 2)", "(nn.ReLU(), torch.ones(3, 2), None)"]
)
def test_functions(result: str, tmp_path: Path) -> None:
    path = tmp_path / "user_data.py"
    path.write_text(f"import torch\nfrom torch import nn\ndef data(): return {result}\n")
    assert load_calibration(f"{path}:data", TWO).samples == 3


def test_none_is_what_the_model_brought() -> None:
    from mixq.calibration import Calibration

    own = Calibration.of(X)
    assert load_calibration(None, LoadedModel("m", Two(), own)) is own
    with pytest.raises(CalibrationError, match=r"pass --calibration with a \.safetensors"):
        load_calibration(None, TWO)
    with pytest.raises(CalibrationError, match="pass --calibration with a text file"):
        load_calibration(None, LoadedModel("m", Two(), folder=Path("m")))


def npz_of(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", content)
    return buffer.getvalue()


def npy_header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def pickled_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.safetensors", b"", id="safetensors-empty"),
        pytest.param("a.safetensors", b"\xff" * 64, id="safetensors-garbage"),
        pytest.param("a.npz", b"", id="npz-empty"),
        pytest.param("a.npz", b"PK garbage", id="npz-garbage"),
        pytest.param("a.npz", pickled_npz(), id="npz-pickled"),
        pytest.param("a.npz", npz_of(npy_header((2,)) + b"\0" * 4), id="npz-cut"),
        pytest.param("a.npz", npz_of(npy_header((10**12,))), id="npz-claims-terabytes"),
        pytest.param("a.npz", npz_of(b"no array"), id="npz-member-garbage"),
        pytest.param("a.txt", b"text\n", id="text-without-tokenizer"),
    ],
)
def test_damaged_files_are_refused_in_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        load_calibration(str(path), TWO)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_pickled_arrays_are_never_loaded(tmp_path: Path, trap: Callable[[Path], bytes]) -> None:
    sprung = tmp_path / "sprung"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    (tmp_path / "x.npz").write_bytes(npz_of(header.getvalue() + trap(sprung)))
    with pytest.raises(SourceError, match="no intact"):
        load_calibration(str(tmp_path / "x.npz"), TWO)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        pytest.param(np.array(["a", "b"]), "no intact .npz of numbers", id="strings"),
        pytest.param(np.array([np.nan]), "NaN", id="nan"),
        pytest.param(np.zeros((0, 3)), "at least one sample", id="no-samples"),
    ],
)
def test_unusable_arrays_are_refused(array: Any, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=array)
    with pytest.raises((SourceError, CalibrationError), match=message):
        load_calibration(str(tmp_path / "x.npz"), TWO)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((1000, 1000)))
    monkeypatch.setattr(tensors, "UNPACKED_BYTES", 1_000_000)

    def unpacked(*_: object, **__: object) -> None:
        raise AssertionError("np.load was called")

    monkeypatch.setattr(np, "load", unpacked)
    with pytest.raises(SourceError, match="unpacks to 8000"):
        load_calibration(str(tmp_path / "x.npz"), TWO)


@pytest.mark.parametrize("spec", ["missing.npz", "missing.txt", "nothing", "no_such_module:data"])
def test_missing_things_are_refused(spec: str) -> None:
    with pytest.raises(SourceError):
        load_calibration(spec, TWO)


def test_an_empty_file_of_tensors_is_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "x.safetensors")
    with pytest.raises(CalibrationError, match="no tensors"):
        load_calibration(str(tmp_path / "x.safetensors"), TWO)
