"""Truncated and hostile files: one line that names the file, never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

DEEP = "[" * 100_000
HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "truncated": b'{"schema_version": 1, "layers": {"a": ',
    "not-utf8": b"\xff\xfe\x00{}",
    "deep": DEEP.encode(),
    "list": b"[]",
    "null": b"null",
    "nan": b'{"schema_version": 1, "seed": NaN}',
    "huge-number": b'{"schema_version": ' + b"9" * 5000 + b"}",
    "other-version": b'{"schema_version": 99}',
    "duplicate": b'{"schema_version": 1, "schema_version": 1}',
    "markup": b'{"schema_version": "[/red]\\u001b[31m"}',
    "zeros": bytes(4096),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(
    "command",
    [
        ("plan", "show", "bad.json"),
        ("plan", "check", "bad.json", "--model", "demo"),
        ("plan", "diff", "bad.json", "bad.json"),
        ("apply", "bad.json"),
        ("evaluate", "bad.json"),
    ],
    ids=lambda command: "-".join(command[:2]),
)
def test_hostile_plan(cli: Callable[..., Any], command: tuple[str, ...], content: bytes) -> None:
    Path("bad.json").write_bytes(content)
    answer = cli(*command)
    assert answer.status == 1
    assert "bad.json" in answer.error
    assert "\x1b" not in answer.err
    assert answer.out == ""
    assert not Path("model.mixq.safetensors").exists()


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_frontier(cli: Callable[..., Any], demo_run: Path, content: bytes) -> None:
    before = (demo_run / "pareto.html").read_bytes()
    (demo_run / "frontier.json").write_bytes(content)
    answer = cli("report", demo_run)
    assert answer.status == 1
    assert "frontier" in answer.error
    assert (demo_run / "pareto.html").read_bytes() == before


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_run_file(search: Callable[..., Any], content: bytes) -> None:
    assert search("--target-compression", "5").status == 0
    plan = Path("run/plan.json").read_bytes()
    Path("run/run.json").write_bytes(content)
    refused = search("--target-compression", "5")
    assert refused.status == 1
    assert "--overwrite" in refused.error
    assert search("--target-compression", "5", "--overwrite").status == 0
    assert Path("run/plan.json").read_bytes() == plan


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "no json",
        DEEP,
        '{"unit": "0.weight", "format": "w8g64", "errors": "many"}',
        '{"unit": "0.weight", "format": "w8g64", "errors": null}',
        '{"unit": "0.weight", "format": "w8g64", "errors": [NaN]}',
        '{"unit": "0.weight", "format": "w8g64", "errors": [-1.0]}',
        '{"unit": "0.weight", "format": "w8g64", "errors": []}',
    ],
    ids=[
        *("object", "text", "deep", "errors-text", "errors-null"),
        *("errors-nan", "errors-negative", "errors-empty"),
    ],
)
def test_hostile_measurements(search: Callable[..., Any], line: str) -> None:
    assert search("--target-compression", "5").status == 0
    stores = sorted(Path("run").glob("measurements-*.jsonl"))
    assert len(stores) == 2  # of the layers alone, and of changes around the plan
    for store in stores:
        whole = store.read_bytes()
        store.write_text(line + "\n", encoding="utf-8")
        answer = search("--target-compression", "5")
        assert answer.status == 1, "a measurement that cannot be was believed"
        assert store.name in answer.error
        store.write_bytes(whole)


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "no json",
        "[]",
        '{"op_code": 99, "worker_id": "x"}',
        '{"op_code": "x"}',
    ],
)
def test_hostile_journal(search: Callable[..., Any], line: str) -> None:
    assert search("--target-compression", "5").status == 0
    journal = Path("run/study.journal")
    journal.write_bytes(f"{line}\n".encode() + journal.read_bytes())
    answer = search("--target-compression", "4")
    assert answer.status == 1
    assert "study.journal" in answer.error
    assert "delete the file" in answer.error


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown-layer": (
        lambda p: p["layers"].update({"no.such": p["layers"]["position"]}),
        "no.such",
    ),
    "unknown-width": (lambda p: p["layers"]["position"].update(bits=3), "layers.position"),
    "text-width": (lambda p: p["layers"]["position"].update(bits="8"), "layers.position"),
    "other-shape": (lambda p: p["layers"]["position"].update(shape=[64, 16]), "position"),
    "other-matrix": (
        lambda p: p["layers"]["position"].update(matrix=[1, 1], shape=[1, 1]),
        "position",
    ),
    "no-layers": (lambda p: p.update(layers={}), "at least one layer"),
    "negative-bytes": (
        lambda p: p["layers"]["position"].update(weight_bytes=-1),
        "weight_bytes",
    ),
    "another-model": (lambda p: p["model"].update(fingerprint="sha256:0000"), "search again"),
    "escape-in-name": (
        lambda p: p["layers"].update({"\u001b[31m": p["layers"]["position"]}),
        "\\x1b[31m",
    ),
}


@pytest.mark.parametrize(("edit", "words"), EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("command", ["apply", "evaluate", "check"])
def test_edited_plan(
    cli: Callable[..., Any],
    demo_run: Path,
    command: str,
    edit: Callable[[Any], object],
    words: str,
) -> None:
    path = demo_run / "plan.json"
    plan = json.loads(path.read_text(encoding="utf-8"))
    edit(plan)
    path.write_text(json.dumps(plan), encoding="utf-8")
    call = ("plan", "check", path, "--model", "demo") if command == "check" else (command, path)
    answer = cli(*call)
    assert answer.status == 1
    assert words in answer.error
    assert not Path("model.mixq.safetensors").exists()
    answer.err.encode()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda p: p["predicted"].update(compression=9.0), "compression 9"),
        (lambda p: p["predicted"].update(weight_bytes=9), "in all"),
        (lambda p: p["layers"]["wide.weight"].update(weight_bytes=9), "says 9 bytes"),
        (lambda p: p["layers"]["wide.weight"].update(bits=2), "in w2"),
        (lambda p: p.update(budget={"compression": 7.0}), "demands compression 7"),
        (lambda p: p.update(budget={"max_error": 1e-9}), "demands max_error 1e-09"),
    ],
    ids=["compression", "total", "layer", "bits", "budget", "error"],
)
def test_a_plan_that_does_not_add_up(
    cli: Callable[..., Any], demo_run: Path, edit: Callable[[Any], object], words: str
) -> None:
    path = demo_run / "plan.json"
    plan = json.loads(path.read_text(encoding="utf-8"))
    edit(plan)
    path.write_text(json.dumps(plan), encoding="utf-8")
    answer = cli("plan", "check", path)
    assert answer.status == 1
    assert words in answer.error


def test_a_plan_for_another_model(cli: Callable[..., Any], demo_run: Path) -> None:
    for call in (("apply",), ("evaluate",), ("plan", "check")):
        answer = cli(*call, demo_run / "plan.json", "--model", "tiny.py:load")
        assert answer.status == 1
        assert "search again for this model" in answer.error


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, -1], ids=lambda keep: f"first-{keep}")
def test_truncated_artifact(cli: Callable[..., Any], demo_run: Path, keep: int) -> None:
    assert cli("apply", demo_run / "plan.json", "--output", "a.safetensors").status == 0
    whole = Path("a.safetensors").read_bytes()
    Path("a.safetensors").write_bytes(whole[:keep])
    answer = cli("evaluate", "a.safetensors")
    assert answer.status == 1
    assert "a.safetensors" in answer.error


def test_artifact_of_someone_else(cli: Callable[..., Any], demo_run: Path) -> None:
    save_file({"a": torch.zeros(3)}, "foreign.safetensors")
    answer = cli("evaluate", "foreign.safetensors")
    assert answer.status == 1
    assert "foreign.safetensors" in answer.error
    assert cli("apply", demo_run / "plan.json", "--output", "a.safetensors").status == 0
    answer = cli("evaluate", "a.safetensors", "--model", "tiny.py:load")
    assert answer.status == 1
    assert "architecture" in answer.error


def test_apply_is_whole_or_not_at_all(cli: Callable[..., Any], demo_run: Path) -> None:
    Path("file").touch()
    for place in ("file/a.safetensors", "/proc/a.safetensors", "nowhere/a.safetensors"):
        answer = cli("apply", demo_run / "plan.json", "--output", place)
        assert answer.status == 1
        assert place in answer.error
        assert answer.out == ""


@pytest.mark.parametrize("content", [b"", b"[chip", b"\xff", b"a = 1", b"[" * 9999], ids=repr)
def test_hostile_profile(cli: Callable[..., Any], content: bytes) -> None:
    Path("chip.toml").write_bytes(content)
    for command in (
        ("search", "--target-compression", "6", "--hardware", "chip.toml"),
        ("hardware", "show", "chip.toml"),
    ):
        answer = cli(*command)
        assert answer.status == 1
        assert "chip.toml" in answer.error


@pytest.mark.parametrize("name", ["c.safetensors", "c.npz"])
@pytest.mark.parametrize("keep", [0, 9, 60], ids=lambda keep: f"first-{keep}")
def test_truncated_calibration(search: Callable[..., Any], name: str, keep: int) -> None:
    inputs = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    save_file({"input": inputs}, "c.safetensors")
    np.savez("c.npz", input=inputs.numpy())
    assert search("--target-compression", "5", "--calibration", name, model="bare").status == 0
    shutil.rmtree("run")
    Path(name).write_bytes(Path(name).read_bytes()[:keep])
    answer = search("--target-compression", "5", "--calibration", name, model="bare")
    assert answer.status == 1
    assert name in answer.error
