"""Models from functions of the user: what is found, what may be returned, what is reported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from mixq.errors import CalibrationError, SourceError
from mixq.sources import load_model

HEADER = "import torch\nfrom torch import nn\n"


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what importing a user's module leaves behind."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("user_", "mixq_user_")):
            del sys.modules[name]


def write(path: Path, body: str) -> str:
    path.write_text(HEADER + body)
    return f"{path}:load"


@pytest.mark.parametrize(
    ("result", "calibrated", "evaluated"),
    [
        pytest.param("nn.Linear(2, 1)", False, False, id="model"),
        pytest.param("(nn.Linear(2, 1), torch.ones(3, 2))", True, False, id="pair"),
        pytest.param("(nn.Linear(2, 1), [torch.ones(3, 2)], measure)", True, True, id="triple"),
        pytest.param("(nn.Linear(2, 1), None, None)", False, False, id="nones"),
    ],
)
def test_what_may_be_returned(
    result: str, calibrated: bool, evaluated: bool, tmp_path: Path
) -> None:
    body = f"def measure(model): return {{'x': 1.0}}\ndef load(): return {result}\n"
    loaded = load_model(write(tmp_path / "user_a.py", body))
    assert isinstance(loaded.model, nn.Linear)
    assert not loaded.model.training
    assert (loaded.calibration is not None) == calibrated
    assert (loaded.evaluate is not None) == evaluated
    assert loaded.name.endswith("user_a.py:load")


def test_a_class_is_a_function_too() -> None:
    assert isinstance(load_model("torch.nn:Identity").model, nn.Identity)


def test_modules_of_the_current_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user_package").mkdir()
    write(tmp_path / "user_package" / "models.py", "def load(): return nn.Linear(2, 1)\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_model("user_package.models:load").model, nn.Linear)


def test_a_file_imports_its_neighbours_and_shadows_nothing(tmp_path: Path) -> None:
    (tmp_path / "user_neighbour.py").write_text("width = 7\n")
    body = (
        "from dataclasses import dataclass\nimport user_neighbour\n"
        "@dataclass\nclass Sizes:\n    width: int\n"
        "def load(): return nn.Linear(Sizes(user_neighbour.width).width, 1)\n"
    )
    loaded = load_model(write(tmp_path / "json.py", body))
    assert isinstance(loaded.model, nn.Linear)
    assert loaded.model.in_features == 7
    import json

    assert hasattr(json, "dumps")


@pytest.mark.parametrize(
    ("body", "message", "cause"),
    [
        pytest.param("def load(): return 3", "returned a int", None, id="number"),
        pytest.param("def load(): pass", "returned a NoneType", None, id="nothing"),
        pytest.param("def load(): return nn.Linear", "returned a type", None, id="class"),
        pytest.param("def load(): return (1, 2)", "tuple of \\(int, int\\)", None, id="numbers"),
        pytest.param(
            "def load(): return (nn.ReLU(), None, 'x')", "a str as evaluate", None, id="evaluate"
        ),
        pytest.param("def load(): 1 / 0", "ZeroDivisionError", ZeroDivisionError, id="raises"),
        pytest.param("def load(path): pass", "failed: TypeError", TypeError, id="arguments"),
        pytest.param("def load(: pass", "SyntaxError", SyntaxError, id="syntax"),
        pytest.param("1 / 0", "importing .* ZeroDivision", ZeroDivisionError, id="import-raises"),
        pytest.param(
            "import user_missing", "importing .*user_missing", ModuleNotFoundError, id="import"
        ),
        pytest.param("load = 3", "a int, not a function", None, id="no-function"),
        pytest.param(
            "def load(): raise ValueError('first\\nsecond')", "first;", ValueError, id="lines"
        ),
    ],
)
def test_failures_are_one_line_and_keep_the_cause(
    body: str, message: str, cause: type[Exception] | None, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        load_model(write(tmp_path / "user_b.py", body + "\n"))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, cause or type(None))


def test_a_missing_import_inside_a_module_is_not_blamed_on_the_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "user_c.py", "import user_missing\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"importing 'user_c' failed.*user_missing"):
        load_model("user_c:load")


def test_bad_calibration_is_said_as_it_is(tmp_path: Path) -> None:
    spec = write(tmp_path / "user_d.py", "def load(): return nn.ReLU(), torch.ones(0, 2)\n")
    with pytest.raises(CalibrationError, match="at least one sample"):
        load_model(spec)
