"""load_model: which spec goes where, and what is said to the others."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from mixq.errors import MixqError, SourceError
from mixq.sources import load_model


@pytest.mark.parametrize("spec", [None, "demo"])
def test_the_demo_is_the_default(spec: str | None) -> None:
    loaded = load_model(spec)
    assert loaded.name == "demo"
    assert loaded.calibration is not None
    assert loaded.evaluate is not None
    assert not loaded.model.training


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param("nothing", "does not exist and is no spec", id="word"),
        pytest.param("", "does not exist|no config.json", id="empty"),
        pytest.param("missing.pt2", "does not exist", id="pt2-missing"),
        pytest.param("missing.pt", "without an architecture", id="pt-missing"),
        pytest.param("folder/", "does not exist and is no spec", id="folder-missing"),
        pytest.param("no.such.module:load", "neither installed nor in", id="module"),
        pytest.param("json:", "is not a spec like", id="no-function"),
        pytest.param(":load", "is not a spec like", id="no-module"),
        pytest.param("json:no_such", "has no 'no_such'", id="function"),
        pytest.param("json:laods", "has no 'laods'; did you mean 'loads'", id="function-near"),
        pytest.param("shapes.py", "'shapes.py' names no function; pass shapes.py:load", id="py"),
        pytest.param("json:decoder", "a module, not a function", id="no-callable"),
        pytest.param("missing.py:load", "does not exist; check the path", id="file"),
        pytest.param("C:\\models\\m.py:load", "does not exist; check the path", id="drive"),
        pytest.param("a b:load", "neither installed nor in|importing", id="no-name"),
        pytest.param("..:load", "importing|neither", id="relative"),
        pytest.param("x\0y", "does not exist", id="null-byte"),
        pytest.param("x" * 5000, "does not exist", id="long"),
    ],
)
def test_refused_in_one_line(
    spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes.py").touch()
    with pytest.raises(SourceError, match=message) as caught:
        load_model(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".pkl", ".safetensors"])
def test_weights_without_architecture_are_never_read(
    suffix: str, tmp_path: Path, trap: Callable[[Path], bytes]
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(trap(tmp_path / "sprung"))
    with pytest.raises(SourceError, match=r"package\.module:function"):
        load_model(str(path))
    assert not (tmp_path / "sprung").exists()


def test_the_trap_works(tmp_path: Path, trap: Callable[[Path], bytes]) -> None:
    pickle.loads(trap(tmp_path / "sprung"))
    assert (tmp_path / "sprung").exists()


def test_every_error_is_of_mixq() -> None:
    assert issubclass(SourceError, MixqError)


def test_loaded_models_compare_by_identity() -> None:
    # Comparing modules by value has no meaning, so equality must not try.
    first, second = load_model(None), load_model(None)
    assert first != second
    assert isinstance(first.model, nn.Module)
