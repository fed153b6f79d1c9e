"""A tiny Llama with a tokenizer of bytes, quantized files of it, and tasks of local files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import mixq
from mixq.formats import Format
from mixq.sources import load_model

from ..plans import plan_for

transformers = pytest.importorskip("transformers", reason="an extra")
pytest.importorskip("accelerate", reason="an extra")
pytest.importorskip("lm_eval", reason="an extra")
pytest.importorskip("onnxruntime", reason="an extra")

WINDOW = 64
END = 256
SIZES = {
    "vocab_size": 264, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": WINDOW,
    "bos_token_id": END, "eos_token_id": END, "pad_token_id": END, "tie_word_embeddings": True,
}  # fmt: skip
ANIMALS = ("cat", "dog", "cow", "hen", "fox", "bee", "ant", "owl")
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@dataclass(frozen=True)
class Files:
    """Where everything lies.

    Attributes:
        folder: of the model.
        plan, artifact, onnx: of one quantized model.
        exact: ONNX file of the model as it is.
        tasks: definitions.
    """

    folder: Path
    plan: Path
    artifact: Path
    onnx: Path
    exact: Path
    tasks: Path


@pytest.fixture(scope="session", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No network, caches of our own, one thread."""
    import datasets

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    root = tmp_path_factory.mktemp("llama")
    folder = root / "tiny"
    write_model(folder)
    model = load_model(str(folder)).model
    plan = plan_for(model, Format.parse("w8g32"), Format.parse("w4g32-zp"))
    plan.save(root / "plan.json")
    mixq.save(plan.apply(model), root / "q.safetensors")
    calibration = [{"input_ids": torch.arange(24).view(2, 12)}]
    for name, chosen in (("q.onnx", plan), ("exact.onnx", plan_for(model, Format.parse("w32")))):
        mixq.export(model, chosen, root / name, calibration=calibration, activations="float")
    write_tasks(root / "tasks")
    names = ("plan.json", "q.safetensors", "q.onnx", "exact.onnx", "tasks")
    return Files(folder, *[root / name for name in names])


def write_model(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*letters, "<end>"])}
    words = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<end>", eos_token="<end>", pad_token="<end>",
        chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    with torch.no_grad():
        for parameter in model.parameters():
            # The initial 0.02 makes all tokens nearly equally likely, whatever stands before.
            parameter += 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(folder)


def write_tasks(folder: Path) -> None:
    """Multiple choice, perplexity of texts of several windows, and writing; and a group of all."""
    folder.mkdir()
    choices = ["yes", "no", "maybe so"]
    write_task(
        folder, "tiny_choice",
        [{"q": f"The {a} says {i}", "gold": i % 3} for i, a in enumerate(ANIMALS * 2)],
        output_type="multiple_choice", doc_to_text="{{q}}", doc_to_choice=choices,
        doc_to_target="gold", metric_list=[mean("acc"), mean("acc_norm")],
    )  # fmt: skip
    write_task(
        folder, "tiny_text",
        [{"text": f"There was a {a}. " * (2 + i)} for i, a in enumerate(ANIMALS)],
        output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
        metric_list=[{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    )  # fmt: skip
    write_task(
        folder, "tiny_write",
        [{"q": f"{a * (1 + i)} -> ", "a": "x"} for i, a in enumerate(ANIMALS)],
        output_type="generate_until", doc_to_text="{{q}}", doc_to_target="{{a}}",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
        metric_list=[mean("exact_match")],
    )  # fmt: skip
    group = {
        "group": "tiny", "task": ["tiny_choice", "tiny_text", "tiny_write"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(json.dumps(group), encoding="utf-8")


def write_task(folder: Path, name: str, rows: list[dict[str, Any]], **settings: Any) -> None:
    """JSON is YAML."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    definition = {
        "task": name, "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(data)}}, **settings,
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(json.dumps(definition), encoding="utf-8")


def mean(metric: str) -> dict[str, object]:
    return {"metric": metric, "aggregation": "mean", "higher_is_better": True}
