"""What models answer: as lm_eval's own class for transformers answers, and as arithmetic says."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mixq.errors import ExportError, ModelError
from mixq.export.onnx.session import OnnxSession
from mixq.harness.candidate import candidate, check_causal, load_tokenizer, original
from mixq.harness.progress import Counter
from mixq.sources import load_model

from .conftest import END, WINDOW, Files

TOLERANCE = 1e-4
"""Relative, of sums of up to 200 logarithms in 32 bits (2e-7 each) from two orders of summing."""
LONG = "There was a fox. " * 9
"""153 tokens, more than two windows of 64."""
CONTINUED = (
    ("a cat", " sat"), ("a cat", " s"), ("a cat", " t"), ("", "hello"), ("a dog ", "ran off"),
    (LONG, " away"), ("x", "y"), ("two\nlines", "\nthree"),
)  # fmt: skip
TEXTS = ("short", LONG, LONG * 2, "The owl sees. " * 5)
WRITING = (
    ("a cat", {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}),
    ("a much longer text about dogs", {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}),
    (LONG, {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}),
    ("a cow", {"until": [], "max_gen_toks": 12, "do_sample": False}),
)


def requests(kind: str, arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    made: Any = Instance
    return [
        made(kind, {}, one if isinstance(one, tuple) else (one,), index)
        for index, one in enumerate(arguments)
    ]


def answers(model: Any) -> tuple[list[Any], list[float], list[str]]:
    return (
        model.loglikelihood(requests("loglikelihood", CONTINUED)),
        model.loglikelihood_rolling(requests("loglikelihood_rolling", TEXTS)),
        model.generate_until(requests("generate_until", WRITING)),
    )


@cache
def base(folder: Path) -> tuple[Any, Any]:
    return load_model(str(folder)).model, load_tokenizer(folder)


def asked(files: Files, target: Path | None, batch_size: int = 3) -> Any:
    model, tokenizer = base(files.folder)
    chosen = (
        original(model, tokenizer, "tiny")
        if target is None
        else candidate(target, model, tokenizer)
    )
    return chosen.build(batch_size, Counter("model"))


@pytest.fixture(scope="module")
def reference(files: Files) -> tuple[list[Any], list[float], list[str]]:
    """Of the harness's own class, which loads the folder itself."""
    from lm_eval.models import huggingface

    made: Any = huggingface.HFLM
    return answers(made(str(files.folder), device="cpu", dtype="float32", batch_size=1))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_an_unquantized_model_answers_as_the_harness_says(
    files: Files, reference: Any, kind: str, batch_size: int
) -> None:
    found = answers(asked(files, files.exact if kind == "onnx" else None, batch_size))
    same_answers(found, reference)


@pytest.mark.parametrize("kind", ["plan", "onnx"])
def test_a_quantized_model_answers_alike_wherever_it_runs(files: Files, kind: str) -> None:
    same_answers(
        answers(asked(files, getattr(files, kind))), answers(asked(files, files.artifact))
    )


def same_answers(found: Any, expected: Any) -> None:
    for (value, greedy), (expected_value, expected_greedy) in zip(
        found[0], expected[0], strict=True
    ):
        assert value == pytest.approx(expected_value, rel=TOLERANCE)
        assert greedy == expected_greedy
    assert found[1] == pytest.approx(expected[1], rel=TOLERANCE)
    assert found[2] == expected[2]


def test_quantization_changes_the_answers(files: Files, reference: Any) -> None:
    """So that agreement above says something."""
    quantized = answers(asked(files, files.artifact))
    assert quantized[1] != pytest.approx(reference[1], rel=100 * TOLERANCE)


def test_log_likelihoods_are_those_of_the_logits(files: Files) -> None:
    model, tokenizer = base(files.folder)
    context, continuation = "a cat", " sat on"
    ids = torch.tensor([tokenizer.encode(context + continuation)])
    count = len(continuation)  # tokens are bytes
    with torch.no_grad():
        logs = model(ids).logits[0].log_softmax(-1)
    expected = logs[-count - 1 : -1].gather(1, ids[0, -count:, None]).sum().item()
    ((value, _),) = asked(files, None).loglikelihood(
        requests("loglikelihood", ((context, continuation),))
    )
    assert value == pytest.approx(expected, rel=TOLERANCE)


