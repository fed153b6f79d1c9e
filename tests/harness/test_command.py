"""mixq evaluate --tasks: from a file to a table, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from mixq.cli.main import run
from mixq.harness.score import Score
from mixq.report.harness_table import verdict

from .conftest import ANIMALS, Files


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str


Evaluate: TypeAlias = Callable[..., Answer]


@pytest.fixture
def evaluate(
    files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Evaluate:
    """`mixq evaluate TARGET --model FOLDER ...`."""
    monkeypatch.setenv("MIXQ_TRACEBACK", "1")

    def invoke(target: Path, *options: object) -> Answer:
        given = ["evaluate", target, "--model", files.folder, *options]
        status = run([str(argument) for argument in given])
        printed = capsys.readouterr()
        return Answer(status, printed.out, printed.err)

    return invoke


def harness(files: Files, task: str, **options: Any) -> dict[str, float]:
    """What lm_eval itself says of the folder."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    from mixq.harness.library import quiet

    with quiet():
        found: Any = simple_evaluate(
            "hf", model_args={"pretrained": str(files.folder), "dtype": "float32"}, device="cpu",
            tasks=[task], bootstrap_iters=10, batch_size=2, **options,
            task_manager=TaskManager(include_path=str(files.tasks), include_defaults=False),
        )  # fmt: skip
    values: dict[str, float] = found["results"][task]
    return values


def test_scores_of_the_original_are_the_harness_s(files: Files, evaluate: Evaluate) -> None:
    answer = evaluate(
        files.plan, "--tasks", "tiny_choice,tiny_text,tiny_write", "--include-path", files.tasks,
        "--format", "json",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    scores = {(s["task"], s["metric"]): s for s in json.loads(answer.out)["scores"]}
    for task in ("tiny_choice", "tiny_text", "tiny_write"):
        expected = harness(files, task)
        for metric in (metric for name, metric in scores if name == task):
            # Sums of logarithms in two orders, divided by words and raised: see test_models.
            wanted = expected[f"{metric},none"]
            assert scores[task, metric]["original"] == pytest.approx(wanted, rel=1e-3), metric
    text = scores["tiny_text", "bits_per_byte"]
    assert text["documents"] == len(ANIMALS)
    assert text["paired"]
    assert text["difference"] == pytest.approx(text["value"] - text["original"])
    # Documents are alike for both, so the difference is known better than either.
    assert text["difference_standard_error"] < text["standard_error"]


@pytest.mark.parametrize("target", ["artifact", "onnx"])
def test_a_table_and_a_file(files: Files, evaluate: Evaluate, tmp_path: Path, target: str) -> None:
    output = tmp_path / "scores.json"
    answer = evaluate(
        getattr(files, target), "--tasks", "tiny", "--include-path", files.tasks, "--limit", "3",
        "--output", output, "--seed", "5", "--apply-chat-template",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    for words in ("tiny_text", "bits_per_byte ↓", "acc ↑", "the first 3 documents", str(output)):
        assert words in answer.out
    lines = answer.err.splitlines()
    assert lines
    assert all(line.startswith("evaluating ") for line in lines)
    document = json.loads(output.read_text(encoding="utf-8"))
    assert document["model"]["kind"] == target
    assert document["settings"]["limit"] == 3
    assert document["versions"]["lm_eval"]
    (group,) = (s for s in document["scores"] if s["task"] == "tiny")
    (choice,) = (
        s for s in document["scores"] if (s["task"], s["metric"]) == ("tiny_choice", "acc")
    )
    assert group["value"] == choice["value"]
    assert group["difference_standard_error"] == choice["difference_standard_error"]
    assert (group["depth"], choice["depth"], choice["documents"]) == (0, 1, 3)
    assert document["results"]["results"]["tiny_choice"]["acc,none"] == choice["value"]


def test_the_original_may_be_left_out(files: Files, evaluate: Evaluate) -> None:
    answer = evaluate(
        files.onnx, "--tasks", "tiny_choice", "--include-path", files.tasks, "--no-original",
        "--limit", "2",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    assert "original" not in answer.out + answer.err


REFUSED: dict[str, tuple[str, list[str], int, str]] = {
    "unread": ("plan", ["--tasks", "tiny", "--metric", "kl"], 2, "--metric is not read with"),
    "for-tasks": ("plan", ["--limit", "3"], 2, "--limit is for tasks"),
    "no-name": ("plan", ["--tasks", ","], 2, "must name one at least"),
    "limit": ("plan", ["--tasks", "tiny", "--limit", "0"], 2, "--limit is 0"),
    "threads": ("plan", ["--tasks", "tiny", "--threads", "0"], 2, "--threads is 0"),
    "onnx-alone": ("onnx", [], 2, "is an ONNX file, which is evaluated on --tasks"),
    "folder": ("tasks", ["--tasks", "tiny"], 2, "has no genai_config.json"),
    "no-place": ("plan", ["--tasks", "x", "--output", "/nowhere/a.json"], 2, "lies in no folder"),
    "absent": ("absent", ["--tasks", "tiny"], 2, "does not exist"),
}


@pytest.mark.parametrize(("target", "options", "status", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals(
    files: Files, evaluate: Evaluate, target: str, options: list[str], status: int, words: str
) -> None:
    answer = evaluate(getattr(files, target, Path("absent")), *options)
    assert answer.status == status
    (line,) = answer.err.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_without_the_harness_it_is_named_and_nothing_else_suffers(
    files: Files, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    answer = evaluate(files.plan, "--tasks", "tiny", "--include-path", files.tasks)
    assert answer.status == 1
    assert "pip install 'mixq[lm-eval]'" in answer.err
    texts = tmp_path / "texts.txt"
    texts.write_text("The cat sat on the mat and looked at the dog. " * 20, encoding="utf-8")
    assert evaluate(files.plan, "--calibration", texts).status == 0


def score(difference: float | None, error: float | None, better: bool | None = True) -> Score:
    return Score("t", "m", "none", 0, 9, better, 0.5, 0.1, 0.4, 0.1, difference, error, True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (score(0.0, 0.0), "equal"),
        (score(0.2, 0.1), "within 2 standard errors"),
        (score(0.21, 0.1), "better"),
        (score(-0.21, 0.1), "worse"),
        (score(-0.21, 0.1, better=False), "better"),
        (score(0.21, 0.1, better=None), "differs"),
        (score(0.21, None), ""),
        (score(None, None), ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_verdicts(given: Score, words: str) -> None:
    assert verdict(given) == words
