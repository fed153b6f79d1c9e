"""SmolLM2 as a mixed GGUF file in llama.cpp; skipped where the example's wheels are missing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mixq.export.gguf import Gguf
from mixq.export.gguf.session import LlamaCpp
from mixq.export.runtime import Written
from mixq.export.source import Source
from mixq.formats import Format

from ..example_models import load
from ..plans import plan_for

gguf: Any = pytest.importorskip("gguf", reason="an extra")
pytest.importorskip("cyllama", reason="an extra")

pytestmark = pytest.mark.slow
FORMATS = ("w8g32", "w4g32-affine", "w4g32-affine", "w8g64-signed", "w4g32-affine", "w16")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Any, Path, Written]:
    model, calibration, evaluate = load("smollm2")
    plan = plan_for(model, *(Format.parse(name) for name in FORMATS))
    source = Source.of(model, plan, calibration.take(2))
    path = tmp_path_factory.mktemp("gguf") / "smollm2.gguf"
    Gguf().check(source)
    return source, evaluate, path, Gguf().write(source, path)


@pytest.fixture(scope="module")
def session(mixed: tuple[Source, Any, Path, Written]) -> LlamaCpp:
    return Gguf().open(mixed[2])


def test_the_file_is_as_small_as_predicted(mixed: tuple[Source, Any, Path, Written]) -> None:
    source, _, path, written = mixed
    assert written.tensor_bytes == written.predicted_bytes
    # Groups of 32 cost as much there as in the plan; those of 64 repeat half of their scales.
    repeated = sum(
        unit.packed.rows * unit.packed.columns // 64 * 2
        for unit in source.units.values()
        if unit.packed.format.group_size == 64
    )
    assert written.predicted_bytes == source.plan.predicted.weight_bytes + repeated
    metadata = path.stat().st_size - written.tensor_bytes
    assert 0 < metadata < 2_000_000  # nearly all of it is the tokenizer
    kinds = {item.tensor_type.name for item in gguf.GGUFReader(path).tensors}
    assert kinds == {"F32", "F16", "Q8_0", "Q4_1"}


def test_it_says_where_france_is_governed(session: LlamaCpp) -> None:
    assert session.generate("The capital of France is", 8).strip().startswith("Paris")
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    assert "Paris" in session.generate(f"{question}<|im_start|>assistant\n", 16)


def test_outputs_and_perplexity_are_those_of_the_plan(
    mixed: tuple[Source, Any, Path, Written], session: LlamaCpp
) -> None:
    source, evaluate, _, written = mixed
    batch = source.calibration.batches[0]
    assert isinstance(batch, dict)
    found = session.run(batch)["logits"]
    with torch.no_grad():
        expected = source.applied(**batch).logits
    error = (found - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert float(error) < written.tolerance
    windows = evaluate.windows[:4]
    own = type(evaluate)(windows)(source.applied)["perplexity"]
    # Rounded activations move the logarithm of one text's perplexity by a percent at most.
    assert abs(math.log(session.perplexity(windows) / own)) < 1e-2


def test_tokens(mixed: tuple[Source, Any, Path, Written], session: LlamaCpp) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(mixed[0].folder, local_files_only=True)
    for text in ("The capital of France is Paris.", "  12,345 naïve\n\n🦙 it's WE'RE\t\tx"):
        assert session.tokenize(text) == tokenizer(text, add_special_tokens=False).input_ids