def test_texts_that_end_alike_are_scored_each_by_itself(files: Files) -> None:
    """lm_eval 0.4.13 takes the wrong rows where tokens are shared and continuations are not."""
    pairs = (("There was a", " fox"), ("There was", " a fox"), ("There", " was a fox"))
    together = asked(files, None).loglikelihood(requests("loglikelihood", pairs))
    alone = [
        asked(files, None).loglikelihood(requests("loglikelihood", (pair,)))[0] for pair in pairs
    ]
    assert [value for value, _ in together] == pytest.approx([value for value, _ in alone])
    assert len({round(value, 3) for value, _ in alone}) == len(pairs)


@pytest.mark.parametrize("kind", ["artifact", "onnx"])
def test_writing_stops_where_it_is_told(files: Files, kind: str) -> None:
    model = asked(files, getattr(files, kind))
    options = {"until": [], "max_gen_toks": 12, "do_sample": False}
    (whole,) = model.generate_until(requests("generate_until", (("a cow", options),)))
    assert whole
    stop = whole[1]
    stopped = {**options, "until": [stop]}
    (cut,) = model.generate_until(requests("generate_until", (("a cow", stopped),)))
    assert cut == whole.split(stop)[0]


def test_sampling_follows_the_seed(files: Files) -> None:
    model = asked(files, files.artifact)
    options = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.5}
    written = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        written += model.generate_until(requests("generate_until", (("a cow", options),)))
    assert written[0] == written[1] != written[2]


def test_generation_keeps_a_cache_in_pytorch_alone(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = asked(files, files.artifact)
    seen: list[int] = []
    forward = type(model.model).forward

    def counted(self: Any, input_ids: Any = None, *args: Any, **options: Any) -> Any:
        seen.append(input_ids.shape[1])
        return forward(self, input_ids, *args, **options)

    monkeypatch.setattr(type(model.model), "forward", counted)
    model.generate_until(requests("generate_until", WRITING[:1]))
    assert seen[0] == len("a cat")
    assert set(seen[1:]) == {1}


def test_a_genai_folder_answers_as_its_plan(files: Files, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai", reason="an extra")
    import mixq

    model, _ = base(files.folder)
    folder = tmp_path / "genai"
    mixq.export(
        model, mixq.Plan.load(files.plan), folder, runtime="onnxruntime-genai",
        calibration=[{"input_ids": torch.arange(24).view(2, 12)}], tokenizer=files.folder,
        activations="float",
    )  # fmt: skip
    found, expected = asked(files, folder), asked(files, files.artifact)
    likely = requests("loglikelihood", CONTINUED)
    assert [value for value, _ in found.loglikelihood(likely)] == pytest.approx(
        [value for value, _ in expected.loglikelihood(likely)], rel=1e-3
    )
    texts = requests("loglikelihood_rolling", TEXTS)
    assert found.loglikelihood_rolling(texts) == pytest.approx(
        expected.loglikelihood_rolling(texts), rel=1e-3
    )
    writing = requests("generate_until", WRITING[:1])
    assert found.generate_until(writing) == expected.generate_until(writing)


def test_the_model_is_left_as_it_was(files: Files) -> None:
    model, _ = base(files.folder)
    asked(files, None)
    assert "tie_weights" not in model.__dict__
    assert asked(files, None).max_length == WINDOW
    assert asked(files, None).prefix_token_id == END


class _Session(OnnxSession):
    def __init__(self, *inputs: str) -> None:
        self.input_names, self.output_names = inputs, ("logits",)


@pytest.mark.parametrize("inputs", [("x",), ("input_ids", "past_key_values.0.key")], ids=str)
def test_other_files_are_refused(files: Files, inputs: tuple[str, ...]) -> None:
    from mixq.harness.session_model import SessionModel

    with pytest.raises(ExportError, match="export it from a causal language model"):
        SessionModel(_Session(*inputs), base(files.folder)[0].config)


def test_no_language_model_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear is no causal language model of transformers"):
        check_causal(torch.nn.Linear(2, 2))
