"""SmolLM2 in onnxruntime-genai says what it said, at 8 and 4 bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixq.export.genai.genai import Genai
from mixq.export.source import Source
from mixq.export.verify import check_bytes, check_outputs, output_difference
from mixq.formats import Format

from ...example_models import load
from ...plans import plan_for

PROMPT = "The capital of France is"


@pytest.mark.slow
def test_a_mixed_smollm2_knows_paris(tmp_path: Path) -> None:
    model, calibration, _ = load("smollm2")
    plan = plan_for(model, Format.parse("w8g64"), Format.parse("w4g64-zp"))
    source = Source.of(model, plan, calibration)
    runtime = Genai(activations="int8")
    written = runtime.write(source, tmp_path / "folder")
    check_bytes(written)
    # The tables of rotary positions take the last 0.09 of it.
    floats = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert floats / written.tensor_bytes > 4.68
    session = runtime.open(tmp_path / "folder")
    assert session.generate(PROMPT, 4).startswith(" Paris.")
    check_outputs(output_difference(source, session), written.tolerance, runtime.name)
