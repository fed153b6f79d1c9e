"""examples/llama.py on a Llama so small that a quick run takes seconds."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mixq.plan import Plan

from ..export.gguf_models import tiny, tokenizer_folder

ROOT = Path(__file__).parents[2]
WORDS = (
    *("the", "a", "cat", "dog", "cow", "hen", "fox", "bee", "ant", "owl", "saw"),
    *("met", "fed", "led", "and", "or", "but", "so", "red", "old", "big", "wee"),
)

transformers = pytest.importorskip("transformers", reason="an extra")
for name in ("accelerate", "lm_eval", "onnxruntime", "gguf", "cyllama"):
    pytest.importorskip(name, reason="an extra")


def example() -> Any:
    spec = importlib.util.spec_from_file_location("example_llama", ROOT / "examples" / "llama.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with GPT-2's way of splitting text, which llama.cpp knows."""
    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    model: Any = tiny("llama", max_position_embeddings=256)
    model.save_pretrained(path)
    return tokenizer_folder(path)


def lines() -> list[str]:
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=60)) for _ in range(40)]


def test_a_quick_run_leaves_verified_files(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    torch.set_num_threads(1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    module = example()
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(lines()), encoding="utf-8")
    output = tmp_path / "build"
    output.mkdir()
    rows = module.build(folder, module.read(texts), output, 5.0, module.PACES["quick"])
    assert list(rows) == ["original", "plan", "onnxruntime", "gguf"]
    plan = Plan.load(output / "run" / "plan.json")
    assert plan.predicted.compression >= 5
    assert rows["plan"]["bytes"] == plan.predicted.weight_bytes
    for name, file in (("onnxruntime", "model.onnx"), ("gguf", "model.gguf")):
        assert (output / file).stat().st_size == rows[name]["bytes"]
        # Of one plan: what runtimes may round is bounded by what `export` lets pass, 5%.
        assert rows[name]["perplexity"] == pytest.approx(rows["plan"]["perplexity"], rel=0.05)
    assert rows["onnxruntime"]["accuracy"] == rows["plan"]["accuracy"]
    shown = capsys.readouterr().out
    assert "perplexity  next_words" in shown.splitlines()[-5]


def test_the_task_asks_for_what_comes_next(tmp_path: Path) -> None:
    task = example().write_task(tmp_path / "tasks", lines(), 10)
    asked = [json.loads(line) for line in (task / "next_words.jsonl").read_text().splitlines()]
    assert len(asked) == 10
    for document, line in zip(asked, lines(), strict=False):
        assert len(set(document["choices"])) == 4
        whole = f"{document['context']} {document['choices'][document['gold']]}"
        assert line.startswith(whole)


def test_too_few_texts_are_said(folder: Path) -> None:
    words = transformers.AutoTokenizer.from_pretrained(folder)
    with pytest.raises(SystemExit, match="only 0 of the texts have 128 tokens; 2 are needed"):
        example().blocks(words, ["short"] * 9, 128, 2)
