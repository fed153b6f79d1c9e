"""Whose a file is, and how large."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixq.bench.candidate import Predicted, runtime_of, size_of
from mixq.errors import UsageError
from mixq.export.registry import RUNTIMES


def made(folder: Path, *names: str) -> Path:
    """Files of 10 bytes each; the first one's path, or the folder for names within it."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no JSON...")
    first = folder / names[0]
    return first if first.parent == folder else first.parent


FILES = {
    "onnx": (("m.onnx",), "onnxruntime", 10),
    "onnx-large": (("m.onnx", "m.onnx.data", "other.onnx.data"), "onnxruntime", 20),
    "openvino": (("m.xml", "m.bin", "other.bin"), "openvino", 20),
}


@pytest.mark.parametrize("wanted", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("names", "runtime", "size"), FILES.values(), ids=FILES)
def test_a_file_says_whose_it_is(
    tmp_path: Path, names: tuple[str, ...], runtime: str, size: int, wanted: str
) -> None:
    path = made(tmp_path, *names)
    assert runtime_of(path, wanted) == runtime
    assert size_of(path) == size


FOLDERS = {
    "genai": ("genai_config.json", "{}", "onnxruntime-genai"),
    "mlx": ("config.json", '{"quantization": {"bits": 4}}', "mlx"),
    "transformers": ("config.json", '{"quantization_config": {}}', "transformers"),
}


@pytest.mark.parametrize(("file", "text", "runtime"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_says_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, runtime: str
) -> None:
    monkeypatch.setitem(RUNTIMES, runtime, "")
    folder = made(tmp_path, "a/model.safetensors", "a/deep/er")
    (folder / file).write_text(text, encoding="utf-8")
    assert runtime_of(folder, "onnxruntime") == runtime
    assert size_of(folder) == size_of(folder / file) + 20


REFUSED = {
    "missing": ((), "m.onnx", "does not exist"),
    "unknown": (("m.pt",), "m.pt", "is no file that a runtime loads; pass a plan.json, or one of"),
    "empty-folder": (("a/x.txt",), "a", "is no file that a runtime loads"),
    "no-json": (("a/config.json",), "a", "is not valid JSON"),
}


@pytest.mark.parametrize(("names", "asked", "words"), REFUSED.values(), ids=REFUSED)
def test_other_files_are_refused(
    tmp_path: Path, names: tuple[str, ...], asked: str, words: str
) -> None:
    if names:
        made(tmp_path, *names)
    with pytest.raises(UsageError, match=words):
        runtime_of(tmp_path / asked, "onnxruntime")


def test_a_runtime_that_is_not_here_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(RUNTIMES, "gguf")
    with pytest.raises(UsageError, match="is for gguf, which mixq cannot run here"):
        runtime_of(made(tmp_path, "m.gguf"), "onnxruntime")


def test_a_prediction_without_a_baseline_has_no_ratio() -> None:
    assert Predicted(0.5, 2.0).ratio == 0.25
    assert Predicted(0.5, 0.0).ratio is None
