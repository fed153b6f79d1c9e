"""mixq export: a verified file and one line, or one line that says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixq.plan import Plan
from tests.cli.test_refusals import REFUSED, USAGE

SUFFIXES = {
    "onnxruntime": "model.onnx",
    "openvino": "model.xml",
    "qdq": "model.onnx",
    "torch": "model.mixq.safetensors",
}


@pytest.fixture
def plan_file(tmp_path: Path, demo_run: Path) -> Callable[..., Path]:
    """The demo's plan, all of its layers in a format if one is given."""

    def make(bits: int = 8, **fields: Any) -> Path:
        path = demo_run / "plan.json"
        loaded = Plan.load(path)
        layers = {
            name: layer.model_copy(
                update={
                    "bits": bits, "group_size": 32, "grid": "symmetric", "method": "rtn",
                    "activation": "none", "bias_corrected": False, "aliases": [], **fields,
                }
            )
            for name, layer in loaded.layers.items()
        }  # fmt: skip
        made = loaded.model_copy(update={"layers": layers, "weights": None})
        for name, layer in made.layers.items():
            size = layer.format.stored_bytes(*layer.matrix, 4)
            layers[name] = layer.model_copy(update={"weight_bytes": size})
        saved = tmp_path / "uniform.json"
        made.model_copy(update={"layers": layers}).save(saved)
        return saved

    return make


@pytest.fixture
def listing(tmp_path: Path) -> Callable[[], set[str]]:
    return lambda: {str(item.relative_to(tmp_path)) for item in tmp_path.rglob("*")}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_a_file_is_written_where_nothing_says_where(
    runtime: str, cli: Any, demo_run: Path, listing: Any
) -> None:
    before = listing()
    answer = cli("export", demo_run / "plan.json", "--runtime", runtime)
    assert answer.status == 0, answer.err
    beside = {"model.bin"} if runtime == "openvino" else set()
    assert listing() - before == {SUFFIXES[runtime], *beside}
    (line,) = answer.out.splitlines()
    assert line.startswith(f"Written to {SUFFIXES[runtime]}: ")
    assert f"{runtime} computes the plan's outputs within " in line
    assert all(line.startswith("note: ") for line in answer.err.splitlines())


def test_json_is_the_whole_answer(cli: Any, demo_run: Path, tmp_path: Path) -> None:
    answer = cli("export", demo_run / "plan.json", "--output", "small.onnx", "--format", "json")
    assert answer.status == 0, answer.err
    assert set(answer.json) == {
        "runtime", "path", "file_bytes", "tensor_bytes", "predicted_bytes", "difference",
        "tolerance", "notes", "blocks",
    }  # fmt: skip
    assert answer.json["runtime"] == "onnxruntime"
    assert answer.json["file_bytes"] == (tmp_path / "small.onnx").stat().st_size
    assert answer.json["tensor_bytes"] == answer.json["predicted_bytes"]
    assert answer.json["difference"] <= answer.json["tolerance"]
    assert answer.err == ""


def test_options_reach_the_runtime(cli: Any, plan_file: Any) -> None:
    tolerances = [
        cli("export", plan_file(), "--option", f"activations={word}", "--format", "json").json
        for word in ("float", "int8")
    ]
    assert [answer["tolerance"] for answer in tolerances] == [1e-3, 2e-2]


def test_help_teaches(cli: Any) -> None:
    answer = cli("export", "--help")
    assert answer.status == 0
    words = " ".join(answer.out.replace("│", " ").split())
    for word in (
        "onnxruntime-genai",
        "openvino",
        "gguf",
        "--option",
        "NAME=VALUE",
        "Example: mixq",
    ):
        assert word in words
    assert "What fails leaves no file" in words


Arguments = tuple[str, ...]
BAD: dict[str, tuple[Arguments, dict[str, Any], int, str]] = {
    "runtime": (("--runtime", "onnx"), {}, USAGE, "runtime 'onnx' is unknown; choose one of"),
    "runtime-empty": (("--runtime", ""), {}, USAGE, "runtime '' is unknown"),
    "option-word": (("--option", "float"), {}, USAGE, "it takes NAME=VALUE; try activations"),
    "option-empty": (("--option", "activations="), {}, USAGE, "it takes NAME=VALUE"),
    "option-value": (("--option", "activations=int4"), {}, USAGE, "auto, int8, float"),
    "option-name": (("--option", "speed=11"), {}, USAGE, "does not take these options"),
    "option-called-model": (
        ("--option", "model=x", "--output", "a.onnx"), {}, USAGE, "does not take these options",
    ),
    "option-called-name": (("--option", "name=x"), {}, USAGE, "does not take these options"),
    "option-called-runtime": (("--option", "runtime=x"), {}, USAGE, "does not take these options"),
    "target": (("--runtime", "qdq", "--option", "target=tpu"), {}, USAGE, "onnx, tensorrt, qnn"),
    "no-folder": (("--output", "no/such/m.onnx"), {}, REFUSED, "there is no folder"),
    "a-folder": (("--output", "demo-run"), {}, REFUSED, "is a folder, but runtime onnxruntime"),
    "openvino-name": (
        ("--runtime", "openvino", "--output", "m.bin"), {}, REFUSED, "ends in .xml",
    ),
    "openvino-dynamic": (
        ("--runtime", "openvino"), {"activation": "dynamic", "group_size": None}, REFUSED,
        "search with --activations none",
    ),
    "qdq-two-bits": (("--runtime", "qdq"), {"bits": 2}, REFUSED, "search with --bits 32,8,4"),
    "qdq-tensorrt": (
        ("--runtime", "qdq", "--option", "target=tensorrt"), {}, REFUSED, "export with target",
    ),
    "gguf-architecture": (("--runtime", "gguf"), {}, REFUSED, "DigitsNet"),
    "mlx-architecture": (("--runtime", "mlx"), {}, REFUSED, "DigitsNet"),
    "genai-architecture": (("--runtime", "onnxruntime-genai"), {}, REFUSED, "DigitsNet"),
    "transformers-architecture": (("--runtime", "transformers"), {}, REFUSED, "DigitsNet"),
    "model": (("--model", "tiny.py:load"), {}, REFUSED, "search again for this model"),
    "model-missing": (("--model", "no.py:load"), {}, REFUSED, "no.py"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_one_line_and_leave_no_file(
    name: str, cli: Any, plan_file: Any, listing: Any
) -> None:
    arguments, fields, status, message = BAD[name]
    plan = plan_file(**fields)
    before = listing()
    answer = cli("export", plan, *arguments)
    assert message in answer.error
    assert (answer.status, answer.out) == (status, "")
    assert {item for item in listing() - before if "__pycache__" not in item} == set()


@pytest.mark.parametrize("text", [None, "", "{}", "[]"])
def test_plans_that_cannot_be_read_are_refused(text: str | None, cli: Any, listing: Any) -> None:
    if text is not None:
        Path("broken.json").write_text(text)
    before = listing()
    answer = cli("export", "broken.json")
    assert "broken.json" in answer.error
    assert answer.status == REFUSED
    assert listing() == before


def test_a_failed_verification_keeps_the_old_file(
    cli: Any, plan_file: Any, listing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixq.export.verify.output_difference", lambda source, session: 0.5)
    Path("model.onnx").write_text("old")
    plan = plan_file()
    before = listing()
    answer = cli("export", plan)
    assert "onnxruntime computes outputs that differ from the plan's by 0.5" in answer.error
    assert (answer.status, answer.out) == (REFUSED, "")
    assert listing() == before
    assert Path("model.onnx").read_text() == "old"
