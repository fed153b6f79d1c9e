"""A folder in which the documentation's commands mean something: a user's things, tiny."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from .blocks import ROOT

MODELS = '''
"""A user's own package: a small network, inputs of its kind and a judge."""

import torch
from torch import nn

SIZES = (32, 128, 128, 10)


def inputs(samples, seed):
    return torch.randn(samples, SIZES[0], generator=torch.Generator().manual_seed(seed))


def load():
    torch.manual_seed(0)
    layers = []
    for name, (rows, columns) in zip(("first", "middle", "head"), zip(SIZES, SIZES[1:])):
        layers += [(name, nn.Linear(rows, columns)), (f"{name}_relu", nn.ReLU())]
    model = nn.Sequential()
    for name, layer in layers[:-1]:
        model.add_module(name, layer)
    model.eval()
    x = inputs(100, 1)
    with torch.no_grad():
        labels = model(x).argmax(1)

    def evaluate(candidate):
        with torch.no_grad():
            return {"accuracy": float((candidate(x).argmax(1) == labels).float().mean())}

    return model, list(torch.split(inputs(32, 2), 4)), evaluate


def loss(outputs, batch):
    return (outputs.logsumexp(-1) - outputs[..., 0]).float()
'''
TEXTS = [
    f"the {size} {colour} {animal} {verb} over the {place} and then it sleeps"
    for size, colour in (("small", "brown"), ("large", "grey"))
    for animal in ("fox", "dog", "cat")
    for verb, place in (("jumps", "fence"), ("runs", "hill"))
]


def furnish(folder: Path) -> None:
    """Puts the user's things into a folder, and links to what lies in the repository."""
    package = folder / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "models.py").write_text(MODELS, encoding="utf-8")
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    for name in ("examples", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    with (ROOT / "benchmarks/data/published.csv").open(encoding="utf-8", newline="") as published:
        rows = list(csv.reader(published))
    with (folder / "measured.csv").open("w", encoding="utf-8", newline="") as measured:
        csv.writer(measured).writerows(rows[:21])


def encoder_folder(folder: Path) -> None:
    """A Hugging Face folder of a tiny BERT with a tokenizer of the words in `TEXTS`."""
    import torch
    import transformers

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", *sorted({word for text in TEXTS for word in text.split()})]
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    model: Any = transformers.BertModel(config)
    model.save_pretrained(folder)
    word_tokenizer(words).save_pretrained(folder)


def language_model_folder(folder: Path) -> None:
    """A Hugging Face folder of a tiny Llama with the same tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", *sorted({word for text in TEXTS for word in text.split()})]
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=128, max_position_embeddings=64,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    model: Any = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    word_tokenizer(words).save_pretrained(folder)


def word_tokenizer(words: list[str]) -> Any:
    import tokenizers
    import transformers

    vocabulary = {word: number for number, word in enumerate(words)}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast: Any = transformers.PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
